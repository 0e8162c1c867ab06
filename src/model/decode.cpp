// Decoding with a cache of each layer's keys and values, whatever the device.

#include "model/decode.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "ops/torch_context.h"

namespace lace {

namespace model {

at::Tensor embed_slots(const ModelImpl& model, const at::Tensor& tokens, int64_t count) {
  // embed() gives a slot to each symbol, and the last one has none here.
  const at::Tensor unused = at::zeros({1, 1}, tokens.options());
  return embed(at::cat({tokens, unused}, 1), model.indices(count), model.embedding_tables(),
               model.residual());
}

at::Tensor run_blocks(const ModelImpl& model, at::Tensor x, int64_t count, const Attend& attend) {
  for (int64_t layer = 0; layer < model.config.layers; ++layer) {
    const BlockCall call = model.block_call(layer, 1, count, {});
    const Qkv qkv = split_qkv(call.shape, block_qkv(call, block_norm(call, x)));
    const at::Tensor out = attend(layer, qkv)
                               .transpose(1, 2)
                               .reshape({count, call.shape.heads * call.shape.v_head_dim});
    x = block_rest(call, x, out);
  }
  return x;
}

void RollbackLimit::check(int64_t slots, int64_t n) const {
  LACE_CHECK(n >= 0, "[model] rollback must be of at least 0 symbols, got ", n);
  LACE_CHECK(n < slots || n == 0, "[model] rollback must be of at most the ",
             std::max<int64_t>(0, slots - 1), " symbols that there are, got ", n);
  LACE_CHECK(furthest - (slots - n) <= most, "[model] rollback must leave at most ", most,
             " symbols fewer than there were, as start_decoding was told, got ",
             furthest - (slots - n), " fewer");
}

}  // namespace model

std::shared_ptr<DecodeState> SparseTransformer::start_decoding(int64_t batch,
                                                               int64_t rollback) const {
  LACE_CHECK(batch > 0, "[model] the batch to decode must be positive, got ", batch);
  LACE_CHECK(rollback >= 0, "[model] rollback must be at least 0, got ", rollback);
  const int64_t most = std::min(rollback, impl_->config.seq_len);
  return device().is_cpu() ? model::start_decoding_cpu(impl_, batch, most)
                           : model::start_decoding_gpu(impl_, batch, most);
}

at::Tensor SparseTransformer::decode(DecodeState& state, const at::Tensor& tokens) const {
  const ops::OwnThreads threads;
  const c10::NoGradGuard no_grad;
  const at::Tensor fresh = impl_->check_tokens(tokens, /*from_host=*/true);
  const int64_t count = fresh.size(1);
  LACE_CHECK(fresh.size(0) == state.batch(), "[model] tokens must be of ", state.batch(),
             " sequences, got ", fresh.size(0));
  LACE_CHECK(state.symbols() + count < impl_->config.seq_len,
             "[model] decoding ends before symbol seq_len (", impl_->config.seq_len, "), got ",
             state.symbols() + count, " symbols");
  return state.decode(fresh);
}

}  // namespace lace
