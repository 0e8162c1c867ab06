# lace_instruction_sets(OUT PART...)
# The code of each instruction set is compiled with its flags in files of its own, PART_SET.cpp for
# each PART and each set of this processor's kind; their names go to the variable OUT.
function(lace_instruction_sets out)
  set(avx2 -mavx2 -mfma -mf16c)
  set(avx512 ${avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl)
  set(avx512_bf16 ${avx512} -mavx512bf16)
  set(sets portable)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    list(APPEND sets avx2 avx512 avx512_bf16)
  endif()
  set(files "")
  foreach(suffix ${sets})
    foreach(part ${ARGN})
      set(file ${part}_${suffix}.cpp)
      # GCC 12 takes its own headers' undefined vectors, and arrays with initialisers, for unset.
      set_source_files_properties(${file} PROPERTIES
        COMPILE_OPTIONS "${${suffix}};-Wno-uninitialized;-Wno-maybe-uninitialized")
      list(APPEND files ${file})
    endforeach()
  endforeach()
  set(${out} ${files} PARENT_SCOPE)
endfunction()
