# What every target that sees libtorch shares: one precompiled header of torch/torch.h, built once.

add_library(lace_torch_pch OBJECT ${CMAKE_SOURCE_DIR}/cmake/torch_pch.cpp)
target_link_libraries(lace_torch_pch PRIVATE lace::libtorch)
target_compile_features(lace_torch_pch PRIVATE cxx_std_20)
lace_flags(lace_torch_pch)
set(LACE_SANITIZED_TORCH_FLAGS -O1 -g1)
if(LACE_SANITIZE)
  target_compile_options(lace_torch_pch PRIVATE ${LACE_SANITIZED_TORCH_FLAGS})
endif()
target_precompile_headers(lace_torch_pch PRIVATE
  <torch/torch.h> <torch/library.h> <algorithm> <array> <cmath> <cstdint> <filesystem> <fstream>
  <functional> <map> <memory> <optional> <sstream> <string> <string_view> <vector>)

# lace_use_torch(TARGET): links libtorch and reuses the precompiled header, whose flags (-fPIC, not
# an executable's -fPIE) the target then takes over.
function(lace_use_torch target)
  get_target_property(type ${target} TYPE)
  if(NOT type STREQUAL EXECUTABLE)
    target_link_libraries(${target} PUBLIC lace::libtorch)
  else()
    target_link_libraries(${target} PRIVATE lace::libtorch)
    set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
    target_compile_options(${target} PRIVATE -fPIC)
  endif()
  target_precompile_headers(${target} REUSE_FROM lace_torch_pch)
  if(LACE_SANITIZE)
    # libtorch's headers are large: less to optimise, and lines only to debug.
    target_compile_options(${target} PRIVATE ${LACE_SANITIZED_TORCH_FLAGS})
    if(type STREQUAL EXECUTABLE)
      target_sources(${target} PRIVATE ${CMAKE_SOURCE_DIR}/cmake/sanitizer_options.cpp)
      set_source_files_properties(${CMAKE_SOURCE_DIR}/cmake/sanitizer_options.cpp
        TARGET_DIRECTORY ${target} PROPERTIES SKIP_PRECOMPILE_HEADERS ON)
    endif()
  endif()
endfunction()

# lace_torch_room(NAME SOURCES files... [LINKS targets...] [PRIVATE_LINKS targets...])
# As lace_room, for a room that sees libtorch.
function(lace_torch_room name)
  lace_room(${name} ${ARGN})
  lace_use_torch(lace_${name})
endfunction()

# lace_torch_test(NAME SOURCES files... LINKS targets... [LABEL fast|slow|cuda])
# As lace_test, for a test that sees libtorch, which takes seconds to load with sanitizers.
function(lace_torch_test name)
  if(LACE_SANITIZE)
    list(APPEND ARGN ONE_PROCESS)
  endif()
  lace_test(${name} ${ARGN})
  lace_use_torch(test_${name})
endfunction()
