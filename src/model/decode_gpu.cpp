// Decoding on a GPU: a step of all layers is one launch (kernels/decode/gpu_decode.h). What changes
// from step to step travels with it, symbols included; the host waits for the logits alone.

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "kernels/decode/gpu_decode.h"
#include "model/decode_state.h"
#include "ops/device_stream.h"

namespace lace::model {

namespace {

// Caches begin at multiples of it.
constexpr int64_t kCacheAlignment = 256;

class GpuDecodeState final : public CachedDecodeState {
 public:
  GpuDecodeState(std::shared_ptr<const ModelImpl> model, int64_t batch, int64_t rollback)
      : CachedDecodeState(std::move(model), rollback),
        position_indices_(model_->position_indices.cpu()) {
    allocate(batch);
  }

  std::shared_ptr<DecodeState> fork(int64_t copies) const override {
    check_copies(copies);
    auto state = std::make_shared<GpuDecodeState>(*this);
    state->allocate(batch_ * copies);
    const c10::DeviceGuard guard(device());
    for (size_t i = 0; i < caches_.size(); ++i) {
      const int64_t bytes = slots_of(i).extent(limit_.furthest) * row_bytes(shape());
      const at::Tensor from = caches_[i].narrow(1, 0, bytes).unsqueeze(1);
      state->caches_[i].view({batch_, copies, -1}).narrow(2, 0, bytes).copy_(from);
    }
    return state;
  }

  void fill(int64_t symbols) override {
    const c10::DeviceGuard guard(device());
    constexpr int64_t kDifferent = 997;
    const at::Tensor rows = random_rows(shape(), kDifferent).to(device());
    for (size_t i = 0; i < caches_.size(); ++i) {
      const at::Tensor which = (at::arange(slots_of(i).size(), rows.options().dtype(at::kLong)) +
                                static_cast<int64_t>(i))
                                   .remainder_(kDifferent);
      caches_[i].copy_(rows.index_select(0, which).view({1, -1}));
    }
    advance(symbols + 1);
  }

 private:
  at::Device device() const { return model_->device(); }
  at::TensorOptions bytes_here() const { return at::TensorOptions(at::kByte).device(device()); }

  // A copy of host memory on the device.
  template <typename T>
  at::Tensor upload(const std::vector<T>& values) const {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
    // Pinned memory that is freed is not used again before copies from it are done.
    const at::Tensor host = at::empty({bytes}, at::TensorOptions(at::kByte).pinned_memory(true));
    std::memcpy(host.mutable_data_ptr(), values.data(), static_cast<size_t>(bytes));
    return host.to(device(), /*non_blocking=*/true);
  }

  void allocate(int64_t batch) {
    const c10::DeviceGuard guard(device());
    batch_ = batch;
    plan_ = plan_gpu_decode(shape(), batch);
    int64_t end = 0;
    std::vector<int64_t> begins;
    const auto cache_size = [&](size_t i) { return slots_of(i).size() * row_bytes(shape()); };
    for (size_t i = 0; i < cache_count(); ++i) {
      begins.push_back(end);
      end += (batch * cache_size(i) + kCacheAlignment - 1) / kCacheAlignment * kCacheAlignment;
    }
    const at::Tensor memory = at::empty({end}, bytes_here());
    std::vector<HeadCache> tables;
    caches_.clear();
    for (size_t i = 0; i < cache_count(); ++i) {
      caches_.push_back(
          memory.narrow(0, begins[i], batch * cache_size(i)).view({batch, cache_size(i)}));
      tables.push_back({caches_.back().mutable_data_ptr(), slots_of(i).size()});
    }
    block_table_ = upload(weights_->model.blocks);
    cache_table_ = upload(tables);
    number_ = 0;
    workspace_ = at::zeros({static_cast<int64_t>(workspace_bytes(*plan_))}, bytes_here());
  }

  GpuDecodeTables tables() const {
    const DecodeModel& model = weights_->model;
    return {.blocks = static_cast<const DecodeBlock*>(block_table_.const_data_ptr()),
            .caches = static_cast<const HeadCache*>(cache_table_.const_data_ptr()),
            .norm_weight = static_cast<const float*>(model.norm_weight),
            .norm_bias = static_cast<const float*>(model.norm_bias),
            .output_weight = static_cast<const float*>(model.output_weight),
            .tokens = model_->arena.parameter(0).const_data_ptr<float>(),
            .start = model_->arena.parameter(1).const_data_ptr<float>()};
  }

