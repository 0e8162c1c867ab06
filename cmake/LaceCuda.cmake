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
