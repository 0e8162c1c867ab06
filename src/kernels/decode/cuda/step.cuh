#pragma once

#include "kernels/decode/cuda/attend.cuh"
#include "kernels/decode/cuda/grid_barrier.cuh"
#include "kernels/decode/cuda/norm.cuh"
#include "kernels/decode/cuda/operands.cuh"
#include "kernels/decode/cuda/product.cuh"
#include "kernels/decode/cuda/projected.cuh"
#include "kernels/decode/cuda/step_params.h"

namespace lace::cuda::decode {

// A symbol of each sequence through all layers, by blocks that wait for one another between phases.
//
//   norm, the fused projection, turned, rows into the caches | attention over ranges of keys
//   | projection | norm, ff1, quick-GELU | ff2 |        … and at the end norm | logits
//
// A phase that splits a sum over blocks leaves its parts, and who reads them adds them up: in the
// same order everywhere, so blocks that need the same number get the same bits. A bar is where all
// wait; between arriving there and waiting a block asks for the weights of its next phase. Where
// there are too many rows for each block to norm them all, a phase more norms each once.
//
// kAligned: rows of weights are multiples of 8 columns. The other way is for the few models that
// are not, and kept apart, as all code of a layer should fit a cache of instructions.
template <typename T, int kEights, bool kAligned>
class Step {
 public:
  static constexpr int kSequences = 8 * kEights;  // that a block multiplies at once

  __device__ explicit Step(const StepParams& params)
      : p_(params),
        s_(params.shape),
        norm_(reinterpret_cast<float*>(shared_memory() + params.layout.words_bytes)),
        operands_(reinterpret_cast<T*>(shared_memory() + params.layout.words_bytes +
                                       params.layout.norm_bytes)),
        scratch_(reinterpret_cast<float*>(operands_ + kSequences * params.layout.operand_stride)) {
    words_ = params.far_words;
    if (words_ == nullptr) {
      auto* words = reinterpret_cast<int32_t*>(shared_memory());
#pragma unroll 1
      for (int i = thread(); i < params.word_count; i += kThreads) words[i] = params.words[i];
      words_ = words;
    }
    __syncthreads();
  }

  __device__ __forceinline__ void run() {
    GridBarrier barrier(part<uint32_t>(p_.layout.barrier));
    Ahead ahead;
    // One piece of code for all products: what runs once a layer anew would be fetched anew.
#pragma unroll 1
    for (int phase = 0; phase < kKinds * s_.layers; phase++) {
      const int layer = phase / kKinds;
      const Kind kind = static_cast<Kind>(phase % kKinds);
      fetch(kind, layer, ahead);
      if (kind == kQkv) {
        fetch_first_rows_of(layer);
        fetch_small(layer + 1);
      }
      if (phase + 1 < kKinds * s_.layers) fetch_later(phase + 1);
      barrier.wait();
      if (begins_branch(kind)) norm_apart(barrier, norm_of(kind, layer));
      multiply_items(kind, layer, ahead);
      barrier.arrive();
      if (kind == kQkv) {
        const AttendTask first = first_task(layer);
        barrier.wait();
        attention(layer, first);
        barrier.arrive();
      }
    }
    barrier.wait();
    if (p_.logits != nullptr) {
      norm_last();
      barrier.arrive();
      barrier.wait();
      logits();
    }
    barrier.end();
  }

 private:
  template <typename P>
  __device__ P* part(int64_t offset) const {
    return reinterpret_cast<P*>(p_.workspace + offset);
  }
  __device__ static int thread() { return static_cast<int>(threadIdx.x); }
  __device__ static int warp() { return thread() / 32; }
  __device__ static int lane() { return thread() % 32; }
  __device__ static int block() { return static_cast<int>(blockIdx.x); }
  __device__ static int blocks() { return static_cast<int>(gridDim.x); }

  // ---- products ---------------------------------------------------------------------------------

  // Those of a block, in their order.
  enum Kind { kQkv, kProj, kFf1, kFf2 };
  static constexpr int kKinds = 4;
  __device__ static bool begins_branch(Kind kind) { return kind == kQkv || kind == kFf1; }
  __device__ static int norm_of(Kind kind, int layer) { return 2 * layer + (kind == kFf1 ? 1 : 0); }

