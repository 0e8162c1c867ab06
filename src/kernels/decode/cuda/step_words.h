#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/decode/decode.h"

namespace lace::cuda::decode {

// What of a step changes from position to position, in words of 32 bits:
//   [batch]                     the symbol before the slot; −1 for the start
//   [patterns, heads, 3]        where the runs of a query's slots begin; how many slots they name;
//                               which of these, counted from 0, has the new row; −1: none
//   [patterns, kv_heads, 2]     where the slots begin that the new row goes to; how many they are
//   runs and slots              a run is {first, width, count, stride}
// Layer l has pattern l mod patterns. Heads with the same runs share them.
constexpr int kLaunchWords = 896;  // so many travel with a launch
constexpr int kReadWords = 3;      // of the table of queries, a head

struct StepWords {
  // `tokens` [batch] (empty: all start), `slots` [patterns].
  StepWords(std::span<const int64_t> tokens, int64_t batch,
            std::span<const LayerSlots* const> slots);

  bool fit_a_launch() const { return words.size() <= kLaunchWords; }

  std::vector<int32_t> words;
  int patterns = 0;
  int64_t most_keys = 0;          // of a query
  int64_t reads = 0, writes = 0;  // where the tables of queries and new rows begin
};

}  // namespace lace::cuda::decode
