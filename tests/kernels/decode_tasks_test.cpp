// What a step on a GPU is cut into: each piece once, all of it within what there is.

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lace/error.h"

#include "kernels/decode/cuda/lone_tasks.h"
#include "kernels/decode/cuda/step_params.h"
#include "kernels/decode/cuda/step_words.h"
#include "kernels/decode/cuda/tasks.h"
#include "kernels/decode/gpu_decode.h"
#include "pattern/cache_slots.h"
#include "pattern/retained.h"

namespace lace::cuda::decode {
namespace {

constexpr Gpu kHopper = {.multiprocessors = 132, .shared_bytes = 232448};

DecodeShape enwik8() {
  return {.compute = DType::kBFloat16,
          .layers = 30,
          .d_model = 512,
          .heads = 8,
          .kv_heads = 8,
          .qk_dim = 64,
          .v_dim = 64,
          .ff_width = 2048,
          .vocab = 256,
          .block_eps = 1e-5,
          .final_eps = 1e-6};
}

std::vector<DecodeShape> shapes() {
  std::vector<DecodeShape> all = {enwik8()};
  for (const int64_t d_model : {8, 37, 100, 768, 1024, 2048, 4096}) {
    DecodeShape shape = enwik8();
    shape.d_model = d_model;
    shape.ff_width = 3 * d_model;
    shape.heads = 6;
    shape.kv_heads = 2;
    shape.qk_dim = 8 * (1 + d_model % 7);
    shape.v_dim = 8 * (1 + d_model % 32);
    all.push_back(shape);
  }
  return all;
}

void count_rows(const Tile& tile, std::map<int, int>& times) {
  for (int i = 0; i < tile.low_count; ++i) ++times[tile.low + i];
  for (int i = 0; i < tile.high_count; ++i) ++times[tile.high + i];
}

void expect_each_once(const std::map<int, int>& times, int64_t rows) {
  ASSERT_EQ(static_cast<int64_t>(times.size()), rows);
  EXPECT_EQ(times.begin()->first, 0);
  EXPECT_EQ(times.rbegin()->first, rows - 1);
  for (const auto& [row, count] : times) EXPECT_EQ(count, 1) << row;
}

TEST(DecodeTasks, TilesHoldEachRowOnce) {
  for (const int rows : {1, 7, 8, 9, 15, 16, 17, 200, 512}) {
    std::map<int, int> times;
    for (int tile = 0; tile < cover(rows, kTileRows); ++tile) {
      const Tile part = plain_tile(rows, tile);
      EXPECT_GE(part.low_count, 1);
      count_rows(part, times);
    }
    expect_each_once(times, rows);
  }
}

TEST(DecodeTasks, ProjectionTilesHoldWhatIsTurnedTogether) {
  for (const DecodeShape& shape : shapes()) {
    const StepShape s = step_shape(shape);
    std::map<int, int> times;
    for (int i = 0; i < projection_tiles(s); ++i) {
      const ProjectionTile tile = projection_tile(s, i);
      count_rows(tile.rows, times);
      EXPECT_GE(tile.rows.low_count, 1);
      if (tile.kind == ProjectionTile::kValue) {
        EXPECT_EQ(tile.rows.low,
                  (s.heads + s.kv_heads) * s.qk_dim + tile.head * s.v_dim + tile.first);
        continue;
      }
      const int head = tile.head + (tile.kind == ProjectionTile::kKey ? s.heads : 0);
      EXPECT_EQ(tile.rows.low, head * s.qk_dim + tile.first);
      EXPECT_EQ(tile.rows.high - tile.rows.low, s.qk_dim / 2);
      EXPECT_EQ(tile.rows.high_count, tile.rows.low_count);
      EXPECT_LE(tile.first + tile.rows.low_count, s.qk_dim / 2);
    }
    expect_each_once(times,
                     shape.heads * shape.qk_dim + shape.kv_heads * (shape.qk_dim + shape.v_dim));
  }
}

void expect_covers(const ProductTasks& tasks, int64_t rows, int64_t columns, int stride) {
  EXPECT_EQ(tasks.tiles, cover(static_cast<int>(rows), kTileRows));
  EXPECT_GE(tasks.splits, 1);
  EXPECT_GE(int64_t{tasks.splits} * tasks.split_columns, columns);
  EXPECT_LT(int64_t{tasks.splits - 1} * tasks.split_columns, columns);  // none is empty
  if (tasks.splits > 1) {
    EXPECT_EQ(tasks.split_columns % kChunk, 0);
  }
  EXPECT_LE(cover(tasks.split_columns, kChunk) * kChunk, stride);
}

TEST(DecodeTasks, LayoutsFit) {
  for (const DecodeShape& shape : shapes()) {
    for (const int64_t batch : {1, 2, 3, 8, 9, 16, 17, 64, 65, 300}) {
      for (const Gpu gpu : {kHopper, Gpu{132, 101376}, Gpu{1, 232448}, Gpu{16, 166912}}) {
        SCOPED_TRACE(testing::Message() << shape.d_model << ", " << batch << ", "
                                        << gpu.multiprocessors << ", " << gpu.shared_bytes);
        const StepLayout layout = step_layout(shape, batch, gpu);
        EXPECT_GE(layout.blocks, 1);
        EXPECT_LE(layout.blocks, gpu.multiprocessors);
        EXPECT_TRUE(std::set({8, 16, 32, 64}).contains(layout.sequences));
        EXPECT_TRUE(layout.sequences == 8 || layout.sequences / 2 < batch);
        const int stride = layout.operand_stride;
        EXPECT_EQ(stride * 2 % 128, 64);
        expect_covers(layout.proj, shape.d_model, shape.heads * shape.v_dim, stride);
        expect_covers(layout.ff1, shape.ff_width, shape.d_model, stride);
        expect_covers(layout.ff2, shape.d_model, shape.ff_width, stride);
        EXPECT_EQ(layout.qkv.splits, 1);
        EXPECT_EQ(layout.ff1.splits, 1);
        EXPECT_LE(layout.shared_bytes, gpu.shared_bytes);
        EXPECT_LE(int64_t{layout.sequences} * stride * 2 + layout.scratch_bytes,
                  layout.shared_bytes);
        const int64_t row = shape.d_model * 4;
        EXPECT_LE(layout.norm_warps * row, layout.shared_bytes);
        if (layout.own_norms) {
          EXPECT_LE(std::min<int64_t>(kWarps, batch) * row, layout.scratch_bytes);
          EXPECT_LE(batch, layout.sequences);
        }
        EXPECT_GE(layout.scratch_bytes, kWarps * kTileRows * column_stride(layout.sequences) * 4);
        // The parts of the workspace, in their order.
        const int64_t heads = batch * shape.heads;
        const std::pair<int64_t, int64_t> parts[] = {
            {layout.barrier, 8},
            {layout.x[0], batch * row},
            {layout.x[1], batch * row},
            {layout.normed, batch * row},
            {layout.q, heads * shape.qk_dim * 4},
            {layout.head_sums, heads * layout.key_splits * shape.v_dim * 4},
            {layout.head_stats, heads * layout.key_splits * 8},
            {layout.ff, batch * shape.ff_width * 2},
            {layout.proj_sums, layout.proj.splits * batch * row},
            {layout.ff_sums, layout.ff2.splits * batch * row}};
        int64_t end = 0;
        for (const auto& [begin, bytes] : parts) {
          EXPECT_GE(begin, end);
          EXPECT_EQ(begin % 256, 0);
          end = begin + bytes;
        }
        EXPECT_LE(end, layout.workspace_bytes);
      }
    }
  }
}

TEST(DecodeTasks, EveryMultiprocessorHasWork) {
  const StepLayout one = step_layout(enwik8(), 1, kHopper);
  EXPECT_EQ(one.blocks, 128);  // the most that a phase has work for
  EXPECT_EQ(one.qkv.tiles, 96);
  EXPECT_EQ(one.ff1.tiles, 128);
  EXPECT_EQ(one.ff2.tiles * one.ff2.splits, 128);
  EXPECT_EQ(one.proj.tiles * one.proj.splits, 64);  // of fewer columns warps would have none
  EXPECT_EQ(one.key_splits, 16);
  EXPECT_TRUE(one.own_norms);
  const StepLayout many = step_layout(enwik8(), 64, kHopper);
  EXPECT_EQ(many.sequences, 64);
  EXPECT_EQ(many.key_splits, 1);
  EXPECT_FALSE(many.own_norms);
  // Sums are cut alike, so only attention adds in another order.
  EXPECT_EQ(many.ff2.split_columns, one.ff2.split_columns);
  EXPECT_EQ(many.proj.split_columns, one.proj.split_columns);
}

// ---- one sequence -------------------------------------------------------------------------------

// Every number of a matrix of weights is in one stretch of one tile.
void expect_covers(const FoldedTasks& tasks, int rows, int in) {
  EXPECT_EQ(tasks.in(), in);
  EXPECT_EQ(tasks.columns % 8, 0);
  EXPECT_GE(tasks.groups * kLoneChunks * kWarps * kChunk, tasks.columns);
  std::map<std::pair<int, int>, int> times;
  for (int tile = 0; tile < tasks.tiles; ++tile) {
    EXPECT_LT(tasks.row(tile, 0), rows) << "a tile without rows";
    for (int number = 0; number < kTileRows; ++number) {
      if (tasks.row(tile, number) < rows) {
        ++times[{tasks.row(tile, number), tasks.stretch(number)}];
      }
    }
  }
  EXPECT_EQ(times.size(), static_cast<size_t>(rows * tasks.fold()));
  for (const auto& [place, count] : times) EXPECT_EQ(count, 1) << place.first;
}

TEST(LoneTasks, LayoutsFit) {
  for (const DecodeShape& shape : shapes()) {
    for (const Gpu gpu : {kHopper, Gpu{132, 101376}, Gpu{1, 232448}, Gpu{16, 166912}}) {
      SCOPED_TRACE(testing::Message()
                   << shape.d_model << ", " << gpu.multiprocessors << ", " << gpu.shared_bytes);
      const LoneLayout layout = lone_layout(shape, gpu);
      EXPECT_EQ(layout.fits, shape.d_model % 8 == 0 && layout.shared_bytes <= gpu.shared_bytes);
      if (!layout.fits) continue;
      const StepShape s = step_shape(shape);
      // Each block ends every layer: nobody else knows when it has read what it waited for.
      EXPECT_GE(layout.blocks, 1);
      EXPECT_LE(layout.blocks, std::min(gpu.multiprocessors, layout.tasks[kLoneFf2].tiles));
      EXPECT_EQ(layout.tasks[kLoneQkv].tiles, projection_tiles(s));
      EXPECT_EQ(layout.tasks[kLoneKeys].tiles, s.heads * layout.key_splits);
      EXPECT_LE(layout.key_splits, kMostKeySplits);
      expect_covers(layout.tasks[kLoneProj], s.d_model, s.heads * s.v_dim);
      expect_covers(layout.tasks[kLoneFf1], s.ff_width, s.d_model);
      expect_covers(layout.tasks[kLoneFf2], s.d_model, s.ff_width);
      const int64_t words = kLaunchWords * 4, d = s.d_model;
      const std::pair<int64_t, int64_t> shared[] = {
          {0, words},
          {layout.blocks_at, s.layers * int64_t{sizeof(DecodeBlock)}},
          {layout.caches_at, s.layers * s.kv_heads * int64_t{sizeof(HeadCache)}},
          {layout.stream_at, 2 * d * 4},
          {layout.operands_at, s.ff_width * 2},
          {layout.fresh_at, (2 * s.qk_dim + s.v_dim) * 4},
          {layout.scratch_at, kWarps * (kMergeWords + s.v_dim) * 4},
          {layout.rows_at, kLoneKinds * kLoneCopiers * 8},
          {layout.biases_at, kLoneAhead * kTileRows * 2},
          {layout.norms_at, kLoneNorms * 2 * d * 4},
          {layout.ahead_at, kLoneAhead * kLonePieces * kThreads * 16}};
      int64_t end = 0;
      for (const auto& [begin, bytes] : shared) {
        EXPECT_GE(begin, end);
        EXPECT_EQ(begin % 128, 0);
        end = begin + bytes;
      }
      EXPECT_LE(end, layout.shared_bytes);
      const std::pair<int64_t, int64_t> parts[] = {
          {layout.x, 2 * d},
          {layout.second, d},
          {layout.projected, (s.heads + s.kv_heads) * s.qk_dim + s.kv_heads * s.v_dim},
          {layout.ranges, int64_t{s.heads} * s.v_dim * 2 * layout.key_splits},
          {layout.attended, s.heads * s.v_dim / 2},
          {layout.ff, s.ff_width / 2}};
      end = 0;
      for (const auto& [begin, count] : parts) {
        EXPECT_GE(begin, end);
        EXPECT_EQ(begin % 2, 0);  // pairs of words are read at once
        end = begin + count;
      }
      EXPECT_LE(end, layout.words);
      EXPECT_EQ(layout.words * 8 % 256, 0);  // where the other way has its parts
    }
  }
}

TEST(LoneTasks, EveryMultiprocessorHasWork) {
  const LoneLayout layout = lone_layout(enwik8(), kHopper);
  EXPECT_TRUE(layout.fits);
  EXPECT_EQ(layout.blocks, 128);
  EXPECT_EQ(layout.key_splits, 16);
  EXPECT_EQ(layout.tasks[kLoneFf1].tiles, 128);
  EXPECT_EQ(layout.tasks[kLoneFf2].tiles, 128);  // of whole rows: nobody adds up parts
  EXPECT_EQ(layout.tasks[kLoneProj].tiles, 128);
  for (const int kind : {kLoneQkv, kLoneProj, kLoneFf1, kLoneFf2}) {
    EXPECT_EQ(layout.tasks[kind].groups, 1);
  }
}

TEST(LoneTasks, LongSumsOverKeysGoTheOtherWay) {
  const LoneLayout layout = lone_layout(enwik8(), kHopper);
  EXPECT_TRUE(goes_alone(layout, 1));
  EXPECT_TRUE(goes_alone(layout, 16 * 512));
  EXPECT_FALSE(goes_alone(layout, 16 * 512 + 1));
  EXPECT_FALSE(goes_alone(LoneLayout(), 1));  // does not fit
}

std::string error_of(const DecodeShape& shape, const Gpu& gpu = kHopper) {
  try {
    step_layout(shape, 1, gpu);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(DecodeTasks, NamesWhatDoesNotFit) {
  DecodeShape shape = enwik8();
  shape.compute = DType::kFloat32;
  EXPECT_EQ(error_of(shape), "[decode] compute must be bfloat16 or float16 on a GPU, got float32");
  shape = enwik8();
  shape.v_dim = 60;
  EXPECT_EQ(error_of(shape),
            "[decode] head_dim must be a multiple of 8 up to 256 on a GPU, got 60");
  shape = enwik8();
  shape.d_model = 40000;
  EXPECT_NE(error_of(shape).find("[decode] d_model may be up to "), std::string::npos);
}

// ---- what changes from step to step -------------------------------------------------------------

pattern::KeyRuns runs_at(const StepWords& words, int pattern, int head, int heads) {
  const auto entry = static_cast<size_t>(words.reads + kReadWords * (pattern * heads + head));
  pattern::KeyRuns runs;
  int64_t left = words.words[entry + 1];
  for (auto at = static_cast<size_t>(words.words[entry]); left > 0; at += 4) {
    runs.push_back(
        {words.words[at], words.words[at + 1], words.words[at + 2], words.words[at + 3]});
    left -= runs.back().keys();
  }
  EXPECT_EQ(left, 0);
  return runs;
}

TEST(DecodeWords, SayWhatSlotsThereAre) {
  LayerSlots first, second;
  const pattern::KeyRun window = {5, 9, 1, 0}, stripes = {0, 2, 7, 32};
  first.writes = {{3}, {4, 90}};
  first.reads = {{window}, {window, stripes}, {window}, {}};
  second.writes = {{}, {7}};
  second.reads = {{stripes}, {window}, {stripes}, {stripes}};
  const std::vector<int64_t> tokens = {17, 0, 255};
  const LayerSlots* const patterns[] = {&first, &second};
  const StepWords words(tokens, 3, patterns);
  EXPECT_EQ(words.patterns, 2);
  for (size_t b = 0; b < tokens.size(); ++b) EXPECT_EQ(words.words[b], tokens[b]);
  for (int p = 0; p < 2; ++p) {
    for (int head = 0; head < 4; ++head) {
      EXPECT_EQ(runs_at(words, p, head, 4), patterns[p]->reads[static_cast<size_t>(head)]);
    }
    for (int head = 0; head < 2; ++head) {
      const auto entry = static_cast<size_t>(words.writes + 2 * (p * 2 + head));
      const auto& want = patterns[p]->writes[static_cast<size_t>(head)];
      ASSERT_EQ(words.words[entry + 1], static_cast<int32_t>(want.size()));
      for (size_t i = 0; i < want.size(); ++i) {
        EXPECT_EQ(words.words[static_cast<size_t>(words.words[entry]) + i], want[i]);
      }
    }
  }
  // Three different sets of runs, of 1, 2 and 1 runs and none.
  EXPECT_EQ(words.words.size(), 3u + 2 * 3 * 4 + 2 * 2 * 2 + 4 * (1 + 2 + 1) + 4);
  EXPECT_TRUE(words.fit_a_launch());
}

// Which of a query's keys has the new row, so that it is not looked for in memory.
TEST(DecodeWords, KnowTheNewRow) {
  LayerSlots slots;
  slots.reads = {{{5, 9, 1, 0}, {0, 2, 7, 32}}};
  const LayerSlots* const patterns[] = {&slots};
  for (const auto& [writes, want] :
       std::vector<std::pair<std::vector<int64_t>, int32_t>>{{{5}, 0},
                                                             {{13}, 8},
                                                             {{14}, -1},
                                                             {{33}, 12},
                                                             {{34}, -1},
                                                             {{193}, 22},
                                                             {{224}, -1},
                                                             {{90, 7}, 2},
                                                             {{}, -1}}) {
    slots.writes = {writes};
    const StepWords words({}, 1, patterns);
    EXPECT_EQ(words.most_keys, 23);
    EXPECT_EQ(words.words[static_cast<size_t>(words.reads) + 2], want)
        << (writes.empty() ? -1 : writes[0]);
  }
}

TEST(DecodeWords, StartHasNoSymbols) {
  LayerSlots slots;
  slots.writes = {{0}};
  slots.reads = {{{0, 1, 1, 0}}};
  const LayerSlots* const patterns[] = {&slots};
  const StepWords words({}, 2, patterns);
  EXPECT_EQ(words.words[0], -1);
  EXPECT_EQ(words.words[1], -1);
}

TEST(DecodeWords, KnowWhatALaunchCarries) {
  LayerSlots slots;
  slots.writes = {{0}};
  slots.reads.emplace_back();
  for (int64_t i = 0; i < (kLaunchWords - 8) / 4; ++i) slots.reads[0].push_back({2 * i, 1, 1, 0});
  const LayerSlots* const patterns[] = {&slots};
  EXPECT_TRUE(StepWords({}, 1, patterns).fit_a_launch());
  EXPECT_TRUE(StepWords({}, 2, patterns).fit_a_launch());
  EXPECT_FALSE(StepWords({}, 3, patterns).fit_a_launch());
  slots.writes[0][0] = int64_t{1} << 31;
  EXPECT_THROW(StepWords({}, 1, patterns), Error);
}

// ---- rows of a prompt ---------------------------------------------------------------------------

// A slot that several rows go to has the last one's, whatever order they are stored in.
TEST(StoredRows, LeaveTheLastRowOfEachSlot) {
  for (const char* pattern :
       {"local(8) | sinks(2)", "fixed(8, 2, 2)", "strided(8)", "local(4) | sinks(9)"}) {
    const BoundPattern bound = Pattern::parse(pattern).bind(2, 64, 64);
    for (const int64_t rollback : {0, 3}) {
      for (int64_t count = 1; count <= 40; ++count) {
        std::vector<std::vector<std::vector<int64_t>>> writes(2);
        std::map<std::pair<int32_t, int64_t>, int64_t> want, got;
        for (int32_t head = 0; head < 2; ++head) {
          const pattern::CacheSlots slots(pattern::retained(bound, head), 64, rollback);
          for (int64_t i = 0; i < count; ++i) {
            slots.append_writes(i, writes[static_cast<size_t>(head)].emplace_back());
            for (const int64_t slot : writes[static_cast<size_t>(head)].back()) {
              want[{head, slot}] = i;
            }
          }
        }
        const std::vector<StoredRow> rows = stored_rows(writes);
        for (const StoredRow& row : rows) got[{row.kv_head, row.slot}] = row.position;
        EXPECT_EQ(rows.size(), got.size()) << pattern << ", " << count << ": a slot named twice";
        EXPECT_EQ(got, want) << pattern << ", " << count;
      }
    }
  }
}

}  // namespace
}  // namespace lace::cuda::decode
