#include "kernels/cuda/strided_rows.h"

#include <cstdlib>

namespace lace::cuda {

StridedRows rows_of(const Tensor4& tensor) {
  const bool near = std::abs(tensor.row_stride) < int64_t{1} << 30;
  const bool aligned = reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0 &&
                       tensor.batch_stride % 8 == 0 && tensor.head_stride % 8 == 0 &&
                       tensor.row_stride % 8 == 0;
  return {tensor.data, tensor.batch_stride, tensor.head_stride, tensor.row_stride, near && aligned};
}

}  // namespace lace::cuda