  at::Tensor run_steps(const at::Tensor& tokens, int64_t count) override {
    const c10::DeviceGuard guard(device());
    const bool on_host = tokens.is_cpu();
    const at::Tensor symbols = tokens.cpu();
    // The GPU writes into pinned memory itself.
    const at::Tensor logits =
        on_host
            ? at::empty({batch_, shape().vocab}, at::TensorOptions(at::kFloat).pinned_memory(true))
            : at::empty({batch_, shape().vocab}, bytes_here().dtype(at::kFloat));
    const int64_t before = symbols.size(1) - count;  // −1 at the start: slot 0 has no symbol
    for (int64_t i = 0; i < count; ++i) {
      step(symbols, before + i, i + 1 == count ? logits.mutable_data_ptr<float>() : nullptr);
    }
    if (on_host) {
      // While the GPU is at it, what the next step will ask for.
      if (slots_ < model_->config.seq_len) find_slots();
      c10::impl::VirtualGuardImpl(device().type()).getStream(device()).synchronize();
    }
    return logits;
  }

  // Of the next slot, by pattern.
  std::vector<const LayerSlots*> find_slots() {
    std::vector<const LayerSlots*> slots;
    for (PatternCaches& pattern : patterns_) slots.push_back(&pattern.find(slots_));
    return slots;
  }

  // One slot more of each sequence, behind symbol `column` of each.
  void step(const at::Tensor& symbols, int64_t column, float* logits) {
    std::vector<int64_t> tokens;
    for (int64_t b = 0; slots_ > 0 && b < batch_; ++b) {
      tokens.push_back(symbols.const_data_ptr<int64_t>()[b * symbols.size(1) + column]);
    }
    const std::vector<const LayerSlots*> slots = find_slots();
    const cuda::decode::StepWords words(tokens, batch_, slots);
    at::Tensor far_words;
    GpuDecodeStep args;
    args.tables = tables();
    args.changing = &words;
    if (!words.fit_a_launch()) {
      far_words = upload(words.words);
      args.far_words = static_cast<const int32_t*>(far_words.const_data_ptr());
    }
    for (int64_t part = 0; slots_ > 0 && part < position_indices_.size(0); ++part) {
      const int64_t row =
          position_indices_.const_data_ptr<int64_t>()[part * model_->config.seq_len + slots_ - 1];
      args.positions[part] =
          model_->arena.parameter(static_cast<size_t>(part) + 2).const_data_ptr<float>() +
          row * shape().d_model;
    }
    if (model_->rotary.cos.defined()) {
      const int64_t first = slots_ * (shape().qk_dim / 2);
      args.cos = model_->rotary.cos.const_data_ptr<float>() + first;
      args.sin = model_->rotary.sin.const_data_ptr<float>() + first;
    }
    args.logits = logits;
    args.workspace = static_cast<std::byte*>(workspace_.mutable_data_ptr());
    args.number = number_++;
    gpu_decode_step(context(), *plan_, args);
    advance(slots_ + 1);
  }

  void store(int64_t b, int64_t layer, PrefillRows& rows, const Qkv& qkv, int64_t) override {
    const c10::DeviceGuard guard(device());
    if (!rows.on_device.defined()) rows.on_device = upload(stored_rows(rows.by_head));
    GpuDecodeStore args;
    args.sequence = b;
    args.k = strided(qkv.k);
    args.v = strided(qkv.v);
    args.caches = tables().caches + layer * shape().kv_heads;
    args.rows = static_cast<const StoredRow*>(rows.on_device.const_data_ptr());
    args.count = rows.on_device.numel() / static_cast<int64_t>(sizeof(StoredRow));
    gpu_decode_store(context(), shape(), args);
  }

  Context context() const {
    Context context;
    context.stream = ops::current_stream(device());
    return context;
  }

  at::Tensor position_indices_;  // as the model has them, on the host
  std::shared_ptr<const GpuDecodePlan> plan_;
  std::vector<at::Tensor> caches_;        // [layers, kv_heads] of uint8 [batch, bytes]
  at::Tensor block_table_, cache_table_;  // GpuDecodeTables' arrays
  at::Tensor workspace_;
  uint32_t number_ = 0;  // of steps that it has had
};

}  // namespace

std::shared_ptr<DecodeState> start_decoding_gpu(std::shared_ptr<const ModelImpl> model,
                                                int64_t batch, int64_t rollback) {
  return std::make_shared<GpuDecodeState>(std::move(model), batch, rollback);
}

}  // namespace lace::model
