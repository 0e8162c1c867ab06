#pragma once

#include <cstdint>

#include "kernels/decode/decode.h"

#ifdef __CUDACC__
#define LACE_HOST_DEVICE __host__ __device__
#else
#define LACE_HOST_DEVICE
#endif

// What a step on a GPU is cut into, as plain arithmetic that host and device share.

namespace lace::cuda::decode {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kTileRows = 16;  // rows of weights that a block multiplies at once: of mma's A
constexpr int kChunk = 32;     // columns of weights that a warp multiplies at once: of two mma
constexpr int kMostSequences = 64;

// The sizes that a step is made of.
struct StepShape {
  int layers = 0, d_model = 0, heads = 0, kv_heads = 0, qk_dim = 0, v_dim = 0, ff_width = 0;
  int vocab = 0;
};

// Sixteen rows of weights: low, low + 1, … and high, high + 1, …, eight at most of each.
struct Tile {
  int low = 0, high = 0;
  int low_count = 0, high_count = 0;

  // That of number 0 to 15.
  LACE_HOST_DEVICE int row(int number) const {
    return number < 8 ? low + number : high + number - 8;
  }
};

LACE_HOST_DEVICE constexpr int least(int a, int b) { return a < b ? a : b; }
LACE_HOST_DEVICE constexpr int cover(int count, int size) { return (count + size - 1) / size; }

// Of a row of sums in shared memory, in sequences: so that what a warp stores at once, two of each
// of eight rows, goes to different banks.
LACE_HOST_DEVICE constexpr int column_stride(int sequences) {
  return sequences == 8 ? 8 : sequences + 8;
}

constexpr int kMostKeySplits = 32;
constexpr int kMergeWords = 4;  // before a warp's sums of values: its highest logit, Σ weights

LACE_HOST_DEVICE inline Tile plain_tile(int rows, int tile) {
  const int first = tile * kTileRows, left = rows - first;
  return {first, first + 8, least(8, left), left > 8 ? least(8, left - 8) : 0};
}

// The fused projection's tiles lie within one head of q, k or v. Those of q and k hold numbers of
// the first half of a head and, eight rows on, the numbers that these are turned with.
struct ProjectionTile {
  enum Kind { kQuery, kKey, kValue };
  Kind kind = kQuery;
  int head = 0;   // of its kind
  int first = 0;  // within the head: that of Tile::low
  Tile rows;
};

LACE_HOST_DEVICE inline int turned_tiles(const StepShape& s) { return cover(s.qk_dim / 2, 8); }
LACE_HOST_DEVICE inline int value_tiles(const StepShape& s) { return cover(s.v_dim, kTileRows); }
LACE_HOST_DEVICE inline int projection_tiles(const StepShape& s) {
  return (s.heads + s.kv_heads) * turned_tiles(s) + s.kv_heads * value_tiles(s);
}

LACE_HOST_DEVICE inline ProjectionTile projection_tile(const StepShape& s, int tile) {
  ProjectionTile result;
  const int turned = turned_tiles(s), keys_and_queries = s.heads + s.kv_heads;
  if (tile < keys_and_queries * turned) {
    const int head = tile / turned, half = s.qk_dim / 2, first = tile % turned * 8;
    const int count = least(8, half - first), row = head * s.qk_dim + first;
    result.kind = head < s.heads ? ProjectionTile::kQuery : ProjectionTile::kKey;
    result.head = head < s.heads ? head : head - s.heads;
    result.first = first;
    result.rows = {row, row + half, count, count};
    return result;
  }
  tile -= keys_and_queries * turned;
  const int head = tile / value_tiles(s);
  const int begin = keys_and_queries * s.qk_dim + head * s.v_dim;
  result.kind = ProjectionTile::kValue;
  result.head = head;
  result.rows = plain_tile(s.v_dim, tile % value_tiles(s));
  result.first = result.rows.low;
  result.rows.low += begin;
  result.rows.high += begin;
  return result;
}

// A product is cut into items: a tile of its rows times a range of its columns. A block takes item
// blockIdx, then every gridDim-th.
struct ProductTasks {
  int tiles = 0;
  int splits = 1;         // ranges of columns; their sums are added up by who reads them
  int split_columns = 0;  // of a range but the last; a multiple of kChunk if there are several
};

// Where a step's parts go, worked out once for a model and a batch.
struct StepLayout {
  int blocks = 0;          // of kThreads threads, all at once
  bool aligned = false;    // rows of weights are multiples of 8 columns
  int sequences = 0;       // that a block multiplies at once: 8; where aligned, 16, 32 or 64 too
  bool own_norms = false;  // each block norms all rows, instead of some before a barrier
  int norm_warps = 0;      // of a block, that norm rows
  int key_splits = 1;      // of a query's keys
  ProductTasks qkv, proj, ff1, ff2;
  int operand_stride = 0;  // of a sequence's operands in shared memory, in elements
  // Shared memory: StepWords as far as they fit, weight and bias of a norm where norms are own,
  // operands, scratch.
  int64_t words_bytes = 0, norm_bytes = 0, scratch_bytes = 0, shared_bytes = 0;
  // Offsets into the workspace; all parts but the first are fp32 unless a type is named.
  int64_t barrier = 0;     // two words, zero between steps
  int64_t x[2] = {0, 0};   // [batch, d_model], in turn
  int64_t normed = 0;      // [batch, d_model], at the end fp32, else compute
  int64_t q = 0;           // [batch, heads, qk_dim]
  int64_t head_sums = 0;   // [batch, heads, key_splits, v_dim]
  int64_t head_stats = 0;  // [batch, heads, key_splits, 2]: highest logit (log₂), Σ weights
  int64_t ff = 0;          // compute [batch, ff_width]
  int64_t proj_sums = 0;   // [proj.splits, batch, d_model]
  int64_t ff_sums = 0;     // [ff2.splits, batch, d_model]
  int64_t workspace_bytes = 0;
};

struct Gpu {
  int multiprocessors = 0;
  int64_t shared_bytes = 0;  // that a block may have
};

// Throws lace::Error `[decode] …` for a model that does not fit.
StepLayout step_layout(const DecodeShape& shape, int64_t batch, const Gpu& gpu);

StepShape step_shape(const DecodeShape& shape);

}  // namespace lace::cuda::decode
