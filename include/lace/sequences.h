#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>

namespace lace {

// Where the sequences of a batch stand: int32 [sequences, 6], for AttentionOptions::sequences. Of
// each the positions of its queries, begin and end, and what is added to one to have its row; and
// the same of its keys. Positions count from 0 in each sequence, and patterns mean them: absolute
// atoms (block, summary, sinks …) stay right wherever a sequence begins. Made on the device of the
// tensors, without a synchronisation; made once, it serves all layers of a model.

// Of a padded batch. All int32 or int64 [batch], or [1] for all alike; at least one is given.
struct SequencePlaces {
  std::optional<at::Tensor> k_lens = {};   // positions of the sequence; default: up to k's last row
  std::optional<at::Tensor> q_start = {};  // position of q's first row; default: q is k's last rows
  std::optional<at::Tensor> k_start = {};  // position of k's first row; default 0
  std::optional<at::Tensor> k_first = {};  // position of the first key that is no padding
  std::optional<at::Tensor> k_end = {};    // the position behind the last one
};
// Positions below 0, or from the sequence's length on, are padding of both q and k: such queries
// give 0. Keys before k_first or from k_end on are not seen either, but queries there have results.
// So
//   padding on the right: k_lens
//   padding on the left:  k_start = −(rows of padding)
//   a static cache:       k_lens, and q_start = k_lens − q_rows
//   a cache that has dropped its first rows: k_start = how many
//   a mask of keys:       k_first and k_end
// q_rows, k_rows: seq_len of q and of k.
at::Tensor padded_sequences(c10::SymInt batch, c10::SymInt q_rows, c10::SymInt k_rows,
                            const SequencePlaces& places);

// Of sequences that lie one behind another in tensors [rows, heads, head_dim]: sequence s has rows
// cu_seqlens_q[s] to cu_seqlens_q[s + 1] − 1 of q, and of k likewise; its queries are the last of
// its keys, or begin at position q_start[s].
//   cu_seqlens_q, cu_seqlens_k  int32 or int64 [sequences + 1], ascending
//   q_start                     int32 or int64 [sequences]
at::Tensor packed_sequences(const at::Tensor& cu_seqlens_q, const at::Tensor& cu_seqlens_k,
                            const std::optional<at::Tensor>& q_start = {});

}  // namespace lace
