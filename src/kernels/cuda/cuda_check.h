#pragma once

#include <cuda_runtime_api.h>

#include "lace/error.h"

// Throws lace::Error with CUDA's text unless `call` returns cudaSuccess. After a launch:
// LACE_CUDA(cudaGetLastError()).
#define LACE_CUDA(call)                                                                    \
  do {                                                                                     \
    if (const cudaError_t lace_status = (call); lace_status != cudaSuccess) [[unlikely]]   \
      throw ::lace::Error(                                                                 \
          ::lace::concat("[cuda] ", #call, " failed: ", cudaGetErrorString(lace_status))); \
  } while (false)
