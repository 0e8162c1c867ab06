#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "core/context.h"
#include "core/dtype.h"
#include "kernels/cuda/cuda_check.h"

namespace lace::cuda::elementwise {

inline cudaStream_t stream_of(const Context& context) {
  return static_cast<cudaStream_t>(context.stream);
}

// Calls function(element) with a value of the type that `compute` names.
template <typename Function>
void with_element(DType compute, Function function) {
  if (compute == DType::kFloat16) {
    function(__half());
  } else {
    LACE_CHECK(compute == DType::kBFloat16,
               "[elementwise] on a GPU compute is bfloat16 or float16, got ", name(compute));
    function(__nv_bfloat16());
  }
}

// Calls function(element of `compute`, element of `residual`), which is compute or float32.
template <typename Function>
void with_residual(DType compute, DType residual, Function function) {
  LACE_CHECK(residual == compute || residual == DType::kFloat32,
             "[elementwise] residual is that of compute (", name(compute), ") or float32, got ",
             name(residual));
  with_element(compute, [&](auto element) {
    if (residual == DType::kFloat32) {
      function(element, float());
    } else {
      function(element, element);
    }
  });
}

// Calls function(element) with a value of the residual stream's type.
template <typename Function>
void with_residual(DType residual, Function function) {
  if (residual == DType::kFloat32) {
    function(float());
  } else {
    with_element(residual, function);
  }
}

// Of the current GPU.
inline int64_t multiprocessors() {
  int device = 0, count = 0;
  LACE_CUDA(cudaGetDevice(&device));
  LACE_CUDA(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

// How many parts of `size` cover `count`.
constexpr int64_t cover(int64_t count, int64_t size) { return (count + size - 1) / size; }

// Whether all begin at a multiple of 16 bytes; null does.
template <typename... Pointers>
bool begin_aligned(const Pointers*... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) | ...) & 15) == 0;
}

}  // namespace lace::cuda::elementwise
