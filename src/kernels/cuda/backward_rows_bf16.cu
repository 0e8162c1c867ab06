#include <cuda_bf16.h>

#include "kernels/cuda/backward_rows.cuh"

namespace lace::cuda {
template void launch_statistics<__nv_bfloat16>(const RowsShape&, const StridedRows&,
                                               const StridedRows&, const LseRows&, RowStatistics*,
                                               float*, int32_t, cudaStream_t);
template void launch_round<__nv_bfloat16>(const RowsShape&, const SumRows&, int32_t, float,
                                          const StridedRows&, cudaStream_t);
}  // namespace lace::cuda
