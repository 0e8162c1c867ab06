#include "kernels/cuda/portable/launchers.cuh"

namespace lace::cuda::portable {
template void launch_forward<__nv_bfloat16>(const ForwardLaunch&, cudaStream_t);
}
