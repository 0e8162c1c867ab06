#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "lace/data.h"

namespace lace {

class SparseTransformer;  // lace/model.h

// What of a model's attention is mapped. Position i is where symbol i is predicted: a query i reads
// keys 0 … i, and key j stands for the symbols before j, nearest for symbol j − 1.
struct AttentionMapOptions {
  std::vector<int64_t> layers = {};  // none: at most four, from the first to the last
  std::vector<int64_t> heads = {};   // of each of them; none: the first four
  int64_t size =
      128;  // rows and columns of a matrix, at most (512 and the window too); 0: no matrix
  std::vector<int64_t> queries = {};  // whose keys are mapped one by one, for each head
  int64_t windows = 8;                // at most, of map_window() bytes, spread over the split
  int64_t batch = 1;                  // windows at a time
};

// Attention weights of a head, averaged over windows. NaN: the pattern allows no key there.
struct AttentionMap {
  int64_t layer = 0, head = 0;
  std::string pattern;  // the head's
  // A matrix: weights [rows, columns], the mean over the queries of a cell, summed over its keys:
  // each row sums to 1. Query i is in row ⌊i · rows / window⌋, keys likewise.
  int64_t rows = 0, columns = 0;
  // Else the weights of the keys 0 … query of one query.
  int64_t query = -1;
  std::vector<double> weights = {};
};

struct AttentionMaps {
  int64_t window = 0, windows = 0;      // bytes of a window; how many there were
  std::vector<AttentionMap> maps = {};  // by layer, then head: the matrix, then the queries
};

// Bytes of a window: seq_len, or the longest piece of the split where that is shorter.
int64_t map_window(int64_t seq_len, const DataSplit& split);

// The weights that the model's own attention has: of its queries, keys and log-sum-exp in the
// compute dtype. Costs a pass over each window, and for each mapped head work for its live pairs on
// the CPU; memory is that of a pass, of the maps, and of the mapped heads' queries and keys of one
// layer. Calls `on_layer` after each mapped layer of each batch. Throws lace::Error naming the
// option that is out of its range, or if the split is empty.
AttentionMaps attention_maps(const SparseTransformer& model, const DataSplit& split,
                             const AttentionMapOptions& options,
                             const std::function<void(int64_t done, int64_t total)>& on_layer = {});

}  // namespace lace
