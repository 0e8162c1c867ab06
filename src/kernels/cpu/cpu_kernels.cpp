#include "kernels/cpu/cpu_kernels.h"

#include "lace/error.h"

#include "kernels/cpu/attention_backward.h"
#include "kernels/cpu/attention_forward.h"

namespace lace::cpu {
namespace {

// What the processor and the operating system offer, as __builtin_cpu_supports tells; a macro,
// because that takes a literal.
#define LACE_NEEDS(feature) \
  if (!__builtin_cpu_supports(feature)) return "the processor lacks " feature

std::string portable_unavailable() { return ""; }

#if defined(__x86_64__)
std::string avx2_unavailable() {
  LACE_NEEDS("avx2");
  LACE_NEEDS("fma");
  return "";
}

std::string avx512_unavailable() {
  LACE_NEEDS("avx512f");
  LACE_NEEDS("avx512bw");
  LACE_NEEDS("avx512dq");
  LACE_NEEDS("avx512vl");
  return avx2_unavailable();
}

std::string avx512_bf16_unavailable() {
  LACE_NEEDS("avx512bf16");
  return avx512_unavailable();
}
#else
std::string avx2_unavailable() { return "the processor is not an x86-64"; }
std::string avx512_unavailable() { return avx2_unavailable(); }
std::string avx512_bf16_unavailable() { return avx2_unavailable(); }
#endif

std::string dim_unsupported(const char* name, int64_t dim) {
  if (dim % 8 != 0) return concat(name, " ", dim, " is not a multiple of 8");
  if (dim < 8 || dim > 256) return concat(name, " ", dim, " is not between 8 and 256");
  return "";
}

std::string unsupported(const AttentionShape& shape) {
  if (shape.dtype != DType::kFloat32 && shape.dtype != DType::kBFloat16) {
    return concat("dtype ", name(shape.dtype), " is neither float32 nor bfloat16");
  }
  const std::string reason = dim_unsupported("head_dim", shape.qk_dim);
  return reason.empty() ? dim_unsupported("head_dim of v", shape.v_dim) : reason;
}

KernelTiles tiles(const AttentionShape&) {
  const TileShape tile{kTileOwners, kBatchOthers};
  return {tile, tile};
}

template <const ForwardOps& kOps>
void forward(const Context& context, const Plan& plan, const ForwardArgs& args) {
  attention_forward(kOps, context, plan, args);
}

template <const BackwardOps& kOps>
void backward(const Context& context, const Plan&, const Plan& transposed,
              const BackwardArgs& args) {
  attention_backward(kOps, context, transposed, args);
}

template <const ForwardOps& kForward, const BackwardOps& kBackward>
constexpr Kernel make_kernel(std::string_view name, std::string (*unavailable)()) {
  return {name,  Device::kCpu,      unavailable,        unsupported,
          tiles, forward<kForward>, backward<kBackward>};
}

}  // namespace

// Elsewhere than on x86-64 the other names remain, to be refused with their reason.
#if defined(__x86_64__)
#define LACE_OPS(name) kForward##name, kBackward##name
#else
#define LACE_OPS(name) kForwardPortable, kBackwardPortable
#endif

constinit const Kernel kAvx512Bf16 =
    make_kernel<LACE_OPS(Avx512Bf16)>("cpu_avx512_bf16", avx512_bf16_unavailable);
constinit const Kernel kAvx512 = make_kernel<LACE_OPS(Avx512)>("cpu_avx512", avx512_unavailable);
constinit const Kernel kAvx2 = make_kernel<LACE_OPS(Avx2)>("cpu_avx2", avx2_unavailable);
constinit const Kernel kPortable =
    make_kernel<kForwardPortable, kBackwardPortable>("cpu_portable", portable_unavailable);

}  // namespace lace::cpu
