// Of builds without CUDA.

#include "lace/error.h"

#include "kernels/decode/gpu_decode.h"

namespace lace {

struct GpuDecodePlan {};

namespace {

[[noreturn]] void refuse() {
  throw Error("[decode] device must be a CPU in this build, got a GPU");
}

}  // namespace

std::shared_ptr<const GpuDecodePlan> plan_gpu_decode(const DecodeShape&, int64_t) { refuse(); }
size_t workspace_bytes(const GpuDecodePlan&) { refuse(); }
std::string_view gpu_decode_name() { refuse(); }
void gpu_decode_step(const Context&, const GpuDecodePlan&, const GpuDecodeStep&) { refuse(); }
void gpu_decode_store(const Context&, const DecodeShape&, const GpuDecodeStore&) { refuse(); }

}  // namespace lace
