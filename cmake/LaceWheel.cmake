# What `pip install .` and `make wheel` build: the Python package, with its CUDA library where there
# is a compiler for it, CUTLASS's headers and a torch with CUDA; else a note says what is missing.
find_program(nvcc nvcc PATHS /usr/local/cuda/bin)
find_package(Libtorch 2.11 REQUIRED)
file(GLOB site_packages ${CMAKE_SOURCE_DIR}/.venv/lib/python3*/site-packages
     ${Libtorch_ROOT}/..)
find_path(LACE_CUTLASS_INCLUDE cutlass/cutlass.h
          PATHS ${site_packages} PATH_SUFFIXES cutlass_library/source/include)
if(NOT nvcc)
  set(missing "nvcc")
elseif(NOT LACE_CUTLASS_INCLUDE)
  set(missing "CUTLASS 4.2 (pip install --no-deps nvidia-cutlass==4.2.0.0)")
elseif(NOT EXISTS ${Libtorch_ROOT}/lib/libtorch_cuda.so)
  set(missing "a torch with CUDA")
elseif(CMAKE_VERSION VERSION_LESS 3.25.2)
  set(missing "CMake 3.25.2")
endif()
if(missing)
  message(WARNING "lace: the package gets no CUDA library, as this is missing: ${missing}")
else()
  set(LACE_CUDA ON)
endif()
