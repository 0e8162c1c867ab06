#include "kernels/cuda/section_order.h"

#include <algorithm>

#include "kernels/cuda/cuda_check.h"

namespace lace::cuda {

int32_t section_size(int64_t heads, int64_t bytes_of_head, int64_t bytes, int64_t share,
                     int64_t longest, int64_t of_head) {
  of_head = std::max<int64_t>(1, of_head);
  const int64_t even = (share * longest * multiprocessors() + of_head - 1) / of_head;
  const int64_t least = std::max({int64_t{1}, bytes / std::max<int64_t>(1, bytes_of_head), even});
  const int64_t sections = std::max<int64_t>(1, heads / least);
  return static_cast<int32_t>((heads + sections - 1) / sections);
}

int multiprocessors() {
  int device = 0, count = 0;
  LACE_CUDA(cudaGetDevice(&device));
  LACE_CUDA(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

}  // namespace lace::cuda
