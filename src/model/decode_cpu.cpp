// Decoding on a CPU: a step of all layers is one call of kernels/decode, and a cache holds the rows
// that its pattern can still read, in the slots that pattern::CacheSlots gives them.

#include <algorithm>
#include <cstring>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "lace/attention.h"

#include "core/large_memory.h"
#include "kernels/decode/decode.h"
#include "model/decode.h"
#include "model/decode_pattern.h"
#include "ops/attention_arguments.h"
#include "ops/torch_context.h"
#include "pattern/cache_slots.h"
#include "pattern/live_keys.h"
#include "pattern/retained.h"

namespace lace::model {

namespace {

// From so many slots at once on, whole passes of the model are faster than steps.
constexpr int64_t kPrefillSlots = 8;

// The caches of the layers that share a pattern.
struct PatternCaches {
  PatternCaches(const Pattern& pattern, const ModelConfig& config, int64_t rollback)
      : for_prefill(resolve_tokens(pattern, config.heads, config.seq_len)),
        bound(pattern.bind(config.heads, config.seq_len, config.seq_len)),
        shared(config.heads / config.kv_heads_or_default()) {
    for (int64_t kv_head = 0; kv_head < config.kv_heads_or_default(); ++kv_head) {
      pattern::Retained kept = pattern::retained(bound, kv_head * shared);
      for (int64_t h = 1; h < shared; ++h) {
        kept = pattern::join(kept, pattern::retained(bound, kv_head * shared + h));
      }
      const auto same = std::find(retained.begin(), retained.end(), kept);
      retained_of.push_back(static_cast<size_t>(same - retained.begin()));
      if (same == retained.end()) retained.push_back(kept);
      slots.emplace_back(kept, config.seq_len, rollback);
    }
  }

  // Of the row at `position` and its queries.
  void find_slots(int64_t position) {
    now.writes.resize(slots.size());
    now.reads.resize(static_cast<size_t>(bound.heads()));
    for (size_t kv_head = 0; kv_head < slots.size(); ++kv_head) {
      now.writes[kv_head].clear();
      slots[kv_head].append_writes(position, now.writes[kv_head]);
    }
    for (int64_t head = 0; head < bound.heads(); ++head) {
      const auto at = static_cast<size_t>(head);
      if (head > 0 && bound.group(head) == bound.group(head - 1) &&
          retained_of[at / shared] == retained_of[(at - 1) / shared]) {
        now.reads[at] = now.reads[at - 1];
        continue;
      }
      now.reads[at] =
          slots[at / shared].slots_of(pattern::live_keys(bound, head, position), position);
    }
  }

  Pattern for_prefill;
  BoundPattern bound;                       // to seq_len
  size_t shared;                            // query heads of a key head
  std::vector<pattern::Retained> retained;  // those that there are
  std::vector<size_t> retained_of;          // of each key head, in `retained`
  std::vector<pattern::CacheSlots> slots;   // of each key head
  LayerSlots now;
};

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

// The parameters that a step reads, and what keeps them in memory.
struct Weights {
  explicit Weights(const ModelImpl& impl) {
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
    const at::Tensor& all =
        impl.arena.copies().defined() ? impl.arena.copies() : impl.arena.values();
    move_to_large_pages(all.const_data_ptr(), all.nbytes());
  }

  const void* keep(const at::Tensor& tensor) {
    tensors.push_back(tensor);
    return tensor.const_data_ptr();
  }

  DecodeModel model;
  std::vector<at::Tensor> tensors;
};

class CpuDecodeState final : public DecodeState {
 public:
  CpuDecodeState(std::shared_ptr<const ModelImpl> model, int64_t batch, int64_t rollback)
      : model_(std::move(model)),
        weights_(std::make_shared<Weights>(*model_)),
        parameters_(model_->arena.parameters()) {
    limit_.most = rollback;
    for (const Pattern& pattern : model_->patterns) {
      patterns_.emplace_back(pattern, model_->config, rollback);
    }
    allocate(batch);
  }

