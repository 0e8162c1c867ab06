#include <cuda_fp16.h>

#include "kernels/cuda/backward_rows.cuh"

namespace lace::cuda {
template void launch_statistics<__half>(const RowsShape&, const StridedRows&, const StridedRows&,
                                        const LseRows&, RowStatistics*, float*, int32_t,
                                        cudaStream_t);
template void launch_round<__half>(const RowsShape&, const SumRows&, int32_t, float,
                                   const StridedRows&, cudaStream_t);
}  // namespace lace::cuda
