#pragma once

#include <memory>
#include <vector>

#include "kernels/decode/decode.h"
#include "model/decode.h"
#include "pattern/cache_slots.h"

namespace lace::model {

// The caches of the layers that share a pattern.
class PatternCaches {
 public:
  PatternCaches(const Pattern& pattern, const ModelConfig& config, int64_t rollback);

  // Of the row at `position` and its queries.
  LayerSlots slots_at(int64_t position) const;
  // The same, found once for a position that is asked for again.
  const LayerSlots& find(int64_t position);

  const Pattern& for_prefill() const { return for_prefill_; }
  const pattern::CacheSlots& slots(size_t kv_head) const { return slots_[kv_head]; }
  size_t kv_heads() const { return slots_.size(); }

 private:
  Pattern for_prefill_;
  BoundPattern bound_;                       // to seq_len
  size_t shared_;                            // query heads of a key head
  std::vector<pattern::Retained> retained_;  // those that there are
  std::vector<size_t> retained_of_;          // of each key head, in `retained_`
  std::vector<pattern::CacheSlots> slots_;   // of each key head
  LayerSlots found_;
  int64_t found_position_ = -1;
};

// The parameters that a step reads, and what keeps them in memory.
struct DecodeWeights {
  explicit DecodeWeights(const ModelImpl& impl);

  DecodeModel model;
  std::vector<at::Tensor> tensors;
};

// Where the rows of a prefill go: by key head and slot.
struct PrefillRows {
  PrefillRows(const PatternCaches& pattern, int64_t count);

  std::vector<std::vector<std::vector<int64_t>>> by_head;
  at::Tensor on_device;  // of a GPU: the same as StoredRow, made by the first layer that stores
};

// A state whose caches hold the rows that patterns can still read, in the slots that
// pattern::CacheSlots gives them. What lies on the device is the business of those that derive.
class CachedDecodeState : public DecodeState {
 public:
  CachedDecodeState(std::shared_ptr<const ModelImpl> model, int64_t rollback);

  int64_t batch() const override { return batch_; }
  int64_t symbols() const override { return slots_ > 0 ? slots_ - 1 : 0; }
  void rollback(int64_t n) override;
  int64_t cache_bytes() const override;

  // As after so many symbols, with random rows.
  virtual void fill(int64_t symbols) = 0;
  DecodeCost cost() const;

 protected:
  // Of the slots behind those so far: all of the symbols before them but the start's are in
  // `tokens`. Returns the last one's logits.
  virtual at::Tensor run_steps(const at::Tensor& tokens, int64_t count) = 0;
  // Rows of a prefill: keys and values of sequence b in a layer.
  virtual void store(int64_t b, int64_t layer, PrefillRows& rows, const Qkv& qkv,
                     int64_t count) = 0;

  const DecodeShape& shape() const { return weights_->model.shape; }
  size_t cycle(size_t layer) const { return layer % patterns_.size(); }
  size_t cache_count() const { return static_cast<size_t>(shape().layers * shape().kv_heads); }
  // Of cache i of [layers, kv_heads].
  const pattern::CacheSlots& slots_of(size_t i) const;
  // After a step of every sequence.
  void advance(int64_t slots) {
    slots_ = slots;
    limit_.reached(slots_);
  }

  std::shared_ptr<const ModelImpl> model_;
  std::shared_ptr<DecodeWeights> weights_;
  std::vector<PatternCaches> patterns_;  // of the layers, a cycle
  int64_t batch_ = 0;
  int64_t slots_ = 0;  // so far
  RollbackLimit limit_;

 private:
  at::Tensor decode(const at::Tensor& tokens) final;
  at::Tensor prefill(const at::Tensor& tokens, int64_t count);

  Unchanged parameters_;  // that the caches come from
};

// A tensor [batch, heads, rows, head_dim] as kernels take it.
Tensor4 strided(const at::Tensor& tensor);

// Throws unless so many copies of a state can be made.
void check_copies(int64_t copies);

// Rows as random numbers have them: uint8 [count, row_bytes(shape)], on a CPU.
at::Tensor random_rows(const DecodeShape& shape, int64_t count);

}  // namespace lace::model
