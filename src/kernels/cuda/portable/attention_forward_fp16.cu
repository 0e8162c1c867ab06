#include "kernels/cuda/portable/launchers.cuh"

namespace lace::cuda::portable {
template void launch_forward<__half>(const ForwardLaunch&, cudaStream_t);
}