  __device__ Product<T> product(Kind kind, int layer) const {
    const DecodeBlock& w = p_.tables.blocks[layer];
    switch (kind) {
      case kQkv:
        return {static_cast<const T*>(w.qkv_weight), s_.d_model, p_.layout.qkv};
      case kProj:
        return {static_cast<const T*>(w.proj_weight), s_.heads * s_.v_dim, p_.layout.proj};
      case kFf1:
        return {static_cast<const T*>(w.ff1_weight), s_.d_model, p_.layout.ff1};
      default:
        return {static_cast<const T*>(w.ff2_weight), s_.ff_width, p_.layout.ff2};
    }
  }

  __device__ Tile tile_rows(Kind kind, int tile) const {
    if (kind == kQkv) return projection_tile(s_, tile).rows;
    return plain_tile(kind == kFf1 ? s_.ff_width : s_.d_model, tile);
  }

  // What a thread needs beside weights to finish its rows of an item: those of a plain tile that
  // are thread mod 16, of the projection's the pair thread mod 8.
  struct Extras {
    float bias = 0, high_bias = 0;
    float cos = 1, sin = 0;
    HeadCache cache;
  };

  // What a block holds of its next item before it may begin.
  struct Ahead {
    Fragment fragments[kAhead];
    Extras extras;
  };

  __device__ Extras find_extras(Kind kind, int layer, int tile, int split) const {
    const DecodeBlock& w = p_.tables.blocks[layer];
    Extras extras;
    if (kind == kQkv) {
      const ProjectionTile rows = projection_tile(s_, tile);
      const T* bias = static_cast<const T*>(w.qkv_bias);
      const int pair = thread() % 8, column = rows.first + pair;
      if (pair < rows.rows.low_count) {
        extras.bias = elementwise::to_float(bias[rows.rows.low + pair]);
        if (rows.kind != ProjectionTile::kValue && p_.cos != nullptr) {
          extras.cos = p_.cos[column];
          extras.sin = p_.sin[column];
        }
      }
      if (pair < rows.rows.high_count) {
        extras.high_bias = elementwise::to_float(bias[rows.rows.high + pair]);
      }
      if (rows.kind != ProjectionTile::kQuery) {
        extras.cache = p_.tables.caches[layer * s_.kv_heads + rows.head];
      }
    } else {
      const void* bias = kind == kProj ? w.proj_bias : kind == kFf1 ? w.ff1_bias : w.ff2_bias;
      const Tile rows = tile_rows(kind, tile);
      const int row = thread() % kTileRows;
      if (split == 0 && has_row(rows, row)) {
        extras.bias = elementwise::to_float(static_cast<const T*>(bias)[rows.low + row]);
      }
    }
    return extras;
  }

  // Asks for what this block's first item of a phase needs of the model.
  __device__ void fetch(Kind kind, int layer, Ahead& ahead) {
    const Product<T> own = product(kind, layer);
    if (block() >= own.items()) return;
    const int tile = block() % own.tasks.tiles, split = block() / own.tasks.tiles;
    load_fragments<kAligned>(own, tile_rows(kind, tile), split, 0, ahead.fragments);
    ahead.extras = find_extras(kind, layer, tile, split);
    if (begins_branch(kind) && p_.layout.own_norms) {
      const DecodeBlock& w = p_.tables.blocks[layer];
      copy_norm(norm_, kind == kQkv ? w.norm1_weight : w.norm2_weight);
      copy_norm(norm_ + s_.d_model, kind == kQkv ? w.norm1_bias : w.norm2_bias);
    }
  }

  // Asks memory for the weights of this block's first item of a phase that begins a barrier later
  // than the one that is waited for: what fetch() asks for is then in L2.
  __device__ void fetch_later(int phase) const {
    const Kind kind = static_cast<Kind>(phase % kKinds);
    const Product<T> own = product(kind, phase / kKinds);
    if (block() >= own.items()) return;
    const Tile rows = tile_rows(kind, block() % own.tasks.tiles);
    const int split = block() / own.tasks.tiles, row = thread() % kTileRows;
    if (!has_row(rows, row)) return;
    const T* weights = own.weight + static_cast<int64_t>(rows.row(row)) * own.in;
    constexpr int kLine = 128 / static_cast<int>(sizeof(T));
#pragma unroll 1
    for (int column = own.first_column(split) + thread() / kTileRows * kLine;
         column < own.end_column(split); column += kThreads / kTileRows * kLine) {
      fetch_into_l2(weights + column);
    }
  }

