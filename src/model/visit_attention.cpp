#include "model/visit_attention.h"

#include <cmath>

#include <ATen/ATen.h>

#include "model/transformer.h"
#include "ops/torch_context.h"

namespace lace::model {

void visit_attention(const SparseTransformer& model, const at::Tensor& tokens,
                     const std::function<bool(const LayerAttention&)>& visit) {
  const ops::OwnThreads threads;
  const c10::NoGradGuard no_grad;
  const SparseTransformer::Impl& impl = *model.impl();
  const at::Tensor checked = impl.check_tokens(tokens);
  LACE_CHECK(checked.numel() > 0, "[model] tokens must hold at least one symbol, got none");
  const ops::DeterministicScope scope(impl.config.deterministic);
  const int64_t batch = checked.size(0), n = checked.size(1);
  at::Tensor x = embed(checked, impl.indices(n), impl.embedding_tables(), impl.residual());
  for (int64_t layer = 0; layer < impl.config.layers; ++layer) {
    const BlockCall call = impl.block_call(layer, batch, n, {});
    const BlockActivations activations =
        block_activations(call, x, block_norm(call, x), /*for_backward=*/false);
    const Qkv parts = split_qkv(call.shape, activations.qkv);
    const double scale = 1 / std::sqrt(static_cast<double>(call.shape.qk_head_dim));
    if (!visit({layer, call.pattern, scale, parts.q, parts.k, activations.attention.lse})) return;
    x = residual(activations.r, block_branch(call, activations), call.ff_dropout);
  }
}

}  // namespace lace::model
