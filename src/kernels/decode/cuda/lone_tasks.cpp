#include "kernels/decode/cuda/lone_tasks.h"

#include <algorithm>

#include "kernels/decode/cuda/step_words.h"

namespace lace::cuda::decode {

namespace {

int64_t round_up(int64_t count, int64_t size) { return (count + size - 1) / size * size; }

// As many stretches as leave the most blocks a tile, none more than one.
FoldedTasks fold(int rows, int in, int blocks) {
  FoldedTasks tasks;
  while (tasks.fold() < 8 && in % (16 * tasks.fold()) == 0 &&
         cover(rows, kTileRows / (2 * tasks.fold())) <= blocks) {
    tasks.fold_log++;
  }
  tasks.tiles = cover(rows, kTileRows / tasks.fold());
  tasks.columns = in / tasks.fold();
  return tasks;
}

// Times that a block may look at as many keys as it does at once.
constexpr int kMostRounds = 4;

}  // namespace

bool goes_alone(const LoneLayout& layout, int64_t most_keys) {
  if (!layout.fits) return false;
  const int64_t at_once = int64_t{kThreads} / layout.lanes * kLoneKeysAhead;
  return most_keys <= kMostRounds * at_once * layout.key_splits;
}

LoneLayout lone_layout(const DecodeShape& shape, const Gpu& gpu) {
  const StepShape s = step_shape(shape);
  LoneLayout layout;
  if (s.d_model % 8 != 0 || s.ff_width % 8 != 0) return layout;
  layout.inverse_width = 1.0f / static_cast<float>(s.d_model);
  const int columns_in = s.heads * s.v_dim;
  layout.tasks[kLoneFf2] = fold(s.d_model, s.ff_width, gpu.multiprocessors);
  layout.blocks = std::min(gpu.multiprocessors, layout.tasks[kLoneFf2].tiles);
  layout.tasks[kLoneProj] = fold(s.d_model, columns_in, layout.blocks);
  layout.tasks[kLoneFf1] = {cover(s.ff_width, kTileRows), 0, s.d_model, 0};
  layout.tasks[kLoneQkv] = {projection_tiles(s), 0, s.d_model, 0};
  const int widest = std::max(s.qk_dim, s.v_dim);
  layout.lanes = widest <= 64 ? 4 : widest <= 128 ? 8 : 16;
  layout.key_splits = std::clamp(layout.blocks / s.heads, 1, kMostKeySplits);
  layout.tasks[kLoneKeys].tiles = s.heads * layout.key_splits;
  for (FoldedTasks& tasks : layout.tasks) {
    tasks.groups = cover(cover(tasks.columns, kChunk), kWarps * kLoneChunks);
  }

  const auto take_shared = [&](int64_t bytes) {
    const int64_t at = layout.shared_bytes;
    layout.shared_bytes += round_up(bytes, 128);
    return at;
  };
  const int64_t d_model = s.d_model, layers = s.layers;
  const auto operands = [](const FoldedTasks& tasks) {
    return int64_t{tasks.fold()} * stretch_stride(tasks.columns) * 2;
  };
  take_shared(int64_t{kLaunchWords} * 4);
  layout.blocks_at = take_shared(layers * static_cast<int64_t>(sizeof(DecodeBlock)));
  layout.caches_at = take_shared(layers * s.kv_heads * static_cast<int64_t>(sizeof(HeadCache)));
  layout.stream_at = take_shared(2 * d_model * 4);
  layout.operands_at =
      take_shared(std::max(operands(layout.tasks[kLoneProj]), operands(layout.tasks[kLoneFf2])));
  layout.fresh_at = take_shared((2 * s.qk_dim + s.v_dim) * 4);
  layout.scratch_at = take_shared(
      std::max<int64_t>(2 * kTileRows * kWarps * 4, int64_t{kWarps} * (kMergeWords + s.v_dim) * 4));
  layout.rows_at = take_shared(int64_t{kLoneKinds} * kLoneCopiers * 8);
  layout.biases_at = take_shared(int64_t{kLoneAhead} * kTileRows * 2);
  layout.norms_at = take_shared(kLoneNorms * 2 * d_model * 4);
  layout.ahead_at = take_shared(int64_t{kLoneAhead} * kLonePieces * kThreads * 16);
  layout.fits = layout.shared_bytes <= gpu.shared_bytes;

  const auto take = [&](int64_t words) {
    const int64_t at = layout.words;
    layout.words += round_up(words, 32);
    return at;
  };
  const int64_t heads = s.heads, kv_heads = s.kv_heads;
  layout.x = take(2 * d_model);
  layout.second = take(d_model);
  layout.projected = take((heads + kv_heads) * s.qk_dim + kv_heads * s.v_dim);
  layout.ranges = take(heads * s.v_dim / 2 * layout.key_splits * 4);
  layout.attended = take(columns_in / 2);
  layout.ff = take(s.ff_width / 2);
  return layout;
}

}  // namespace lace::cuda::decode
