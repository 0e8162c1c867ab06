# lace_python_library(NAME SOURCES objects... LINKS targets...)
# The library lace/NAME.so of the Python package, from objects of src/ops. It has no run path:
# `import torch` has loaded libtorch before it. CUDA's runtime is linked statically, so that one
# package serves whatever runtime torch brings.
# `cmake --install … --component python` puts it below the prefix; a plain install leaves it out.
add_custom_target(lace_python)
function(lace_python_library name)
  if(LACE_SANITIZE)  # which looks at the rooms
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "SOURCES;LINKS" ${ARGN})
  set(target lace_python${name})
  add_library(${target} MODULE ${ARG_SOURCES})
  set(torch_libraries ${Libtorch_CPU_LIBRARY} ${Libtorch_C10_LIBRARY})
  if(name MATCHES "cuda")
    list(APPEND torch_libraries ${Libtorch_CUDA_LIBRARY} ${Libtorch_C10_CUDA_LIBRARY})
  endif()
  target_link_libraries(${target} PRIVATE lace::version lace::plan ${ARG_LINKS}
    -Wl,--push-state,--no-as-needed ${torch_libraries} -Wl,--pop-state)
  if(Libtorch_GOMP_LIBRARY)
    target_link_libraries(${target} PRIVATE ${Libtorch_GOMP_LIBRARY})
  else()
    target_link_options(${target} PRIVATE -fopenmp)
  endif()
  target_link_options(${target} PRIVATE -Wl,--allow-shlib-undefined -Wl,--exclude-libs,ALL -s)
  set_target_properties(${target} PROPERTIES
    PREFIX "" OUTPUT_NAME ${name} LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/python/lace
    BUILD_WITH_INSTALL_RPATH ON INSTALL_RPATH "" LINKER_LANGUAGE CXX
    CUDA_RUNTIME_LIBRARY Static LACE_STATIC_CUDART ON)
  # Sources beside the objects are compiled as those were, without libtorch's run path.
  target_include_directories(${target} PRIVATE ${CMAKE_SOURCE_DIR}/src ${CMAKE_SOURCE_DIR}/include)
  target_include_directories(${target} SYSTEM PRIVATE
    $<TARGET_PROPERTY:lace::libtorch,INTERFACE_INCLUDE_DIRECTORIES>)
  lace_flags(${target})
  install(TARGETS ${target} LIBRARY DESTINATION lace COMPONENT python EXCLUDE_FROM_ALL)
  add_dependencies(lace_python ${target})
endfunction()
