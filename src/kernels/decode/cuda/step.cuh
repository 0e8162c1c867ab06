#pragma once

#include "kernels/decode/cuda/attend.cuh"
#include "kernels/decode/cuda/grid_barrier.cuh"
#include "kernels/decode/cuda/norm.cuh"
#include "kernels/decode/cuda/product.cuh"
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
template <typename T, int kEights>
class Step {
 public:
  static constexpr int kSequences = 8 * kEights;  // that a block multiplies at once

  __device__ explicit Step(const StepParams& params)
      : p_(params),
        s_(params.shape),
        words_(params.far_words != nullptr ? params.far_words : params.words),
        operands_(reinterpret_cast<T*>(shared_memory())),
        scratch_(
            reinterpret_cast<float*>(shared_memory() + kSequences * params.layout.operand_stride *
                                                           static_cast<int>(sizeof(T)))) {}

  __device__ void run() {
    GridBarrier barrier(part<uint32_t>(p_.layout.barrier));
    Fragment ahead[kAhead];
    fetch(qkv(0), projection_rows(), ahead);
    fetch_first_rows_of(0);
    for (int layer = 0; layer < s_.layers; layer++) {
      const DecodeBlock& w = p_.tables.blocks[layer];
      norm_apart(barrier, 2 * layer, w.norm1_weight, w.norm1_bias);
      project(layer, ahead);
      barrier.arrive();
      barrier.wait();
      attention(layer);
      barrier.arrive();
      fetch(proj(layer), plain_rows(s_.d_model), ahead);
      barrier.wait();
      add_attention(layer, ahead);
      barrier.arrive();
      fetch(ff1(layer), plain_rows(s_.ff_width), ahead);
      barrier.wait();
      norm_apart(barrier, 2 * layer + 1, w.norm2_weight, w.norm2_bias);
      feed_forward(layer, ahead);
      barrier.arrive();
      fetch(ff2(layer), plain_rows(s_.d_model), ahead);
      barrier.wait();
      add_feed_forward(layer, ahead);
      barrier.arrive();
      if (layer + 1 < s_.layers) {
        fetch(qkv(layer + 1), projection_rows(), ahead);
        fetch_first_rows_of(layer + 1);
      }
      barrier.wait();
    }
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

  __device__ Product<T> qkv(int layer) const {
    return {static_cast<const T*>(p_.tables.blocks[layer].qkv_weight), s_.d_model, p_.layout.qkv};
  }
  __device__ Product<T> proj(int layer) const {
    return {static_cast<const T*>(p_.tables.blocks[layer].proj_weight), s_.heads * s_.v_dim,
            p_.layout.proj};
  }
  __device__ Product<T> ff1(int layer) const {
    return {static_cast<const T*>(p_.tables.blocks[layer].ff1_weight), s_.d_model, p_.layout.ff1};
  }
  __device__ Product<T> ff2(int layer) const {
    return {static_cast<const T*>(p_.tables.blocks[layer].ff2_weight), s_.ff_width, p_.layout.ff2};
  }

  // The rows of a product's tile number `tile`.
  struct PlainRows {
    int rows;
    __device__ Tile operator()(int tile) const { return plain_tile(rows, tile); }
  };
  struct ProjectionRows {
    const StepShape& shape;
    __device__ Tile operator()(int tile) const { return projection_tile(shape, tile).rows; }
  };
  __device__ PlainRows plain_rows(int rows) const { return {rows}; }
  __device__ ProjectionRows projection_rows() const { return {s_}; }

  // The first fragments of this block's first item.
  template <typename Rows>
  __device__ void fetch(const Product<T>& product, const Rows& rows,
                        Fragment (&ahead)[kAhead]) const {
    if (block() >= product.items()) return;
    load_fragments(product, rows(block() % product.tasks.tiles), block() / product.tasks.tiles, 0,
                   ahead);
  }

  // This block's items. ahead: as fetch() left it.
  //   load(first, count, begin, end)     columns [begin, end) of `count` sequences into operands_
  //   finish(tile, split, first, count)  the sums that are in scratch_ now
  template <typename Rows, typename Load, typename Finish>
  __device__ void multiply_items(const Product<T>& product, const Rows& rows,
                                 Fragment (&ahead)[kAhead], const Load& load,
                                 const Finish& finish) {
    bool fetched = true;
    for (int first = 0; first < p_.batch; first += kSequences) {
      const int count = least(kSequences, p_.batch - first);
      int loaded = -1;
      for (int item = block(); item < product.items(); item += blocks()) {
        const int split = item / product.tasks.tiles, tile = item % product.tasks.tiles;
        const Tile tile_rows = rows(tile);
        if (!fetched) load_fragments(product, tile_rows, split, 0, ahead);
        fetched = false;
        if (split != loaded) {
          load(first, count, product.first_column(split), product.end_column(split));
          loaded = split;
          __syncthreads();
        }
        float sums[kEights][4];
        multiply<T>(product, tile_rows, split, operands_, p_.layout.operand_stride, ahead, sums);
        store_sums(sums, scratch_);
        __syncthreads();
        finish(tile, split, first, count);
        __syncthreads();  // before operands and scratch are the next item's
      }
    }
  }

  __device__ float sum(int row, int sequence) const {
    return sum_of<kEights>(scratch_, row, sequence);
  }

  // Calls function(row, sequence) for the rows of a plain tile that there are.
  template <typename Function>
  __device__ void for_rows(const Tile& tile, int count, const Function& function) const {
    for (int i = thread(); i < kTileRows * count; i += kThreads) {
      const int row = i % kTileRows;
      if (row < tile.low_count || (row >= 8 && row - 8 < tile.high_count)) {
        function(row, i / kTileRows);
      }
    }
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

  template <typename Put4, typename Put1>
  __device__ void norm(const StreamRow& row, const NormWeights& weights, float* buffer,
                       const Put4& put_four, const Put1& put_one) const {
    if (s_.d_model % 4 == 0) {
      norm_row<4>(row, weights, s_.d_model, buffer, put_four);
    } else {
      norm_row<1>(row, weights, s_.d_model, buffer, put_one);
    }
  }

  __device__ void norm_into(T* to, const StreamRow& row, const NormWeights& weights,
                            float* buffer) const {
    norm(
        row, weights, buffer,
        [&](int column, const Numbers<4>& y) {
          *reinterpret_cast<uint2*>(to + column) =
              make_uint2(pack<T>(y.v[0], y.v[1]), pack<T>(y.v[2], y.v[3]));
        },
        [&](int column, const Numbers<1>& y) { to[column] = elementwise::from_float<T>(y.v[0]); });
  }

  __device__ NormWeights block_norm(const void* weight, const void* bias) const {
    return {static_cast<const float*>(weight), static_cast<const float*>(bias), p_.block_eps};
  }

  // Calls function(b) by the warps of the launch, a row each.
  template <typename Function>
  __device__ void for_own_rows(const Function& function) const {
    if (warp() >= p_.layout.norm_warps) return;
    for (int b = block() + blocks() * warp(); b < p_.batch; b += blocks() * p_.layout.norm_warps) {
      function(b, reinterpret_cast<float*>(shared_memory()) + warp() * s_.d_model);
    }
  }

  // Norms each row once, for all blocks; nothing where each does so for itself.
  __device__ void norm_apart(GridBarrier& barrier, int index, const void* weight,
                             const void* bias) const {
    if (p_.layout.own_norms) return;
    for_own_rows([&](int b, float* buffer) {
      norm_into(part<T>(p_.layout.normed) + static_cast<int64_t>(b) * s_.d_model,
                stream_row(index, b, true), block_norm(weight, bias), buffer);
    });
    barrier.arrive();
    barrier.wait();
  }

  // Normed rows into operands_.
  __device__ void load_normed(int index, const void* weight, const void* bias, int first, int count,
                              int begin, int end) const {
    if (!p_.layout.own_norms)
      return load_rows(part<T>(p_.layout.normed), s_.d_model, first, count, begin, end);
    for (int n = warp(); n < count; n += kWarps) {
      T* to = operands_ + n * p_.layout.operand_stride;
      norm_into(to, stream_row(index, first + n, block() == 0), block_norm(weight, bias),
                scratch_ + warp() * s_.d_model);
      const int column = s_.d_model + lane();
      if (column < cover(s_.d_model, kChunk) * kChunk) to[column] = elementwise::from_float<T>(0);
    }
  }

  // Columns [begin, end) of rows [first, first + count) of a matrix into operands_.
  __device__ void load_rows(const T* matrix, int width, int first, int count, int begin,
                            int end) const {
    constexpr int kAtOnce = 4;
    const int vectors = cover(end - begin, kChunk) * (kChunk / 8), all = vectors * count;
    const bool aligned = width % 8 == 0;
    for (int from = thread(); from < all; from += kThreads * kAtOnce) {
      uint4 values[kAtOnce];
#pragma unroll
      for (int u = 0; u < kAtOnce; u++) {
        const int i = from + u * kThreads;
        values[u] = make_uint4(0, 0, 0, 0);
        if (i >= all) break;
        const int column = begin + i % vectors * 8;
        const T* row = matrix + static_cast<int64_t>(first + i / vectors) * width;
        if (aligned && column + 8 <= end) {
          values[u] = __ldcg(reinterpret_cast<const uint4*>(row + column));
        } else {
          values[u] = load_some(row + column, end - column);
        }
      }
#pragma unroll
      for (int u = 0; u < kAtOnce; u++) {
        const int i = from + u * kThreads;
        if (i >= all) break;
        *reinterpret_cast<uint4*>(operands_ + i / vectors * p_.layout.operand_stride +
                                  i % vectors * 8) = values[u];
      }
    }
  }

  // `count` elements, and zeros behind them.
  __device__ static uint4 load_some(const T* from, int count) {
    const auto* bits = reinterpret_cast<const uint16_t*>(from);
    uint32_t words[4];
#pragma unroll
    for (int w = 0; w < 4; w++) {
      const uint32_t low = 2 * w < count ? __ldcg(bits + 2 * w) : 0;
      const uint32_t high = 2 * w + 1 < count ? __ldcg(bits + 2 * w + 1) : 0;
      words[w] = low | high << 16;
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
  }

  // ---- phases -----------------------------------------------------------------------------------

  __device__ void project(int layer, Fragment (&ahead)[kAhead]) {
    const DecodeBlock& w = p_.tables.blocks[layer];
    multiply_items(
        qkv(layer), projection_rows(), ahead,
        [&](int first, int count, int begin, int end) {
          load_normed(2 * layer, w.norm1_weight, w.norm1_bias, first, count, begin, end);
        },
        [&](int tile, int, int first, int count) {
          finish_projection(layer, static_cast<const T*>(w.qkv_bias), projection_tile(s_, tile),
                            first, count);
        });
  }

  __device__ void finish_projection(int layer, const T* bias, const ProjectionTile& tile, int first,
                                    int count) const {
    const bool value = tile.kind == ProjectionTile::kValue;
    const int apart = tile.rows.high - tile.rows.low;
    for (int i = thread(); i < 8 * count; i += kThreads) {
      const int pair = i % 8, n = i / 8;
      if (pair >= tile.rows.low_count) continue;
      const bool both = pair < tile.rows.high_count;
      float low = sum(pair, n) + elementwise::to_float(bias[tile.rows.low + pair]);
      float high = both ? sum(pair + 8, n) + elementwise::to_float(bias[tile.rows.high + pair]) : 0;
      const int column = tile.first + pair;
      if (!value && p_.cos != nullptr) {
        const float cos = p_.cos[column], sin = p_.sin[column], from = low;
        low = from * cos - high * sin;
        high = high * cos + from * sin;
      }
      if (tile.kind == ProjectionTile::kQuery) {
        float* to = part<float>(p_.layout.q) +
                    (static_cast<int64_t>(first + n) * s_.heads + tile.head) * s_.qk_dim + column;
        to[0] = low;
        to[apart] = high;
      } else {
        write_row(layer, tile.head, first + n, value, column, apart, low, high, both);
      }
    }
  }

  // Two numbers of a new row, `apart` columns apart, into the slots that it goes to.
  __device__ void write_row(int layer, int head, int b, bool value, int column, int apart,
                            float low, float high, bool both) const {
    const HeadCache& cache = p_.tables.caches[layer * s_.kv_heads + head];
    const int32_t* entry = words_ + p_.writes + 2 * (layer % p_.patterns * s_.kv_heads + head);
    for (int i = 0; i < entry[1]; i++) {
      std::byte* row = static_cast<std::byte*>(cache.rows) +
                       (b * cache.slots + words_[entry[0] + i]) * p_.row_bytes;
      if (value) {
        T* to = reinterpret_cast<T*>(row + static_cast<int64_t>(s_.qk_dim) * 4) + column;
        to[0] = elementwise::from_float<T>(low);
        if (both) to[apart] = elementwise::from_float<T>(high);
      } else {
        float* to = reinterpret_cast<float*>(row) + column;
        to[0] = low;
        to[apart] = high;
      }
    }
  }

  // Task number `task`: a range of the keys of a query.
  __device__ AttendTask attend_task(int layer, int task) const {
    const int splits = p_.layout.key_splits;
    const int split = task % splits, head = task / splits % s_.heads, b = task / splits / s_.heads;
    const int32_t* entry = words_ + p_.reads + 2 * (layer % p_.patterns * s_.heads + head);
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

  __device__ void fetch_first_rows_of(int layer) const {
    if (block() >= attend_tasks()) return;
    const AttendTask task = attend_task(layer, block());
    if (widest_head() <= KeyShare<4>::kMostDim) {
      fetch_first_rows<4>(task);
    } else if (widest_head() <= KeyShare<8>::kMostDim) {
      fetch_first_rows<8>(task);
    } else {
      fetch_first_rows<16>(task);
    }
  }

  __device__ void attention(int layer) const {
    for (int i = block(); i < attend_tasks(); i += blocks()) {
      const AttendTask task = attend_task(layer, i);
      if (widest_head() <= KeyShare<4>::kMostDim) {
        attend<T, 4>(task, scratch_);
      } else if (widest_head() <= KeyShare<8>::kMostDim) {
        attend<T, 8>(task, scratch_);
      } else {
        attend<T, 16>(task, scratch_);
      }
    }
  }

  // Two numbers of what attention gives for sequence b, from `column` of all heads' on.
  __device__ float2 attended(int b, int column) const {
    const int splits = p_.layout.key_splits;
    const int64_t first = (static_cast<int64_t>(b) * s_.heads + column / s_.v_dim) * splits;
    const float2* stats = part<float2>(p_.layout.head_stats) + first;
    const float* sums = part<float>(p_.layout.head_sums) + first * s_.v_dim + column % s_.v_dim;
    float most = -INFINITY, total = 0;
    float2 out = make_float2(0, 0);
#pragma unroll 8
    for (int split = 0; split < splits; split++) {
      const float2 stat = __ldcg(stats + split);
      const float2 part = __ldcg(reinterpret_cast<const float2*>(sums + split * s_.v_dim));
      const float now = fmaxf(most, stat.x), shift = finite_shift(now);
      const float kept = power_of_two(most - shift), weight = power_of_two(stat.x - shift);
      most = now;
      total = total * kept + stat.y * weight;
      out.x = out.x * kept + part.x * weight;
      out.y = out.y * kept + part.y * weight;
    }
    const float inverse = total == 0 ? 0 : 1 / total;  // a query without keys
    return make_float2(out.x * inverse, out.y * inverse);
  }

  __device__ void load_attended(int first, int count, int begin, int end) const {
    const int pairs = cover(end - begin, kChunk) * (kChunk / 2);
    for (int i = thread(); i < pairs * count; i += kThreads) {
      const int n = i / pairs, column = i % pairs * 2;
      float2 value = make_float2(0, 0);
      if (begin + column < end) value = attended(first + n, begin + column);
      *reinterpret_cast<uint32_t*>(operands_ + n * p_.layout.operand_stride + column) =
          pack<T>(value.x, value.y);
    }
  }

  // Sums of a product that ends a branch, for the norm that comes next.
  __device__ void leave_sums(int64_t offset, const void* bias, int tile, int split, int first,
                             int count) const {
    const Tile rows = plain_tile(s_.d_model, tile);
    float* to = part<float>(offset) +
                (static_cast<int64_t>(split) * p_.batch + first) * s_.d_model + rows.low;
    const T* shift = static_cast<const T*>(bias) + rows.low;
    for_rows(rows, count, [&](int row, int n) {
      to[static_cast<int64_t>(n) * s_.d_model + row] =
          sum(row, n) + (split == 0 ? elementwise::to_float(shift[row]) : 0.0f);
    });
  }

  __device__ void add_attention(int layer, Fragment (&ahead)[kAhead]) {
    const void* bias = p_.tables.blocks[layer].proj_bias;
    multiply_items(
        proj(layer), plain_rows(s_.d_model), ahead,
        [&](int first, int count, int begin, int end) { load_attended(first, count, begin, end); },
        [&](int tile, int split, int first, int count) {
          leave_sums(p_.layout.proj_sums, bias, tile, split, first, count);
        });
  }

  __device__ void feed_forward(int layer, Fragment (&ahead)[kAhead]) {
    const DecodeBlock& w = p_.tables.blocks[layer];
    multiply_items(
        ff1(layer), plain_rows(s_.ff_width), ahead,
        [&](int first, int count, int begin, int end) {
          load_normed(2 * layer + 1, w.norm2_weight, w.norm2_bias, first, count, begin, end);
        },
        [&](int tile, int, int first, int count) {
          const Tile rows = plain_tile(s_.ff_width, tile);
          T* to = part<T>(p_.layout.ff) + static_cast<int64_t>(first) * s_.ff_width + rows.low;
          const T* bias = static_cast<const T*>(w.ff1_bias) + rows.low;
          for_rows(rows, count, [&](int row, int n) {
            const float x = sum(row, n) + elementwise::to_float(bias[row]);
            const float power = power_of_two(-1.702f * 1.44269504f * x);
            to[static_cast<int64_t>(n) * s_.ff_width + row] =
                elementwise::from_float<T>(x / (1 + power));
          });
        });
  }

  __device__ void add_feed_forward(int layer, Fragment (&ahead)[kAhead]) {
    const void* bias = p_.tables.blocks[layer].ff2_bias;
    multiply_items(
        ff2(layer), plain_rows(s_.d_model), ahead,
        [&](int first, int count, int begin, int end) {
          load_rows(part<T>(p_.layout.ff), s_.ff_width, first, count, begin, end);
        },
        [&](int tile, int split, int first, int count) {
          leave_sums(p_.layout.ff_sums, bias, tile, split, first, count);
        });
  }

  __device__ void norm_last() const {
    const NormWeights weights = {p_.tables.norm_weight, p_.tables.norm_bias, p_.final_eps};
    for_own_rows([&](int b, float* buffer) {
      float* to = part<float>(p_.layout.normed) + static_cast<int64_t>(b) * s_.d_model;
      norm(
          stream_row(2 * s_.layers, b, false), weights, buffer,
          [&](int column, const Numbers<4>& y) { y.store(to + column); },
          [&](int column, const Numbers<1>& y) { y.store(to + column); });
    });
  }

  // In float32, a warp a symbol of the vocabulary.
  __device__ void logits() const {
    for (int symbol = block() + blocks() * warp(); symbol < s_.vocab; symbol += blocks() * kWarps) {
      for (int first = 0; first < p_.batch; first += 8) {
        if (s_.d_model % 4 == 0) {
          symbol_logits<4>(symbol, first);
        } else {
          symbol_logits<1>(symbol, first);
        }
      }
    }
  }

  template <int kWidth>
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
  T* operands_;  // [kSequences, operand_stride]
  float* scratch_;
};

template <typename T, int kEights>
__global__ void __launch_bounds__(kThreads, 1)
    step_kernel(const __grid_constant__ StepParams params) {
  Step<T, kEights>(params).run();
}

// The kernel for that many sequences at once.
template <typename T>
const void* find_step_kernel(int sequences) {
  switch (sequences) {
    case 8:
      return reinterpret_cast<const void*>(step_kernel<T, 1>);
    case 16:
      return reinterpret_cast<const void*>(step_kernel<T, 2>);
    case 32:
      return reinterpret_cast<const void*>(step_kernel<T, 4>);
    default:
      return reinterpret_cast<const void*>(step_kernel<T, 8>);
  }
}

}  // namespace lace::cuda::decode
