// What decoding is on every device: which rows caches hold, prompts in one pass, and going back.

#include "model/decode_state.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "lace/attention.h"

#include "core/large_memory.h"
#include "model/decode_pattern.h"
#include "ops/attention_arguments.h"
#include "pattern/live_keys.h"

namespace lace::model {

namespace {

// From so many slots at once on, whole passes of the model are faster than steps.
constexpr int64_t kPrefillSlots = 8;

DecodeShape decode_shape(const ModelImpl& model) {
  const ModelConfig& config = model.config;
  return {.compute = ops::to_dtype("model", model.compute()),
          .layers = config.layers,
          .d_model = config.d_model,
          .heads = config.heads,
          .kv_heads = config.kv_heads_or_default(),
          .qk_dim = config.qk_head_dim(),
          .v_dim = config.v_head_dim(),
          .ff_width = config.ff_width(),
          .vocab = config.vocab,
          .block_eps = config.block_norm_eps,
          .final_eps = config.final_norm_eps};
}

}  // namespace

// ---- patterns -----------------------------------------------------------------------------------

PatternCaches::PatternCaches(const Pattern& pattern, const ModelConfig& config, int64_t rollback)
    : for_prefill_(resolve_tokens(pattern, config.heads, config.seq_len)),
      bound_(pattern.bind(config.heads, config.seq_len, config.seq_len)),
      shared_(static_cast<size_t>(config.heads / config.kv_heads_or_default())) {
  const auto shared = static_cast<int64_t>(shared_);
  for (int64_t kv_head = 0; kv_head < config.kv_heads_or_default(); ++kv_head) {
    pattern::Retained kept = pattern::retained(bound_, kv_head * shared);
    for (int64_t h = 1; h < shared; ++h) {
      kept = pattern::join(kept, pattern::retained(bound_, kv_head * shared + h));
    }
    const auto same = std::find(retained_.begin(), retained_.end(), kept);
    retained_of_.push_back(static_cast<size_t>(same - retained_.begin()));
    if (same == retained_.end()) retained_.push_back(kept);
    slots_.emplace_back(kept, config.seq_len, rollback);
  }
}

LayerSlots PatternCaches::slots_at(int64_t position) const {
  LayerSlots at_position;
  for (const pattern::CacheSlots& slots : slots_) {
    at_position.writes.emplace_back();
    slots.append_writes(position, at_position.writes.back());
  }
  for (int64_t head = 0; head < bound_.heads(); ++head) {
    const auto at = static_cast<size_t>(head);
    if (head > 0 && bound_.group(head) == bound_.group(head - 1) &&
        retained_of_[at / shared_] == retained_of_[(at - 1) / shared_]) {
      at_position.reads.push_back(at_position.reads.back());
      continue;
    }
    at_position.reads.push_back(
        slots_[at / shared_].slots_of(pattern::live_keys(bound_, head, position), position));
  }
  return at_position;
}

const LayerSlots& PatternCaches::find(int64_t position) {
  if (found_position_ != position) found_ = slots_at(position);
  found_position_ = position;
  return found_;
}

PrefillRows::PrefillRows(const PatternCaches& pattern, int64_t count) {
  for (size_t head = 0; head < pattern.kv_heads(); ++head) {
    by_head.emplace_back(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
      pattern.slots(head).append_writes(i, by_head.back()[static_cast<size_t>(i)]);
    }
  }
}

// ---- weights ------------------------------------------------------------------------------------

DecodeWeights::DecodeWeights(const ModelImpl& impl) {
  const auto keep = [&](const at::Tensor& tensor) {
    tensors.push_back(tensor);
    return tensor.const_data_ptr();
  };
  model.shape = decode_shape(impl);
  for (int64_t layer = 0; layer < model.shape.layers; ++layer) {
    const BlockCall call = impl.block_call(layer, 1, 1, {});
    const auto at = [&](BlockTensor tensor) { return keep(call.weights[tensor]); };
    model.blocks.push_back({at(kNorm1Weight), at(kNorm1Bias), at(kQkvWeight), at(kQkvBias),
                            at(kProjWeight), at(kProjBias), at(kNorm2Weight), at(kNorm2Bias),
                            at(kFf1Weight), at(kFf1Bias), at(kFf2Weight), at(kFf2Bias)});
  }
  model.norm_weight = keep(impl.arena.parameter(impl.final_norm()));
  model.norm_bias = keep(impl.arena.parameter(impl.final_norm() + 1));
  model.output_weight = keep(impl.arena.parameter(impl.output_weight()));
  if (!impl.device().is_cpu()) return;
  const at::Tensor& all = impl.arena.copies().defined() ? impl.arena.copies() : impl.arena.values();
  move_to_large_pages(all.const_data_ptr(), all.nbytes());
}

// ---- states -------------------------------------------------------------------------------------

CachedDecodeState::CachedDecodeState(std::shared_ptr<const ModelImpl> model, int64_t rollback)
    : model_(std::move(model)),
      weights_(std::make_shared<DecodeWeights>(*model_)),
      parameters_(model_->arena.parameters()) {
  limit_.most = rollback;
  for (const Pattern& pattern : model_->patterns) {
    patterns_.emplace_back(pattern, model_->config, rollback);
  }
}

void CachedDecodeState::rollback(int64_t n) {
  limit_.check(slots_, n);
  slots_ -= n;
}

int64_t CachedDecodeState::cache_bytes() const {
  int64_t rows = 0;
  for (size_t i = 0; slots_ > 0 && i < cache_count(); ++i) rows += slots_of(i).used(slots_ - 1);
  return rows * batch_ * row_bytes(shape());
}

DecodeCost CachedDecodeState::cost() const {
  DecodeCost cost;
  for (const at::Tensor& tensor : weights_->tensors) {
    cost.weight_bytes += static_cast<int64_t>(tensor.nbytes());
  }
  const int64_t row = shape().qk_dim * (shape().compute == DType::kFloat64 ? 8 : 4) +
                      shape().v_dim * size_bytes(shape().compute);
  const int64_t shared = shape().heads / shape().kv_heads;
  std::vector<LayerSlots> last;
  for (const PatternCaches& pattern : patterns_) last.push_back(pattern.slots_at(slots_ - 1));
  for (size_t layer = 0; layer < static_cast<size_t>(shape().layers); ++layer) {
    const LayerSlots& slots = last[cycle(layer)];
    for (int64_t kv_head = 0; kv_head < shape().kv_heads; ++kv_head) {
      pattern::KeyRuns read = slots.reads[static_cast<size_t>(kv_head * shared)];
      for (int64_t h = 1; h < shared; ++h) {
        read = pattern::join(read, slots.reads[static_cast<size_t>(kv_head * shared + h)]);
      }
      cost.cache_bytes += pattern::key_count(read) * row * batch_;
    }
  }
  return cost;
}

const pattern::CacheSlots& CachedDecodeState::slots_of(size_t i) const {
  const auto kv_heads = static_cast<size_t>(shape().kv_heads);
  return patterns_[cycle(i / kv_heads)].slots(i % kv_heads);
}

at::Tensor CachedDecodeState::decode(const at::Tensor& tokens) {
  parameters_.check("while a sequence is decoded");
  const int64_t count = tokens.size(1) + (slots_ == 0 ? 1 : 0);
  LACE_CHECK(count > 0, "[model] tokens must hold at least one symbol after the first call, got ",
             "none");
  if (slots_ > 0 || count < kPrefillSlots) return run_steps(tokens, count);
  return prefill(tokens.to(model_->device()), count).to(tokens.device());
}

// The first `count` slots, each sequence in a pass of its own: what a product gives for a row may
// depend on how many there are.
at::Tensor CachedDecodeState::prefill(const at::Tensor& tokens, int64_t count) {
  std::vector<PrefillRows> rows;
  for (const PatternCaches& pattern : patterns_) rows.emplace_back(pattern, count);
  std::vector<at::Tensor> logits;
  for (int64_t b = 0; b < batch_; ++b) {
    const at::Tensor x = run_blocks(
        *model_, embed_slots(*model_, tokens.narrow(0, b, 1), count), count,
        [&](int64_t layer, const Qkv& qkv) {
          const size_t at = cycle(static_cast<size_t>(layer));
          store(b, layer, rows[at], qkv, count);
          return attention(qkv.q, qkv.k, qkv.v, clip_tokens(patterns_[at].for_prefill(), count));
        });
    logits.push_back(model_->logits(x.narrow(0, count - 1, 1).contiguous()));
  }
  advance(count);
  return at::cat(logits);
}

Tensor4 strided(const at::Tensor& tensor) {
  return {tensor.data_ptr(), tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

void check_copies(int64_t copies) {
  LACE_CHECK(copies > 0, "[model] copies of a fork must be positive, got ", copies);
}

at::Tensor random_rows(const DecodeShape& shape, int64_t count) {
  auto random = at::make_generator<at::CPUGeneratorImpl>(1);
  const bool wide = shape.compute == DType::kFloat64;
  const at::Tensor numbers = at::normal(0, 1, {count, shape.qk_dim + shape.v_dim}, random,
                                        at::TensorOptions(wide ? at::kDouble : at::kFloat));
  const at::ScalarType compute = wide                                ? at::kDouble
                                 : shape.compute == DType::kFloat32  ? at::kFloat
                                 : shape.compute == DType::kBFloat16 ? at::kBFloat16
                                                                     : at::kHalf;
  const at::Tensor keys = numbers.narrow(1, 0, shape.qk_dim).contiguous().view(at::kByte);
  const at::Tensor values =
      numbers.narrow(1, shape.qk_dim, shape.v_dim).to(compute).contiguous().view(at::kByte);
  const int64_t filling = row_bytes(shape) - keys.size(1) - values.size(1);
  return at::cat({keys, values, at::zeros({count, filling}, at::kByte)}, 1);
}

std::shared_ptr<DecodeState> decoding_at(const SparseTransformer& model, int64_t batch,
                                         int64_t symbols) {
  LACE_CHECK(symbols >= 0 && symbols < model.config().seq_len,
             "[model] symbols must be from 0 to below seq_len (", model.config().seq_len, "), got ",
             symbols);
  auto state = model.start_decoding(batch);
  static_cast<CachedDecodeState&>(*state).fill(symbols);
  return state;
}

DecodeCost decode_cost(const DecodeState& state) {
  return static_cast<const CachedDecodeState&>(state).cost();
}

}  // namespace lace::model
