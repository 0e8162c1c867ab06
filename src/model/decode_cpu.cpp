// Decoding on a CPU: a step of all layers is one call of kernels/decode.

#include <algorithm>
#include <cstring>
#include <utility>

#include <ATen/ATen.h>

#include "core/large_memory.h"
#include "model/decode_state.h"
#include "ops/torch_context.h"

namespace lace::model {

namespace {

class CpuDecodeState final : public CachedDecodeState {
 public:
  CpuDecodeState(std::shared_ptr<const ModelImpl> model, int64_t batch, int64_t rollback)
      : CachedDecodeState(std::move(model), rollback) {
    allocate(batch);
  }

  std::shared_ptr<DecodeState> fork(int64_t copies) const override {
    check_copies(copies);
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

  void fill(int64_t symbols) override {
    const int64_t bytes = row_bytes(shape());
    constexpr int64_t kDifferent = 997;
    const at::Tensor rows = random_rows(shape(), kDifferent);
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
    advance(symbols + 1);
  }

 private:
  void allocate(int64_t batch) {
    batch_ = batch;
    caches_.clear();
    rows_.clear();
    for (size_t i = 0; i < cache_count(); ++i) {
      const int64_t slots = slots_of(i).size();
      rows_.push_back(allocate_large(static_cast<size_t>(batch * slots * row_bytes(shape()))));
      caches_.push_back({rows_.back().get(), slots});
    }
    x_ = at::empty({batch, shape().d_model}, model_->arena.values().options());
    threads_ = 0;  // the workspace is of another batch
  }

  at::Tensor run_steps(const at::Tensor& tokens, int64_t count) override {
    const at::Tensor logits = at::empty({batch_, shape().vocab}, x_.options());
    const auto* symbols = tokens.const_data_ptr<int64_t>();
    const int64_t before = tokens.size(1) - count;  // −1 at the start: slot 0 has no symbol
    for (int64_t i = 0; i < count; ++i) {
      embed(symbols, before + i, tokens.size(1));
      step(i + 1 == count ? logits.mutable_data_ptr() : nullptr);
    }
    return logits;
  }

  // H_0 of the next slot of each sequence; the symbol before it is number `at` of the sequence's
  // `symbols`, which are `stride` apart.
  void embed(const int64_t* symbols, int64_t at, int64_t stride) {
    if (shape().compute == DType::kFloat64) {
      embed_wide<double>(symbols, at, stride);
    } else {
      embed_wide<float>(symbols, at, stride);
    }
  }

  template <typename W>
  void embed_wide(const int64_t* symbols, int64_t at, int64_t stride) {
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
      std::copy_n(row(0, symbols[b * stride + at]), d, x);
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
    const DecodeKernels& kernels = decode_kernels();
    if (threads_ != context.executor->num_threads()) {
      threads_ = context.executor->num_threads();
      workspace_ = allocate_large(kernels.workspace_bytes(shape(), batch_, threads_));
    }
    layers_.clear();
    for (size_t layer = 0; layer < static_cast<size_t>(shape().layers); ++layer) {
      layers_.push_back(&patterns_[cycle(layer)].find(slots_));
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
    advance(slots_ + 1);
  }

  void store(int64_t b, int64_t layer, PrefillRows& rows, const Qkv& qkv, int64_t count) override {
    Context context;
    context.executor = &ops::current_executor();
    DecodeStore args;
    args.sequence = b;
    args.count = count;
    args.k = strided(qkv.k);
    args.v = strided(qkv.v);
    args.caches = caches_.data() + layer * shape().kv_heads;
    args.writes = rows.by_head.data();
    decode_kernels().store(context, shape(), args);
  }

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

}  // namespace lace::model
