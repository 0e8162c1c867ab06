#include "lace/error.h"

#include "bench_cuda.h"
#include "bench_cuda_time.h"

namespace lace::cli {

namespace {

[[noreturn]] void no_cuda() {
  throw Error(
      "[bench] --device cuda needs a build with CUDA (cmake --preset cuda), this one has none");
}

}  // namespace

void bench_attention_cuda(const CudaBenchOptions&) { no_cuda(); }
double sample_ms(const std::function<void()>&, int) { no_cuda(); }
int warm_up(const std::function<void()>&) { no_cuda(); }
Ceilings measure_ceilings(int) { no_cuda(); }
double gpu_matmul_tflops(c10::Device) { no_cuda(); }
void time_on_gpu(c10::Device, std::vector<GpuContender>&, int) { no_cuda(); }
void release_gpu_memory() { no_cuda(); }

}  // namespace lace::cli
