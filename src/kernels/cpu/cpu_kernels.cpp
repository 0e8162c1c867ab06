#include "kernels/cpu/cpu_kernels.h"

#include "lace/error.h"

#include "core/instruction_set.h"
#include "kernels/cpu/attention_backward.h"
#include "kernels/cpu/attention_forward.h"

namespace lace::cpu {
namespace {

std::string portable_unavailable() { return lacks(InstructionSet::kPortable); }
std::string avx2_unavailable() { return lacks(InstructionSet::kAvx2); }
std::string avx512_unavailable() { return lacks(InstructionSet::kAvx512); }

std::string dim_unsupported(const char* name, int64_t dim) {
  if (dim > kMaxHeadDim) return concat(name, " ", dim, " is more than ", kMaxHeadDim);
  return "";
}

std::string unsupported(const AttentionShape& shape) {
  if (shape.live_blocks) return "masks of blocks are part of the plan here";
  if (shape.dtype == DType::kFloat64) {
    return "dtype float64 is none of float32, bfloat16 and float16";
  }
  const std::string reason = dim_unsupported("head_dim", shape.qk_dim);
  return reason.empty() ? dim_unsupported("head_dim of v", shape.v_dim) : reason;
}

KernelTiles tiles(const AttentionShape&) {
  const TileShape tile{kTileOwners, kBatchOthers};
  return {tile, tile};
}

// The code of a kernel: that of its instruction set, and for bf16 of even head_dims that with dot
// products of pairs, where there is any.
template <typename Ops, typename TypeOps>
const TypeOps& choose(const AttentionShape& shape, const Ops& ops, const TypeOps* pairs) {
  switch (shape.dtype) {
    case DType::kFloat16:
      return ops.float16;
    case DType::kBFloat16:
      return pairs && shape.qk_dim % 2 == 0 && shape.v_dim % 2 == 0 ? *pairs : ops.bfloat16;
    default:
      return ops.float32;
  }
}

template <const ForwardOps& kOps, const ForwardTypeOps* kPairs>
void forward(const Context& context, const Plan& plan, const ForwardArgs& args) {
  attention_forward(choose(args.shape, kOps, kPairs), context, plan, args);
}

template <const BackwardOps& kOps, const BackwardTypeOps* kPairs>
void backward(const Context& context, const Plan&, const Plan& transposed,
              const BackwardArgs& args) {
  attention_backward(choose(args.shape, kOps, kPairs), context, transposed, args);
}

template <const ForwardOps& kForward, const BackwardOps& kBackward,
          const ForwardTypeOps* kForwardPairs = nullptr,
          const BackwardTypeOps* kBackwardPairs = nullptr>
constexpr Kernel make_kernel(std::string_view name, std::string (*unavailable)()) {
  return {name,
          Device::kCpu,
          unavailable,
          unsupported,
          tiles,
          forward<kForward, kForwardPairs>,
          backward<kBackward, kBackwardPairs>};
}

}  // namespace

// Elsewhere than on x86-64 the other names remain, to be refused with their reason.
#if defined(__x86_64__)
#define LACE_OPS(name) kForward##name, kBackward##name
#define LACE_PAIR_OPS(name) &kForward##name, &kBackward##name
#else
#define LACE_OPS(name) kForwardPortable, kBackwardPortable
#define LACE_PAIR_OPS(name) nullptr, nullptr
#endif

constinit const Kernel kAvx512Bf16 =
    make_kernel<LACE_OPS(Avx512), LACE_PAIR_OPS(Avx512Bf16)>("cpu_avx512_bf16", lacks_avx512_bf16);
constinit const Kernel kAvx512 = make_kernel<LACE_OPS(Avx512)>("cpu_avx512", avx512_unavailable);
constinit const Kernel kAvx2 = make_kernel<LACE_OPS(Avx2)>("cpu_avx2", avx2_unavailable);
constinit const Kernel kPortable =
    make_kernel<kForwardPortable, kBackwardPortable>("cpu_portable", portable_unavailable);

}  // namespace lace::cpu
