# Finds libtorch inside an installed Python wheel of torch >= 2.11 and defines lace::libtorch.
# The wheel's own CMake config insists on a CUDA toolkit even for CPU use, so its libraries are
# linked directly. Set Libtorch_ROOT (the wheel's torch/ folder) or Python3_EXECUTABLE to choose.
if(NOT Libtorch_ROOT)
  if(NOT Python3_EXECUTABLE)
    foreach(candidate ${CMAKE_SOURCE_DIR}/.venv/bin/python3)
      if(EXISTS ${candidate})
        set(Python3_EXECUTABLE ${candidate})
        break()
      endif()
    endforeach()
    if(NOT Python3_EXECUTABLE)
      find_program(Python3_EXECUTABLE python3)
    endif()
  endif()
  execute_process(
    COMMAND ${Python3_EXECUTABLE} -c
      "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
    OUTPUT_VARIABLE Libtorch_ROOT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
set(Libtorch_ROOT "${Libtorch_ROOT}" CACHE PATH "torch/ folder of an installed wheel")
set(Libtorch_PYTHON "${Python3_EXECUTABLE}" CACHE FILEPATH "the interpreter that has torch")

find_path(Libtorch_INCLUDE_DIR torch/csrc/api/include/torch/torch.h
          PATHS ${Libtorch_ROOT}/include NO_DEFAULT_PATH)
find_library(Libtorch_CPU_LIBRARY torch_cpu PATHS ${Libtorch_ROOT}/lib NO_DEFAULT_PATH)
find_library(Libtorch_C10_LIBRARY c10 PATHS ${Libtorch_ROOT}/lib NO_DEFAULT_PATH)
set(_cuda_libraries)
if(LACE_CUDA)
  find_library(Libtorch_CUDA_LIBRARY torch_cuda PATHS ${Libtorch_ROOT}/lib NO_DEFAULT_PATH)
  find_library(Libtorch_C10_CUDA_LIBRARY c10_cuda PATHS ${Libtorch_ROOT}/lib NO_DEFAULT_PATH)
  set(_cuda_libraries Libtorch_CUDA_LIBRARY Libtorch_C10_CUDA_LIBRARY)
endif()
if(EXISTS "${Libtorch_ROOT}/version.py")
  file(STRINGS "${Libtorch_ROOT}/version.py" _version REGEX "^__version__")
  string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" Libtorch_VERSION "${_version}")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Libtorch
  REQUIRED_VARS Libtorch_CPU_LIBRARY Libtorch_C10_LIBRARY Libtorch_INCLUDE_DIR ${_cuda_libraries}
  VERSION_VAR Libtorch_VERSION
  REASON_FAILURE_MESSAGE "run `make setup`, or give -DLibtorch_ROOT=…/site-packages/torch")

if(Libtorch_FOUND AND NOT TARGET lace::libtorch)
  add_library(lace::libtorch INTERFACE IMPORTED)
  target_include_directories(lace::libtorch SYSTEM INTERFACE
    ${Libtorch_INCLUDE_DIR} ${Libtorch_INCLUDE_DIR}/torch/csrc/api/include)
  target_link_libraries(lace::libtorch INTERFACE ${Libtorch_CPU_LIBRARY} ${Libtorch_C10_LIBRARY})
  if(LACE_CUDA)
    # torch_cuda registers libtorch's CUDA operations when it is loaded: nothing names it.
    target_link_libraries(lace::libtorch INTERFACE
      "-Wl,--push-state,--no-as-needed" ${Libtorch_CUDA_LIBRARY} ${Libtorch_C10_CUDA_LIBRARY}
      "-Wl,--pop-state")
  endif()
  # at::parallel_for is a template that runs on one thread unless its caller is compiled for
  # OpenMP. The wheel brings its own libgomp: a second one would be a second pool of threads.
  target_compile_options(lace::libtorch INTERFACE -fopenmp)
  find_library(Libtorch_GOMP_LIBRARY NAMES libgomp.so.1 gomp PATHS ${Libtorch_ROOT}/lib
               NO_DEFAULT_PATH)
  if(Libtorch_GOMP_LIBRARY)
    target_link_libraries(lace::libtorch INTERFACE ${Libtorch_GOMP_LIBRARY})
  else()
    target_link_options(lace::libtorch INTERFACE -fopenmp)
  endif()
  # The wheel's own run path finds the libraries that these two need in turn.
  target_link_options(lace::libtorch INTERFACE -Wl,--allow-shlib-undefined
                      -Wl,-rpath,${Libtorch_ROOT}/lib)
  target_compile_definitions(lace::libtorch INTERFACE _GLIBCXX_USE_CXX11_ABI=1)
endif()
