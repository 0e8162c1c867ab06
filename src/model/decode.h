#pragma once

#include <functional>
#include <memory>

#include "model/block.h"
#include "model/transformer.h"

namespace lace::model {

using ModelImpl = SparseTransformer::Impl;

// A new state, through kernels/decode and caches of what patterns can still read. Arguments are
// checked.
std::shared_ptr<DecodeState> start_decoding_cpu(std::shared_ptr<const ModelImpl> model,
                                                int64_t batch, int64_t rollback);
std::shared_ptr<DecodeState> start_decoding_gpu(std::shared_ptr<const ModelImpl> model,
                                                int64_t batch, int64_t rollback);

// H_0 of the first `count` slots of one sequence, residual [count, d_model], given the symbols
// before each but the start: tokens int64 [1, count − 1].
at::Tensor embed_slots(const ModelImpl& model, const at::Tensor& tokens, int64_t count);

// All blocks over the first `count` slots of one sequence, given what attention gives for the fused
// projection of each: [1, heads, count, v_head_dim].
using Attend = std::function<at::Tensor(int64_t layer, const Qkv& qkv)>;
at::Tensor run_blocks(const ModelImpl& model, at::Tensor x, int64_t count, const Attend& attend);

// How far sequences may go back.
struct RollbackLimit {
  int64_t most = 0, furthest = 0;

  void reached(int64_t slots) { furthest = slots > furthest ? slots : furthest; }
  // Throws unless `slots` − n are enough.
  void check(int64_t slots, int64_t n) const;
};

// ---- what benchmarks see ------------------------------------------------------------------------

// A state as after `symbols` symbols, whose caches hold random numbers in their place.
std::shared_ptr<DecodeState> decoding_at(const SparseTransformer& model, int64_t batch,
                                         int64_t symbols);

// What the last step of such a state read: each weight once, and of the caches the rows of live
// keys, once for the query heads that share them.
struct DecodeCost {
  int64_t weight_bytes = 0, cache_bytes = 0;
};
DecodeCost decode_cost(const DecodeState& state);

}  // namespace lace::model