  __device__ void copy_norm(float* to, const void* from) const {
    const float* numbers = static_cast<const float*>(from);
    if constexpr (kAligned) {
#pragma unroll 1
      for (int i = thread() * 4; i < s_.d_model; i += kThreads * 4) {
        copy_async<16>(to + i, numbers + i);
      }
    } else {
#pragma unroll 1
      for (int i = thread(); i < s_.d_model; i += kThreads) copy_async<4>(to + i, numbers + i);
    }
  }

  // This block's items. ahead: as fetch() left it.
  __device__ void multiply_items(Kind kind, int layer, Ahead& ahead) {
    const Product<T> own = product(kind, layer);
    bool fetched = true;
#pragma unroll 1
    for (int first = 0; first < p_.batch; first += kSequences) {
      const int count = least(kSequences, p_.batch - first);
      int loaded = -1;
#pragma unroll 1
      for (int item = block(); item < own.items(); item += blocks()) {
        const int split = item / own.tasks.tiles, tile = item % own.tasks.tiles;
        const Tile rows = tile_rows(kind, tile);
        if (!fetched) ahead.extras = find_extras(kind, layer, tile, split);
        if (split != loaded) {
          load_operands(kind, layer, first, count, own.first_column(split), own.end_column(split));
          loaded = split;
          __syncthreads();
        }
        float sums[kEights][4];
        multiply<kAligned>(own, rows, split, operands_, p_.layout.operand_stride, fetched,
                           ahead.fragments, sums);
        fetched = false;
        store_sums(sums, scratch_);
        __syncthreads();
        if (kind == kQkv) {
          finish_projection(layer, projection_tile(s_, tile), first, count, ahead.extras);
        } else if (kind == kFf1) {
          finish_feed_forward(rows, first, count, ahead.extras);
        } else {
          finish_branch(kind == kProj ? p_.layout.proj_sums : p_.layout.ff_sums, rows, split, first,
                        count, ahead.extras);
        }
        __syncthreads();  // before operands and scratch are the next item's
      }
    }
  }

  // Columns [begin, end) of the operands of `count` sequences.
  __device__ void load_operands(Kind kind, int layer, int first, int count, int begin,
                                int end) const {
    const OperandRows rows = {first, count, begin, end, p_.layout.operand_stride};
    if (kind == kProj) {
      load_attended(
          AttendedRows{part<float>(p_.layout.head_sums), part<float2>(p_.layout.head_stats),
                       s_.heads, p_.layout.key_splits, s_.v_dim},
          rows, operands_);
    } else if (kind != kFf2 && p_.layout.own_norms) {
      norm_own(norm_of(kind, layer), first, count);
    } else {
      load_rows<kAligned>(part<T>(kind == kFf2 ? p_.layout.ff : p_.layout.normed),
                          kind == kFf2 ? s_.ff_width : s_.d_model, rows, operands_);
    }
  }

  __device__ float sum(int row, int sequence) const {
    return sum_of<kEights>(scratch_, row, sequence);
  }

  __device__ static bool has_row(const Tile& tile, int row) {
    return row < tile.low_count || (row >= 8 && row - 8 < tile.high_count);
  }

  // Calls function(row, sequence) for this thread's rows of a plain tile.
  template <typename Function>
  __device__ void for_rows(const Tile& tile, int count, const Function& function) const {
    static_assert(kThreads % kTileRows == 0, "a thread has one row");
    const int row = thread() % kTileRows;
    if (!has_row(tile, row)) return;
#pragma unroll 1
    for (int n = thread() / kTileRows; n < count; n += kThreads / kTileRows) function(row, n);
  }

  // Asks for what of a layer is small, which would be waited for where it is used. The last block
  // has the least to do.
  __device__ void fetch_small(int layer) const {
    if (layer >= s_.layers || block() != blocks() - 1) return;
    const auto fetch_all = [](const void* from, int64_t bytes) {
#pragma unroll 1
      for (int64_t at = thread() * 128; at < bytes; at += kThreads * 128) {
        fetch_into_l2(static_cast<const std::byte*>(from) + at);
      }
    };
    const DecodeBlock& w = p_.tables.blocks[layer];
    const int64_t numbers = static_cast<int64_t>(s_.d_model) * 4;
    fetch_all(w.norm1_weight, numbers);
    fetch_all(w.norm1_bias, numbers);
    fetch_all(w.norm2_weight, numbers);
    fetch_all(w.norm2_bias, numbers);
    const int64_t heads = s_.heads, kv_heads = s_.kv_heads;
    fetch_all(w.qkv_bias, ((heads + kv_heads) * s_.qk_dim + kv_heads * s_.v_dim) * 2);
    fetch_all(w.proj_bias, numbers / 2);
    fetch_all(w.ff1_bias, static_cast<int64_t>(s_.ff_width) * 2);
    fetch_all(w.ff2_bias, numbers / 2);
    if (layer + 1 >= s_.layers) return;
    fetch_all(p_.tables.blocks + layer + 1, sizeof(DecodeBlock));
    fetch_all(p_.tables.caches + (layer + 1) * kv_heads,
              kv_heads * static_cast<int64_t>(sizeof(HeadCache)));
  }