  int64_t batch() const override { return batch_; }
  int64_t symbols() const override { return std::max<int64_t>(0, slots_ - 1); }

  void rollback(int64_t n) override {
    limit_.check(slots_, n);
    slots_ -= n;
  }

  std::shared_ptr<DecodeState> fork(int64_t copies) const override {
    LACE_CHECK(copies > 0, "[model] copies of a fork must be positive, got ", copies);
    auto state = std::make_shared<CpuDecodeState>(*this);
    state->allocate(batch_ * copies);
    const int64_t bytes = row_bytes(shape());
    for (size_t i = 0; i < caches_.size(); ++i) {
      const HeadCache &from = caches_[i], &to = state->caches_[i];
      const int64_t rows = slots_of(i).extent(limit_.furthest);
      for (int64_t b = 0; b < state->batch_; ++b) {
        std::memcpy(static_cast<std::byte*>(to.rows) + b * to.slots * bytes,
                    static_cast<const std::byte*>(from.rows) + b / copies * from.slots * bytes,
                    static_cast<size_t>(rows * bytes));
      }
    }
    return state;
  }

  int64_t cache_bytes() const override {
    int64_t rows = 0;
    for (size_t i = 0; slots_ > 0 && i < caches_.size(); ++i) rows += slots_of(i).used(slots_ - 1);
    return rows * batch_ * row_bytes(shape());
  }

  // As after so many symbols, with random rows.
  void fill(int64_t symbols) {
    const int64_t bytes = row_bytes(shape());
    auto random = at::make_generator<at::CPUGeneratorImpl>(1);
    constexpr int64_t kDifferent = 997;
    const at::Tensor rows = at::empty({kDifferent * bytes}, at::kByte);
    const at::Tensor numbers =
        at::normal(0, 1, {kDifferent, shape().qk_dim + shape().v_dim}, random, x_.options());
    for (int64_t i = 0; i < kDifferent; ++i) {
      std::byte* row = static_cast<std::byte*>(rows.mutable_data_ptr()) + i * bytes;
      const at::Tensor key = numbers[i].narrow(0, 0, shape().qk_dim).contiguous();
      const at::Tensor value =
          numbers[i].narrow(0, shape().qk_dim, shape().v_dim).to(model_->compute()).contiguous();
      std::memcpy(row, key.const_data_ptr(), key.nbytes());
      std::memcpy(row + key.nbytes(), value.const_data_ptr(), value.nbytes());
    }
    std::vector<int64_t> slots;
    for (size_t i = 0; i < caches_.size(); ++i) {
      for (int64_t position = 0; position <= symbols; ++position) {
        slots.clear();
        slots_of(i).append_writes(position, slots);
        for (int64_t s = 0; s < batch_ * static_cast<int64_t>(slots.size()); ++s) {
          const int64_t b = s / static_cast<int64_t>(slots.size());
          const int64_t slot = slots[static_cast<size_t>(s) % slots.size()];
          std::memcpy(
              static_cast<std::byte*>(caches_[i].rows) + (b * caches_[i].slots + slot) * bytes,
              static_cast<const std::byte*>(rows.const_data_ptr()) +
                  (position + static_cast<int64_t>(i)) % kDifferent * bytes,
              static_cast<size_t>(bytes));
        }
      }
    }
    slots_ = symbols + 1;
    limit_.reached(slots_);
  }

