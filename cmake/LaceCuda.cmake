# The CUDA compiler and runtime. CUDA 13 as C++20 needs CMake 3.25.2 or newer: `scripts/setup cuda`
# puts one into .venv. The runtime is the shared one, which libtorch's wheel brings too.
if(NOT CMAKE_CUDA_COMPILER AND EXISTS /usr/local/cuda/bin/nvcc)
  set(CMAKE_CUDA_COMPILER /usr/local/cuda/bin/nvcc)
endif()
set(CMAKE_CUDA_ARCHITECTURES OFF)  # each kernel names its own
set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
enable_language(CUDA)
set(CMAKE_CUDA_FLAGS_RELEASE "-O3 -DNDEBUG --use_fast_math --expt-relaxed-constexpr")
find_package(CUDAToolkit 13 REQUIRED)

# What links the runtime, whichever room asks for it: the static one in targets that have
# LACE_STATIC_CUDART (cmake/LacePython.cmake).
set(LACE_CUDART
    $<IF:$<BOOL:$<TARGET_PROPERTY:LACE_STATIC_CUDART>>,CUDA::cudart_static,CUDA::cudart>)

# The Hopper kernels take CUTLASS's wrappers of the instructions: its headers come in a wheel.
file(GLOB _site_packages ${CMAKE_SOURCE_DIR}/.venv/lib/python3*/site-packages)
find_path(LACE_CUTLASS_INCLUDE cutlass/cutlass.h
          PATHS ${_site_packages} PATH_SUFFIXES cutlass_library/source/include)
if(NOT LACE_CUTLASS_INCLUDE)
  message(FATAL_ERROR "CUTLASS 4.2 is missing: run `make setup PRESET=cuda`, or give "
                      "-DLACE_CUTLASS_INCLUDE=…/include")
endif()