  // ---- norms ------------------------------------------------------------------------------------

  // Row b as norm number `index` finds it: of layer l the first is 2l, the second 2l + 1. The rows
  // are in two places in turn, so that no block writes what another may still read.
  __device__ StreamRow stream_row(int index, int b, bool copy) const {
    const int64_t at = static_cast<int64_t>(b) * s_.d_model;
    StreamRow row;
    if (index == 0) {
      const int token = words_[b];
      row.base =
          token < 0 ? p_.tables.start : p_.tables.tokens + static_cast<int64_t>(token) * s_.d_model;
#pragma unroll
      for (int i = 0; i < kMaxDecodePositions; i++) {
        row.positions[i] = token < 0 ? nullptr : p_.positions[i];
      }
    } else {
      const bool second = index % 2 == 1;
      row.base = part<float>(p_.layout.x[index % 2]) + at;
      row.parts = part<float>(second ? p_.layout.proj_sums : p_.layout.ff_sums) + at;
      row.part_stride = static_cast<int64_t>(p_.batch) * s_.d_model;
      row.part_count = second ? p_.layout.proj.splits : p_.layout.ff2.splits;
    }
    if (copy) row.copy = part<float>(p_.layout.x[(index + 1) % 2]) + at;
    return row;
  }

  static constexpr int kWidth = kAligned ? 4 : 1;  // numbers of a row that are read at once

  __device__ void norm_into(T* to, const StreamRow& row, const NormWeights& weights,
                            float* buffer) const {
    norm_row<kWidth>(row, weights, s_.d_model, buffer, [&](int column, const Numbers<kWidth>& y) {
      if constexpr (kAligned) {
        *reinterpret_cast<uint2*>(to + column) =
            make_uint2(pack<T>(y.v[0], y.v[1]), pack<T>(y.v[2], y.v[3]));
      } else {
        to[column] = elementwise::from_float<T>(y.v[0]);
      }
    });
  }

  // Calls function(b) by the warps of the launch, a row each.
  template <typename Function>
  __device__ void for_own_rows(const Function& function) const {
    if (warp() >= p_.layout.norm_warps) return;
#pragma unroll 1
    for (int b = block() + blocks() * warp(); b < p_.batch; b += blocks() * p_.layout.norm_warps) {
      function(b, norm_ + warp() * s_.d_model);
    }
  }

  // Norms each row once, for all blocks; nothing where each does so for itself.
  __device__ void norm_apart(GridBarrier& barrier, int index) const {
    if (p_.layout.own_norms) return;
    const DecodeBlock& w = p_.tables.blocks[index / 2];
    const bool second = index % 2 == 1;
    const NormWeights weights = {
        static_cast<const float*>(second ? w.norm2_weight : w.norm1_weight),
        static_cast<const float*>(second ? w.norm2_bias : w.norm1_bias), p_.block_eps};
    for_own_rows([&](int b, float* buffer) {
      norm_into(part<T>(p_.layout.normed) + static_cast<int64_t>(b) * s_.d_model,
                stream_row(index, b, true), weights, buffer);
    });
    barrier.arrive();
    barrier.wait();
  }

  // Normed rows into operands_, by each block; one of them leaves the rows for the next norm.
  __device__ void norm_own(int index, int first, int count) const {
    const NormWeights weights = {norm_, norm_ + s_.d_model, p_.block_eps};
#pragma unroll 1
    for (int n = warp(); n < count; n += kWarps) {
      T* to = operands_ + n * p_.layout.operand_stride;
      norm_into(to, stream_row(index, first + n, block() == 0), weights,
                scratch_ + warp() * s_.d_model);
      const int column = s_.d_model + lane();
      if (column < cover(s_.d_model, kChunk) * kChunk) to[column] = elementwise::from_float<T>(0);
    }
  }

