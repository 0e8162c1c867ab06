// Decoding with a cache of each layer's keys and values: a new symbol costs one row of every
// product, and attention of one query over the keys so far.

#include "model/decode.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "ops/torch_context.h"

namespace lace {

namespace model {

at::Tensor embed_slots(const ModelImpl& model, const at::Tensor& tokens, int64_t first,
                       int64_t count) {
  // embed() puts slot 0 at the start of what it is given: one slot is put before the new ones, and
  // of a later call cut off again.
  const int64_t batch = tokens.size(0), lead = first == 0 ? 0 : 1;
  const at::Tensor unused = at::zeros({batch, 1}, tokens.options());
  const at::Tensor shifted = at::cat({tokens, unused}, 1);
  const int64_t n = shifted.size(1);
  const at::Tensor indices =
      model.position_indices.narrow(1, std::max<int64_t>(0, first - 1), n).contiguous();
  return embed(shifted, indices, model.embedding_tables(), model.residual())
      .view({batch, n, model.config.d_model})
      .narrow(1, lead, count)
      .contiguous()
      .view({batch * count, model.config.d_model});
}

at::Tensor run_blocks(const ModelImpl& model, at::Tensor x, int64_t batch, int64_t first,
                      int64_t count, const Attend& attend) {
  for (int64_t layer = 0; layer < model.config.layers; ++layer) {
    BlockCall call = model.block_call(layer, batch, count, {});
    call.shape.first_position = first;
    const Qkv qkv = split_qkv(call.shape, block_qkv(call, block_norm(call, x)));
    const at::Tensor out = attend(layer, qkv)
                               .transpose(1, 2)
                               .reshape({x.size(0), call.shape.heads * call.shape.v_head_dim});
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
                           : model::start_decoding_torch(impl_, batch, most);
}

at::Tensor SparseTransformer::decode(DecodeState& state, const at::Tensor& tokens) const {
  const ops::OwnThreads threads;
  const c10::NoGradGuard no_grad;
  const at::Tensor fresh = impl_->check_tokens(tokens);
  const int64_t count = fresh.size(1);
  LACE_CHECK(fresh.size(0) == state.batch(), "[model] tokens must be of ", state.batch(),
             " sequences, got ", fresh.size(0));
  LACE_CHECK(state.symbols() + count < impl_->config.seq_len,
             "[model] decoding ends before symbol seq_len (", impl_->config.seq_len, "), got ",
             state.symbols() + count, " symbols");
  return state.decode(fresh);
}

}  // namespace lace
