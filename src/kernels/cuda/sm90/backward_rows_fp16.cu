#include <cuda_fp16.h>

#include "kernels/cuda/sm90/backward_rows.cuh"

namespace lace::sm90 {

template void launch_statistics<__half>(const BackwardArgs&, RowStatistics*, float*, int,
                                        cudaStream_t);
template void launch_round_sums<__half>(const Gradient&, int, float, int64_t, int64_t, int64_t,
                                        int32_t, cudaStream_t);

}  // namespace lace::sm90
