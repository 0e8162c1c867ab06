#pragma once

#include "kernels/decode/cuda/tasks.h"
#include "kernels/decode/gpu_decode.h"
#include "kernels/elementwise/cuda/vectors.cuh"

namespace lace::cuda::decode {

// A warp a row: rows of one slot would be stored in any order, so there is one (stored_rows()).
template <typename T>
__global__ void __launch_bounds__(kThreads)
    store_kernel(const GpuDecodeStore store, int qk_dim, int v_dim, int64_t row_bytes) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (index >= store.count) return;
  const StoredRow row = store.rows[index];
  const HeadCache& cache = store.caches[row.kv_head];
  const auto source = [&](const Tensor4& tensor) {
    return static_cast<const T*>(tensor.data) + row.kv_head * tensor.head_stride +
           row.position * tensor.row_stride;
  };
  const T *key = source(store.k), *value = source(store.v);
  std::byte* to =
      static_cast<std::byte*>(cache.rows) + (store.sequence * cache.slots + row.slot) * row_bytes;
  auto* to_key = reinterpret_cast<float*>(to);
  T* to_value = reinterpret_cast<T*>(to + static_cast<int64_t>(qk_dim) * 4);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int i = lane; i < qk_dim; i += 32) to_key[i] = elementwise::to_float(key[i]);
  for (int i = lane; i < v_dim; i += 32) to_value[i] = value[i];
}

}  // namespace lace::cuda::decode
