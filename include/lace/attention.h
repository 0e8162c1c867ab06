#pragma once

#include <optional>
#include <string>
#include <utility>

#include <ATen/core/Tensor.h>

#include "lace/error.h"
#include "lace/pattern.h"

namespace lace {

struct AttentionOptions {
  // Default: 1 / √(head_dim of q). Finite, and but for float64 below 2^127 in size; there, less
  // than 2^−126 counts as 0.
  std::optional<double> scale = {};
  // On a GPU: bitwise repeatable gradients, slower. Also where
  // torch.use_deterministic_algorithms(True) asks for them.
  bool deterministic = false;
  // [heads], float32, bfloat16, float16 or float64; none by default. One more logit in the softmax
  // of each row of a head, without a value: e^sink is added to what weights are divided by.
  at::Tensor sinks = {};
  // Where the sequences of the batch stand, if not everywhere with the queries the last of the
  // keys: what padded_sequences or packed_sequences (lace/sequences.h) made, on the device of q.
  at::Tensor sequences = {};
  // Positions that sequences have, at most: what stands at later ones may count as padding. The
  // nearer to the longest, the less work. Default: on a CPU the longest; on a GPU, which is not
  // asked, the rows of k. Of use with `sequences` only.
  std::optional<int64_t> max_len = {};
  // A number c > 0: logits become c · tanh(logits / c), as Gemma 2 has it. Finite, and but for
  // float64 from 2^−64 to 2^64. None by default.
  std::optional<double> softcap = {};
  // bool [heads or 1, blocks, blocks] or [blocks, blocks], queries by keys, on any device: of the
  // pattern's pairs those in live blocks are computed, of block_size positions each; beyond the
  // blocks nothing is live. Read at every call and copied to the CPU, which waits for a GPU; plans
  // are found again by content.
  at::Tensor block_mask = {};
  int64_t block_size = 0;
};

// out = softmax(scale · q kᵀ, kept to the pattern's pairs) v; with a softcap c of
// c · tanh(scale · q kᵀ / c)
//   q    [batch, heads,    q_len, head_dim]     float32, bfloat16, float16 or float64; any strides
//   k    [batch, kv_heads, k_len, head_dim]     heads is a multiple of kv_heads, q_len <= k_len
//   v    [batch, kv_heads, k_len, v_head_dim]
//   out  [batch, heads,    q_len, v_head_dim]
// With packed sequences, whose rows lie one behind another, [rows, heads or kv_heads, head_dim],
// and so is out. Rows of no sequence are never read, NaN in them neither; their out is 0, their lse
// −∞, their gradients 0. A pattern that counts from the end of the keys (global{-1}; random where
// it is bidirectional) is an error with sequences. On a GPU it is not checked whether sequences lie
// in the tensors, and do not overlap. Differentiable once in q, k, v and sinks. Under autocast, q,
// k and v are cast to the autocast dtype. A row without keys gives 0. On a CPU float64 runs the
// reference kernel, plain loops. cpu_avx512_bf16 multiplies bfloat16 with an instruction that
// counts numbers below 2^−126 in size as 0: elements of q, k, v and dout, weights, sums of
// products, and what backward multiplies q and k with, weight · scale · (dout·v − dout·out). Rows
// that a query may not see never change its results, nor its gradients, bit for bit, as long as
// they are finite, and q·k and dout·v of them too (on a CPU these may overflow). NaN or infinity in
// such a row of q, k, v or dout may: tiles multiply what is not live with a weight of 0. Padding
// holds finite numbers, zeros say.
// Throws lace::Error before any work if an argument breaks a rule above.
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const Pattern& pattern, const AttentionOptions& options = {});

// As attention, with the log-sum-exp of each row's logits, its sink's too: lse [batch, heads,
// q_len], or [heads, rows] with packed sequences (natural log; −inf for a row without keys, or its
// sink; float64 for float64 inputs, else float32). Differentiable too, so that results of calls
// over other keys can be joined and trained through:
//   lse = logaddexp(lse1, lse2),  out = out1 · e^(lse1 − lse) + out2 · e^(lse2 − lse)
std::pair<at::Tensor, at::Tensor> attention_with_lse(const at::Tensor& q, const at::Tensor& k,
                                                     const at::Tensor& v, const Pattern& pattern,
                                                     const AttentionOptions& options = {});

// The name of the kernel that attention(q, k, v, …) would run now.
std::string attention_kernel(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

}  // namespace lace
