#pragma once

#include <cstdint>

#include "kernels/decode/cuda/tasks.h"

// What a step of one sequence is cut into where blocks pass one another stamped values
// (lone_step.cuh), as plain arithmetic.

namespace lace::cuda::decode {

// The phases of a layer.
enum LoneKind { kLoneQkv, kLoneKeys, kLoneProj, kLoneFf1, kLoneFf2, kLoneKinds };

// A product whose rows are cut into 1, 2, 4 or 8 stretches of columns: the 16 rows of a tile are
// the stretches of some rows of weights, one after the other, and of mma's 8 columns each holds the
// operands of a stretch. A block adds up whole rows; block b has tiles b, b + blocks, ….
struct FoldedTasks {
  int tiles = 0;
  int fold_log = 0;  // of the number of stretches to base 2
  int columns = 0;   // of a stretch, a multiple of 8
  int groups = 0;    // of kLoneChunks chunks, that a warp multiplies of a tile

  LACE_HOST_DEVICE constexpr int fold() const { return 1 << fold_log; }
  LACE_HOST_DEVICE constexpr int in() const { return columns << fold_log; }
  // Rows of weights in a tile.
  LACE_HOST_DEVICE constexpr int rows_log() const { return kTileLog - fold_log; }
  // That of which row `number` of a tile is a stretch, and which.
  LACE_HOST_DEVICE constexpr int row(int tile, int number) const {
    return (tile << rows_log()) + (number >> fold_log);
  }
  LACE_HOST_DEVICE constexpr int stretch(int number) const { return number & (fold() - 1); }
  static constexpr int kTileLog = 4;
  static_assert(1 << kTileLog == kTileRows);
};

// kThreads threads of a block multiply and attend, so many others copy for them.
constexpr int kLoneCopiers = 128, kLoneThreads = kThreads + kLoneCopiers;
constexpr int kLoneKeysAhead = 2;  // keys that a thread looks at at once
constexpr int kLoneChunks = 2;
constexpr int kLonePieces = 4;  // of 16 bytes, for each thread that multiplies: a group of copies
constexpr int kLoneAhead = 6;   // groups that are on their way
constexpr int kLoneNorms = 5;   // norms whose weights are there or on their way

struct LoneLayout {
  bool fits = false;  // false: the model takes the way of several sequences
  int blocks = 0;     // of kLoneThreads threads, all at once; each has a tile of ff2
  int lanes = 0;      // that share a key: 4, 8 or 16
  int key_splits = 1;
  float inverse_width = 1;        // 1 / d_model
  FoldedTasks tasks[kLoneKinds];  // of kLoneKeys the tiles alone: heads · key_splits
  // Shared memory, beginning with StepWords as far as they fit.
  int64_t blocks_at = 0;    // DecodeBlock [layers]
  int64_t caches_at = 0;    // HeadCache [layers, kv_heads]
  int64_t stream_at = 0;    // float [2, d_model]
  int64_t operands_at = 0;  // compute, stretches operand_stride apart
  int64_t fresh_at = 0;     // float: query, key and value of a head
  int64_t scratch_at = 0;   // of sums
  int64_t rows_at = 0;      // int2 [kLoneKinds, kLoneCopiers]: where threads' rows of weights begin
  int64_t biases_at = 0;    // compute [kLoneAhead, kTileRows]
  int64_t norms_at = 0;     // float [kLoneNorms, 2, d_model]
  int64_t ahead_at = 0;     // [kLoneAhead, kLonePieces, kThreads] of 16 bytes
  int64_t shared_bytes = 0;
  // The workspace, in words of 64 bits.
  int64_t x = 0;          // [2, d_model]: the stream after ff2, of layers in turn
  int64_t second = 0;     // [d_model]: after the projection
  int64_t projected = 0;  // what the fused projection gives, turned
  int64_t ranges = 0;     // [heads, v_dim / 2, key_splits, 4]: highest logit, Σ weights, two sums
  int64_t attended = 0;   // [heads · v_dim / 2]: two of compute a word
  int64_t ff = 0;         // [ff_width / 2]: as these
  int64_t words = 0;
};

LoneLayout lone_layout(const DecodeShape& shape, const Gpu& gpu);

// Whether a step whose queries have up to so many keys goes this way: where most of its time is
// reading them, the other has more of them on their way.
bool goes_alone(const LoneLayout& layout, int64_t most_keys);

// Elements from a stretch of operands to the next.
LACE_HOST_DEVICE constexpr int stretch_stride(int columns) { return cover(columns, 64) * 64 + 32; }

}  // namespace lace::cuda::decode
