// Decoding through libtorch, on any device: caches hold seq_len rows of all layers, and attention
// is lace::attention over those so far.

#include <utility>

#include <ATen/ATen.h>

#include "lace/attention.h"

#include "model/decode.h"
#include "model/decode_pattern.h"

namespace lace::model {

namespace {

class TorchDecodeState final : public DecodeState {
 public:
  TorchDecodeState(std::shared_ptr<const ModelImpl> model, int64_t batch, int64_t rollback)
      : model_(std::move(model)), batch_(batch), parameters_(model_->arena.parameters()) {
    limit_.most = rollback;
    const ModelConfig& config = model_->config;
    const auto options =
        model_->arena.parameter(0).options().dtype(model_->compute()).requires_grad(false);
    const auto rows = [&](int64_t head_dim) {
      return at::empty({batch, config.seq_len, config.kv_heads_or_default(), head_dim}, options);
    };
    for (int64_t layer = 0; layer < config.layers; ++layer) {
      keys_.push_back(rows(config.qk_head_dim()));
      values_.push_back(rows(config.v_head_dim()));
    }
    for (const Pattern& pattern : model_->patterns) {
      patterns_.push_back(resolve_tokens(pattern, config.heads, config.seq_len));
    }
  }

  int64_t batch() const override { return batch_; }
  int64_t symbols() const override { return std::max<int64_t>(0, slots_ - 1); }

  void rollback(int64_t n) override {
    limit_.check(slots_, n);
    slots_ -= n;
  }

  std::shared_ptr<DecodeState> fork(int64_t copies) const override {
    LACE_CHECK(copies > 0, "[model] copies of a fork must be positive, got ", copies);
    auto state = std::make_shared<TorchDecodeState>(*this);
    state->batch_ = batch_ * copies;
    for (auto* caches : {&state->keys_, &state->values_}) {
      for (at::Tensor& cache : *caches) cache = cache.repeat_interleave(copies, 0);
    }
    return state;
  }

  int64_t cache_bytes() const override {
    int64_t bytes = 0;
    for (const auto* caches : {&keys_, &values_}) {
      for (const at::Tensor& cache : *caches) {
        bytes += static_cast<int64_t>(cache.nbytes()) / model_->config.seq_len * slots_;
      }
    }
    return bytes;
  }

 private:
  at::Tensor decode(const at::Tensor& tokens) override {
    parameters_.check("while a sequence is decoded");
    const int64_t count = tokens.size(1) + (slots_ == 0 ? 1 : 0);
    LACE_CHECK(count > 0, "[model] tokens must hold at least one symbol after the first call, got ",
               "none");
    const int64_t end = slots_ + count;
    const auto cached = [&](const at::Tensor& cache, const at::Tensor& fresh) {
      const at::Tensor by_head = cache.transpose(1, 2);
      by_head.narrow(2, slots_, count).copy_(fresh);
      return by_head.narrow(2, 0, end);
    };
    const at::Tensor x = run_blocks(
        *model_, embed_slots(*model_, tokens, slots_, count), batch_, slots_, count,
        [&](int64_t layer, const Qkv& qkv) {
          const auto at_layer = static_cast<size_t>(layer);
          return attention(qkv.q, cached(keys_[at_layer], qkv.k), cached(values_[at_layer], qkv.v),
                           clip_tokens(patterns_[at_layer % patterns_.size()], end));
        });
    slots_ = end;
    limit_.reached(slots_);
    return model_->logits(x.view({batch_, count, -1}).select(1, count - 1).contiguous());
  }

  std::shared_ptr<const ModelImpl> model_;
  int64_t batch_ = 0;
  int64_t slots_ = 0;  // in the caches
  RollbackLimit limit_;
  std::vector<at::Tensor> keys_, values_;  // by layer [batch, seq_len, kv_heads, head_dim], rotated
  std::vector<Pattern> patterns_;          // of the layers, a cycle, bound to seq_len
  Unchanged parameters_;                   // that the caches come from
};

}  // namespace

std::shared_ptr<DecodeState> start_decoding_torch(std::shared_ptr<const ModelImpl> model,
                                                  int64_t batch, int64_t rollback) {
  return std::make_shared<TorchDecodeState>(std::move(model), batch, rollback);
}

}  // namespace lace::model
