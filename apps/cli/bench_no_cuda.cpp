#include "lace/error.h"

#include "bench_cuda.h"

namespace lace::cli {

void bench_attention_cuda(const CudaBenchOptions&) {
  throw Error(
      "[bench] --device cuda needs a build with CUDA (cmake --preset cuda), this one has none");
}

}  // namespace lace::cli