  // ---- phases -----------------------------------------------------------------------------------

  __device__ void finish_projection(int layer, const ProjectionTile& tile, int first, int count,
                                    const Extras& extras) const {
    const bool value = tile.kind == ProjectionTile::kValue;
    const int pair = thread() % 8, apart = tile.rows.high - tile.rows.low;
    if (pair >= tile.rows.low_count) return;
    const bool both = pair < tile.rows.high_count;
    const int column = tile.first + pair;
#pragma unroll 1
    for (int n = thread() / 8; n < count; n += kThreads / 8) {
      float low = sum(pair, n) + extras.bias, high = both ? sum(pair + 8, n) + extras.high_bias : 0;
      if (!value) turn_pair(low, high, extras.cos, extras.sin);
      if (tile.kind == ProjectionTile::kQuery) {
        float* to = part<float>(p_.layout.q) +
                    (static_cast<int64_t>(first + n) * s_.heads + tile.head) * s_.qk_dim + column;
        to[0] = low;
        to[apart] = high;
        continue;
      }
      // The slots that the new row goes to.
      const int32_t* entry =
          words_ + p_.writes + 2 * (layer % p_.patterns * s_.kv_heads + tile.head);
#pragma unroll 1
      for (int i = 0; i < entry[1]; i++) {
        std::byte* row = static_cast<std::byte*>(extras.cache.rows) +
                         ((first + n) * extras.cache.slots + words_[entry[0] + i]) * p_.row_bytes;
        store_pair<T>(row, value, s_.qk_dim, column, apart, both, low, high);
      }
    }
  }

  // Task number `task`: a range of the keys of a query.
  __device__ AttendTask attend_task(int layer, int task) const {
    const int splits = p_.layout.key_splits;
    const int split = task % splits, head = task / splits % s_.heads, b = task / splits / s_.heads;
    const int32_t* entry = words_ + p_.reads + kReadWords * (layer % p_.patterns * s_.heads + head);
    const int keys = entry[1], each = cover(keys, splits);
    const int kv_head = head / (s_.heads / s_.kv_heads);
    const HeadCache& cache = p_.tables.caches[layer * s_.kv_heads + kv_head];
    AttendTask result;
    result.q = part<float>(p_.layout.q) + (static_cast<int64_t>(b) * s_.heads + head) * s_.qk_dim;
    result.scale = 1.44269504f / sqrtf(static_cast<float>(s_.qk_dim));
    result.runs = words_ + entry[0];
    result.begin = least(keys, split * each);
    result.end = least(keys, result.begin + each);
    result.rows = static_cast<const std::byte*>(cache.rows) + b * cache.slots * p_.row_bytes;
    result.row_bytes = p_.row_bytes;
    result.qk_dim = s_.qk_dim;
    result.v_dim = s_.v_dim;
    result.sums = part<float>(p_.layout.head_sums) + static_cast<int64_t>(task) * s_.v_dim;
    result.stats = part<float2>(p_.layout.head_stats) + ((b * s_.heads + head) * splits + split);
    return result;
  }

  __device__ int attend_tasks() const { return p_.batch * s_.heads * p_.layout.key_splits; }
  __device__ int widest_head() const { return s_.qk_dim > s_.v_dim ? s_.qk_dim : s_.v_dim; }

  // Of this block; an empty one where it has none.
  __device__ AttendTask first_task(int layer) const {
    return block() < attend_tasks() ? attend_task(layer, block()) : AttendTask();
  }

  // Calls function(lanes), as many of which share a key.
  template <typename Function>
  __device__ void with_lanes(const Function& function) const {
    if (widest_head() <= KeyShare<4>::kMostDim) {
      function(std::integral_constant<int, 4>());
    } else if (widest_head() <= KeyShare<8>::kMostDim) {
      function(std::integral_constant<int, 8>());
    } else {
      function(std::integral_constant<int, 16>());
    }
  }

  __device__ void fetch_first_rows_of(int layer) const {
    if (block() >= attend_tasks()) return;
    const AttendTask task = attend_task(layer, block());
    with_lanes([&](auto lanes) { fetch_first_rows<lanes()>(task); });
  }

  __device__ void attention(int layer, const AttendTask& first) const {
    AttendTask task = first;
#pragma unroll 1
    for (int i = block(); i < attend_tasks(); i += blocks()) {
      AttendTask next;
      if (i + blocks() < attend_tasks()) next = attend_task(layer, i + blocks());
      with_lanes([&](auto lanes) {
        fetch_first_rows<lanes()>(next);
        attend<T, lanes()>(task, scratch_);
      });
      task = next;
    }
  }