  DecodeCost cost() const {
    DecodeCost cost;
    for (const at::Tensor& tensor : weights_->tensors) {
      cost.weight_bytes += static_cast<int64_t>(tensor.nbytes());
    }
    const int64_t row =
        shape().qk_dim * x_.element_size() + shape().v_dim * size_bytes(shape().compute);
    const int64_t shared = shape().heads / shape().kv_heads;
    for (size_t layer = 0; layer < static_cast<size_t>(shape().layers); ++layer) {
      const LayerSlots& slots = patterns_[cycle(layer)].now;
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

 private:
  const DecodeShape& shape() const { return weights_->model.shape; }
  size_t cycle(size_t layer) const { return layer % patterns_.size(); }
  // Of cache i.
  const pattern::CacheSlots& slots_of(size_t i) const {
    const auto kv_heads = static_cast<size_t>(shape().kv_heads);
    return patterns_[cycle(i / kv_heads)].slots[i % kv_heads];
  }

  void allocate(int64_t batch) {
    batch_ = batch;
    caches_.clear();
    rows_.clear();
    for (size_t i = 0; i < static_cast<size_t>(shape().layers * shape().kv_heads); ++i) {
      const int64_t slots = slots_of(i).size();
      rows_.push_back(allocate_large(static_cast<size_t>(batch * slots * row_bytes(shape()))));
      caches_.push_back({rows_.back().get(), slots});
    }
    x_ = at::empty({batch, shape().d_model}, model_->arena.values().options());
    threads_ = 0;  // the workspace is of another batch
  }

  at::Tensor decode(const at::Tensor& tokens) override {
    parameters_.check("while a sequence is decoded");
    const int64_t count = tokens.size(1) + (slots_ == 0 ? 1 : 0);
    LACE_CHECK(count > 0, "[model] tokens must hold at least one symbol after the first call, got ",
               "none");
    if (slots_ == 0 && count >= kPrefillSlots) return prefill(tokens, count);
    const at::Tensor logits = at::empty({batch_, shape().vocab}, x_.options());
    const auto* symbols = tokens.const_data_ptr<int64_t>();
    const int64_t before = tokens.size(1) - count;  // −1 at the start: slot 0 has no symbol
    for (int64_t i = 0; i < count; ++i) {
      embed(symbols + before + i, tokens.size(1));
      step(i + 1 == count ? logits.mutable_data_ptr() : nullptr);
    }
    return logits;
  }

  // H_0 of the next slot of each sequence; `symbols` are the sequences' ones before it, `stride`
  // apart.
  void embed(const int64_t* symbols, int64_t stride) {
    if (shape().compute == DType::kFloat64) {
      embed_wide<double>(symbols, stride);
    } else {
      embed_wide<float>(symbols, stride);
    }
  }

  template <typename W>
  void embed_wide(const int64_t* symbols, int64_t stride) {
    const int64_t d = shape().d_model;
    const auto row = [&](size_t table, int64_t index) {
      return model_->arena.parameter(table).const_data_ptr<W>() + index * d;
    };
    W* x = x_.mutable_data_ptr<W>();
    for (int64_t b = 0; b < batch_; ++b, x += d) {
      if (slots_ == 0) {
        std::copy_n(row(1, 0), d, x);
        continue;
      }
      std::copy_n(row(0, symbols[b * stride]), d, x);
      for (int64_t part = 0; part < model_->position_indices.size(0); ++part) {
        const auto* indices =
            model_->position_indices.const_data_ptr<int64_t>() + part * model_->config.seq_len;
        const W* position = row(static_cast<size_t>(part) + 2, indices[slots_ - 1]);
        for (int64_t c = 0; c < d; ++c) x[c] += position[c];
      }
    }
  }

  // One slot more of each sequence, whose H_0 is in x_.
  void step(void* logits) {
    Context context;
    context.executor = &ops::current_executor();
    const DecodeKernels& kernels = decode_kernels(Device::kCpu);
    if (threads_ != context.executor->num_threads()) {
      threads_ = context.executor->num_threads();
      workspace_ = allocate_large(kernels.workspace_bytes(shape(), batch_, threads_));
    }
    for (PatternCaches& pattern : patterns_) pattern.find_slots(slots_);
    layers_.clear();
    for (size_t layer = 0; layer < static_cast<size_t>(shape().layers); ++layer) {
      layers_.push_back(&patterns_[cycle(layer)].now);
    }
    DecodeStep args;
    args.batch = batch_;
    args.x = x_.mutable_data_ptr();
    args.caches = caches_.data();
    args.slots = layers_.data();
    const Rotary& rotary = model_->rotary;
    if (rotary.cos.defined()) {
      args.cos = rotary.cos.select(0, slots_).const_data_ptr();
      args.sin = rotary.sin.select(0, slots_).const_data_ptr();
    }
    args.logits = logits;
    args.workspace = workspace_.get();
    kernels.step(context, weights_->model, args);
    limit_.reached(++slots_);
  }

  // The first `count` slots, each sequence in a pass of its own: what a product gives for a row
  // may depend on how many there are.
  at::Tensor prefill(const at::Tensor& tokens, int64_t count) {
    std::vector<Writes> writes;
    for (const PatternCaches& pattern : patterns_) writes.emplace_back(pattern, count);
    std::vector<at::Tensor> logits;
    for (int64_t b = 0; b < batch_; ++b) {
      const at::Tensor x = run_blocks(
          *model_, embed_slots(*model_, tokens.narrow(0, b, 1), 0, count), 1, 0, count,
          [&](int64_t layer, const Qkv& qkv) {
            const size_t at = cycle(static_cast<size_t>(layer));
            store(b, layer, writes[at], qkv, count);
            return attention(qkv.q, qkv.k, qkv.v, clip_tokens(patterns_[at].for_prefill, count));
          });
      logits.push_back(model_->logits(x.narrow(0, count - 1, 1).contiguous()));
    }
    slots_ = count;
    limit_.reached(slots_);
    return at::cat(logits);
  }

  // Where the rows of the first slots go: by key head and slot.
  struct Writes {
    Writes(const PatternCaches& pattern, int64_t count) {
      for (const pattern::CacheSlots& slots : pattern.slots) {
        by_head.emplace_back(static_cast<size_t>(count));
        for (int64_t i = 0; i < count; ++i) {
          slots.append_writes(i, by_head.back()[static_cast<size_t>(i)]);
        }
      }
    }
    std::vector<std::vector<std::vector<int64_t>>> by_head;
  };

  void store(int64_t b, int64_t layer, const Writes& writes, const Qkv& qkv, int64_t count) {
    Context context;
    context.executor = &ops::current_executor();
    const auto strides = [](const at::Tensor& t) {
      return Tensor4{t.data_ptr(), t.stride(0), t.stride(1), t.stride(2)};
    };
    DecodeStore args;
    args.sequence = b;
    args.count = count;
    args.k = strides(qkv.k);
    args.v = strides(qkv.v);
    args.caches = caches_.data() + layer * shape().kv_heads;
    args.writes = writes.by_head.data();
    decode_kernels(Device::kCpu).store(context, shape(), args);
  }

  std::shared_ptr<const ModelImpl> model_;
  std::shared_ptr<Weights> weights_;
  Unchanged parameters_;                 // that the caches come from
  std::vector<PatternCaches> patterns_;  // of the layers, a cycle
  int64_t batch_ = 0;
  int64_t slots_ = 0;  // so far
  RollbackLimit limit_;
  std::vector<std::shared_ptr<std::byte>> rows_;  // of the caches
  std::vector<HeadCache> caches_;                 // [layers, kv_heads]
  at::Tensor x_;
  std::shared_ptr<std::byte> workspace_;
  int threads_ = 0;  // that the workspace is for
  std::vector<const LayerSlots*> layers_;
};

}  // namespace

std::shared_ptr<DecodeState> start_decoding_cpu(std::shared_ptr<const ModelImpl> model,
                                                int64_t batch, int64_t rollback) {
  return std::make_shared<CpuDecodeState>(std::move(model), batch, rollback);
}

std::shared_ptr<DecodeState> decoding_at(const SparseTransformer& model, int64_t batch,
                                         int64_t symbols) {
  LACE_CHECK(symbols >= 0 && symbols < model.config().seq_len,
             "[model] symbols must be from 0 to below seq_len (", model.config().seq_len, "), got ",
             symbols);
  auto state = std::make_shared<CpuDecodeState>(model.impl(), batch, 0);
  state->fill(symbols);
  return state;
}

DecodeCost decode_cost(const DecodeState& state) {
  return static_cast<const CpuDecodeState&>(state).cost();
}

}  // namespace lace::model