  // Sums of a product that ends a branch, for the norm that comes next.
  __device__ void finish_branch(int64_t offset, const Tile& rows, int split, int first, int count,
                                const Extras& extras) const {
    float* to = part<float>(offset) +
                (static_cast<int64_t>(split) * p_.batch + first) * s_.d_model + rows.low;
    for_rows(rows, count, [&](int row, int n) {
      to[static_cast<int64_t>(n) * s_.d_model + row] = sum(row, n) + extras.bias;
    });
  }

  __device__ void finish_feed_forward(const Tile& rows, int first, int count,
                                      const Extras& extras) const {
    T* to = part<T>(p_.layout.ff) + static_cast<int64_t>(first) * s_.ff_width + rows.low;
    for_rows(rows, count, [&](int row, int n) {
      const float x = sum(row, n) + extras.bias;
      const float power = power_of_two(-1.702f * 1.44269504f * x);
      to[static_cast<int64_t>(n) * s_.ff_width + row] = elementwise::from_float<T>(x / (1 + power));
    });
  }

  __device__ void norm_last() const {
    const NormWeights weights = {p_.tables.norm_weight, p_.tables.norm_bias, p_.final_eps};
    for_own_rows([&](int b, float* buffer) {
      float* to = part<float>(p_.layout.normed) + static_cast<int64_t>(b) * s_.d_model;
      norm_row<kWidth>(stream_row(2 * s_.layers, b, false), weights, s_.d_model, buffer,
                       [&](int column, const Numbers<kWidth>& y) { y.store(to + column); });
    });
  }

  // In float32, a warp a symbol of the vocabulary.
  __device__ void logits() const {
#pragma unroll 1
    for (int symbol = block() + blocks() * warp(); symbol < s_.vocab; symbol += blocks() * kWarps) {
#pragma unroll 1
      for (int first = 0; first < p_.batch; first += 8) {
        symbol_logits(symbol, first);
      }
    }
  }

  __device__ void symbol_logits(int symbol, int first) const {
    const float* weight = p_.tables.output_weight + static_cast<int64_t>(symbol) * s_.d_model;
    const float* x = part<float>(p_.layout.normed) + static_cast<int64_t>(first) * s_.d_model;
    float sums[8] = {};
#pragma unroll 2
    for (int column = lane() * kWidth; column < s_.d_model; column += 32 * kWidth) {
      const auto w = Numbers<kWidth>::load(weight + column);
#pragma unroll
      for (int n = 0; n < 8; n++) {
        if (first + n >= p_.batch) break;
        const auto y = Numbers<kWidth>::load(x + static_cast<int64_t>(n) * s_.d_model + column);
#pragma unroll
        for (int i = 0; i < kWidth; i++) sums[n] += w.v[i] * y.v[i];
      }
    }
#pragma unroll
    for (int n = 0; n < 8; n++) {
      const float total = warp_sum(sums[n]);
      if (lane() == 0 && first + n < p_.batch) {
        p_.logits[static_cast<int64_t>(first + n) * s_.vocab + symbol] = total;
      }
    }
  }

  const StepParams& p_;
  const StepShape& s_;
  const int32_t* words_;
  // In shared memory.
  float* norm_;     // weight and bias of a norm [2, d_model], or rows that are normed
  T* operands_;     // [kSequences, operand_stride]
  float* scratch_;  // of layout.scratch_bytes
};

template <typename T, int kEights, bool kAligned>
__global__ void __launch_bounds__(kThreads, 1)
    step_kernel(const __grid_constant__ StepParams params) {
  Step<T, kEights, kAligned>(params).run();
}

template <typename T>
const void* find_step_kernel(const StepLayout& layout) {
  const auto pointer = [](auto* kernel) { return reinterpret_cast<const void*>(kernel); };
  if (!layout.aligned) return pointer(step_kernel<T, 1, false>);
  switch (layout.sequences) {
    case 8:
      return pointer(step_kernel<T, 1, true>);
    case 16:
      return pointer(step_kernel<T, 2, true>);
    case 32:
      return pointer(step_kernel<T, 4, true>);
    default:
      return pointer(step_kernel<T, 8, true>);
  }
}

}  // namespace lace::cuda::decode
