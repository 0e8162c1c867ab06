#pragma once

#include "kernels/decode/cuda/attend.cuh"
#include "kernels/decode/cuda/copies_ahead.cuh"
#include "kernels/decode/cuda/norm.cuh"
#include "kernels/decode/cuda/product.cuh"
#include "kernels/decode/cuda/stamped.cuh"
#include "kernels/decode/cuda/step_params.h"

namespace lace::cuda::decode {

// A symbol of one sequence through all layers, by blocks that pass one another stamped values:
//
//   norm, the fused projection, turned, rows into the caches | attention over ranges of keys
//   | ranges joined | projection | norm, ff1, quick-GELU | ff2 |     … and at the end norm, logits
//
// Where a bar is, blocks write words that others wait for one by one (stamped.cuh). All of a
// block's threads have what the phase needs of the model in shared memory by then: each thread
// copies for itself, some phases ahead (copies_ahead.cuh).
//
// A word is written anew in the next layer. Who does so has all of x by then, to which each block
// has added something at the end of the layer before, when it had read all that it was to read
// there: so nobody still waits for what is overwritten. x alone is read after its layer, so it has
// two places in turn: who writes it in a layer has seen all blocks write it in the layer before,
// after reading what it was before that.
template <typename T, int kLanes>
class LoneStep {
 public:
  __device__ explicit LoneStep(const LoneParams& params)
      : p_(params),
        s_(params.shape),
        words_(bring_words()),
        blocks_(shared<DecodeBlock>(params.layout.blocks_at)),
        caches_(shared<HeadCache>(params.layout.caches_at)),
        scratch_(shared<float>(params.layout.scratch_at)),
        items_(params),
        ahead_(params, items_, words_, blocks_, caches_) {}

  __device__ __forceinline__ void run() {
    if (clusters()) {
      const int words = p_.layout.projected_words +
                        cover(s_.v_dim / 2, p_.layout.cluster) * p_.layout.key_splits * 4;
#pragma unroll 1
      for (int i = thread(); i < words; i += kThreads) {
        shared<uint64_t>(p_.layout.words_at)[i] = stamped(0, p_.stamp - 1);
      }
      cluster_barrier();
    }
    copy_table(p_.tables.blocks, s_.layers, p_.layout.blocks_at);
    copy_table(p_.tables.caches, s_.layers * s_.kv_heads, p_.layout.caches_at);
    __syncthreads();
    tick(15);
    // One piece of code for all products: what runs once a layer anew would be fetched anew.
#pragma unroll 1
    for (int layer = 0; layer < s_.layers; layer++) {
#pragma unroll 1
      for (int kind = 0; kind < kLoneKinds; kind++) {
        if (kind == kLoneKeys) {
          attention(layer);
          tick(11);
          join_ranges(layer);
          tick(12);
        } else {
          multiply(static_cast<LoneKind>(kind), layer);
        }
      }
      if (++pattern_ == p_.patterns) pattern_ = 0;
    }
    if (p_.logits != nullptr) logits();
    tick(13);
    if (clusters()) cluster_barrier();  // before what others still write into is another launch's
  }

 private:
  long long last_ = clock_now();
  __device__ void tick(int i) {
    if (p_.clocks == nullptr) return;
    const long long now = clock_now();
    if (thread() == 0) add_clocks(p_.clocks + block() * 16 + i, now - last_);
    last_ = now;
  }

  __device__ static int thread() { return static_cast<int>(threadIdx.x); }
  __device__ static int warp() { return thread() / 32; }
  __device__ static int lane() { return thread() % 32; }
  __device__ static int block() { return static_cast<int>(blockIdx.x); }
  __device__ static int blocks() { return static_cast<int>(gridDim.x); }

  template <typename P>
  __device__ static P* shared(int64_t offset) {
    return reinterpret_cast<P*>(shared_memory() + offset);
  }
  __device__ uint64_t* part(int64_t offset) const {
    return reinterpret_cast<uint64_t*>(p_.workspace) + offset;
  }
  // This block's of a part that has copies of `count` words.
  __device__ const uint64_t* own_copy(int64_t offset, int count) const {
    return part(offset) + static_cast<int64_t>(copy_) * count;
  }
  __device__ bool clusters() const { return p_.layout.cluster > 1; }
  __device__ uint32_t stamp(int layer) const { return p_.stamp + static_cast<uint32_t>(layer); }

  // ---- the start --------------------------------------------------------------------------------

  __device__ const int32_t* bring_words() const {
    if (p_.far_words != nullptr) return p_.far_words;
    auto* words = shared<int32_t>(0);
#pragma unroll 1
    for (int i = thread(); i < p_.word_count; i += kThreads) words[i] = p_.words[i];
    return words;
  }

  template <typename E>
  __device__ void copy_table(const E* from, int count, int64_t to) const {
    const auto* words = reinterpret_cast<const uint64_t*>(from);
    const int all = count * static_cast<int>(sizeof(E) / 8);
#pragma unroll 1
    for (int i = thread(); i < all; i += kThreads) shared<uint64_t>(to)[i] = __ldg(words + i);
  }

  // ---- what comes from other blocks -------------------------------------------------------------

  // Calls put(place(i), value, value) for pairs of words i < count, each by one thread.
  template <typename Place, typename Put>
  __device__ static void gather(const uint64_t* from, int count, uint32_t stamp, const Place& place,
                                const Put& put) {
    constexpr int kAtOnce = 2;
#pragma unroll 1
    for (int first = thread(); first < count; first += kAtOnce * kThreads) {
      StampedPair pairs[kAtOnce];
      decltype(place(0)) to[kAtOnce];
#pragma unroll
      for (int u = 0; u < kAtOnce; u++) {
        const int i = first + u * kThreads;
        if (i < count) pairs[u].load(from + 2 * i);
        to[u] = place(i);
      }
#pragma unroll
      for (int u = 0; u < kAtOnce; u++) {
        const int i = first + u * kThreads;
        if (i >= count) break;
        pairs[u].await(from + 2 * i, stamp);
        put(to[u], pairs[u].first(), pairs[u].second());
      }
    }
  }

  __device__ float* stream(bool second) const {
    return shared<float>(p_.layout.stream_at) + (second ? s_.d_model : 0);
  }
  __device__ T* operands() const { return shared<T>(p_.layout.operands_at); }

  // The stream behind layer `layer` − 1: at first the embedded symbol.
  __device__ void gather_stream(int layer) const {
    float* to = stream(false);
    if (layer == 0) {
      const int token = words_[0];
      const float* base =
          token < 0 ? p_.tables.start : p_.tables.tokens + static_cast<int64_t>(token) * s_.d_model;
#pragma unroll 1
      for (int column = thread(); column < s_.d_model; column += kThreads) {
        float x = __ldg(base + column);
#pragma unroll
        for (int i = 0; i < kMaxDecodePositions; i++) {
          if (token >= 0 && p_.positions[i] != nullptr) x += __ldg(p_.positions[i] + column);
        }
        to[column] = x;
      }
    } else {
      gather_numbers(own_copy(place_of_x(layer - 1), s_.d_model), stamp(layer - 1), to);
    }
  }
  __device__ int64_t place_of_x(int layer) const {
    return p_.layout.x + (layer % 2 == 0 ? 0 : p_.layout.copies * s_.d_model);
  }
  __device__ void gather_numbers(const uint64_t* from, uint32_t stamp, float* to) const {
    gather(
        from, s_.d_model / 2, stamp, [&](int i) { return reinterpret_cast<float2*>(to) + i; },
        [](float2* at, uint32_t first, uint32_t second) {
          *at = make_float2(number_of(first), number_of(second));
        });
  }

  // A product's operands, two of them a word.
  __device__ void gather_operands(int64_t offset, const FoldedTasks& tasks, uint32_t stamp) const {
    const int in = tasks.in(), stride = stretch_stride(tasks.columns);
    gather(
        own_copy(offset, in / 2), in / 4, stamp,
        [&](int i) {
          const auto stretch =
              static_cast<int>(static_cast<unsigned>(4 * i) / static_cast<unsigned>(tasks.columns));
          const int column = 4 * i - stretch * tasks.columns;
          return reinterpret_cast<uint2*>(operands() + stretch * stride + column);
        },
        [](uint2* at, uint32_t first, uint32_t second) { *at = make_uint2(first, second); });
  }

  // ---- products ---------------------------------------------------------------------------------

  // What lanes need beside weights to finish their rows: lane `number` of a plain tile, or of the
  // projection's the pair lane mod 8.
  struct Extras {
    float bias = 0, high_bias = 0;
    float cos = 1, sin = 0;
  };

  __device__ Extras find_extras(LoneKind kind, int layer, int tile) const {
    Extras extras;
    const DecodeBlock& w = blocks_[layer];
    const bool more = layer + 1 < s_.layers;
    const DecodeBlock& next = blocks_[more ? layer + 1 : layer];  // asked for ahead
    if (kind == kLoneQkv) {
      const ProjectionTile rows = items_.projection(tile);
      const T* bias = static_cast<const T*>(w.qkv_bias);
      const T* next_bias = static_cast<const T*>(next.qkv_bias);
      const int pair = lane() % 8;
      if (pair < rows.rows.low_count) {
        extras.bias = elementwise::to_float(bias[rows.rows.low + pair]);
        fetch_into_l2(next_bias + rows.rows.low + pair);
        if (rows.kind != ProjectionTile::kValue && p_.cos != nullptr) {
          extras.cos = p_.cos[rows.first + pair];
          extras.sin = p_.sin[rows.first + pair];
        }
      }
      if (pair < rows.rows.high_count) {
        extras.high_bias = elementwise::to_float(bias[rows.rows.high + pair]);
        fetch_into_l2(next_bias + rows.rows.high + pair);
      }
    } else if (warp() == 0) {
      const auto bias_of = [&](const DecodeBlock& of) {
        return static_cast<const T*>(kind == kLoneProj  ? of.proj_bias
                                     : kind == kLoneFf1 ? of.ff1_bias
                                                        : of.ff2_bias);
      };
      const int row = p_.layout.tasks[kind].row(tile, lane() % kTileRows);
      if (row < (kind == kLoneFf1 ? s_.ff_width : s_.d_model)) {
        extras.bias = elementwise::to_float(bias_of(w)[row]);
        fetch_into_l2(bias_of(next) + row);
      }
    }
    return extras;
  }

  __device__ static bool begins_branch(LoneKind kind) {
    return kind == kLoneQkv || kind == kLoneFf1;
  }

  struct Norm {
    float mean = 0, rstd = 0;
  };

  // A product by this block's tiles of it.
  __device__ void multiply(LoneKind kind, int layer) {
    const FoldedTasks& tasks = p_.layout.tasks[kind];
    const int own = items_.first(kind), end = items_.end(kind);
    const bool any = own < end;
    Extras extras;
    Norm norm;
    int tile = own;
    do {
      float sums[4] = {};
#pragma unroll 1
      for (int group = 0; group < tasks.groups; group++) {
        WeightPieces pieces;
        if (any) {
          if (group == 0) extras = find_extras(kind, layer, tile);
          ahead_.take(pieces);
        }
        if (tile == own && group == 0) {
          gather_input(kind, layer, any);
          tick(1 + 2 * kind);
          if (begins_branch(kind)) norm = find_norm(stream(kind == kLoneFf1), p_.block_eps);
        }
        if (!any) return;
        multiply_group(kind, tasks, group, norm, pieces, sums);
      }
      float* scratch = scratch_ + (turn_ ? kTileRows * kWarps : 0);
      turn_ = !turn_;
      leave_sums(tasks, sums, scratch);
      __syncthreads();
      if (warp() == 0 || kind == kLoneQkv) finish(kind, layer, tile, extras, scratch);
      tile += items_.step(kind);
    } while (tile < end);
    tick(2 + 2 * kind);
    if (begins_branch(kind)) ahead_.end_norm();
  }

  // What a product is of, into shared memory. any: this block has some of it.
  __device__ void gather_input(LoneKind kind, int layer, bool any) const {
    if (kind == kLoneQkv) {
      gather_stream(layer);
    } else if (kind == kLoneFf1) {
      gather_numbers(own_copy(p_.layout.second, s_.d_model), stamp(layer), stream(true));
    } else if (any) {
      gather_operands(kind == kLoneProj ? p_.layout.attended : p_.layout.ff, p_.layout.tasks[kind],
                      stamp(layer));
    }
    __syncthreads();
  }

  __device__ void multiply_group(LoneKind kind, const FoldedTasks& tasks, int group,
                                 const Norm& norm, const WeightPieces& pieces,
                                 float (&sums)[4]) const {
    const int t = lane() % 4;
#pragma unroll
    for (int u = 0; u < kLoneChunks; u++) {
      const int first = (warp() + (kLoneChunks * group + u) * kWarps) * kChunk;
      if (first >= tasks.columns) break;
      uint4 low = make_uint4(0, 0, 0, 0), high = low, x = low;
      if (first + 8 * t < tasks.columns) {
        low = pieces.of[2 * u], high = pieces.of[2 * u + 1];
        x = begins_branch(kind) ? normed(kind, first + 8 * t, norm) : stretch(tasks, first + 8 * t);
      }
      multiply_add<T>(sums, low.x, high.x, low.y, high.y, x.x, x.y);
      multiply_add<T>(sums, low.z, high.z, low.w, high.w, x.z, x.w);
    }
  }

  // By each warp for itself.
  __device__ Norm find_norm(const float* row, float eps) const {
    float sum = 0;
#pragma unroll 4
    for (int column = lane() * 4; column < s_.d_model; column += 128) {
      const float4 x = *reinterpret_cast<const float4*>(row + column);
      sum += (x.x + x.y) + (x.z + x.w);
    }
    const float mean = warp_sum(sum) * p_.layout.inverse_width;
    float squares = 0;
#pragma unroll 4
    for (int column = lane() * 4; column < s_.d_model; column += 128) {
      const float4 x = *reinterpret_cast<const float4*>(row + column);
      const float a = x.x - mean, b = x.y - mean, c = x.z - mean, d = x.w - mean;
      squares += (a * a + b * b) + (c * c + d * d);
    }
    return {mean, rsqrtf(warp_sum(squares) * p_.layout.inverse_width + eps)};
  }

  // Eight operands from `column` on.
  __device__ uint4 normed(LoneKind kind, int column, const Norm& norm) const {
    const float *x = stream(kind == kLoneFf1) + column, *weight = ahead_.norm() + column,
                *bias = weight + s_.d_model;
    float y[8];
#pragma unroll
    for (int i = 0; i < 8; i++) y[i] = (x[i] - norm.mean) * norm.rstd * weight[i] + bias[i];
    return make_uint4(pack<T>(y[0], y[1]), pack<T>(y[2], y[3]), pack<T>(y[4], y[5]),
                      pack<T>(y[6], y[7]));
  }

  // Those of this lane's stretch.
  __device__ uint4 stretch(const FoldedTasks& tasks, int column) const {
    const int number = tasks.stretch(lane() / 4);
    return *reinterpret_cast<const uint4*>(operands() + number * stretch_stride(tasks.columns) +
                                           column);
  }

  // A warp's sums: of each row of the tile the one with its own stretch.
  __device__ void leave_sums(const FoldedTasks& tasks, const float (&sums)[4],
                             float* scratch) const {
    const int row = lane() / 4, own = tasks.stretch(row);
    if (lane() % 4 != own / 2) return;
    const bool odd = own % 2 == 1;
    scratch[row * kWarps + warp()] = odd ? sums[1] : sums[0];
    scratch[(row + 8) * kWarps + warp()] = odd ? sums[3] : sums[2];
  }

  // ---- the end of a product, by one warp; of the projection, by all
  // ------------------------------

  __device__ void finish(LoneKind kind, int layer, int tile, const Extras& extras,
                         const float* scratch) const {
    const FoldedTasks& tasks = p_.layout.tasks[kind];
    const float* own = scratch + lane() % kTileRows * kWarps;
    static_assert(kWarps == 8);
    const float4 a = reinterpret_cast<const float4*>(own)[0],
                 b = reinterpret_cast<const float4*>(own)[1];
    float sum = ((a.x + a.y) + (a.z + a.w)) + ((b.x + b.y) + (b.z + b.w));
#pragma unroll 1
    for (int lanes = 1; lanes < tasks.fold(); lanes *= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
    if (kind == kLoneQkv) {
      finish_projection(layer, items_.projection(tile), sum, extras);
    } else if (kind == kLoneFf1) {
      finish_feed_forward(layer, tile, sum + extras.bias);
    } else {
      finish_branch(kind, layer, tile, tasks, sum + extras.bias);
    }
  }

  __device__ void finish_projection(int layer, const ProjectionTile& tile, float sum,
                                    const Extras& extras) const {
    const bool value = tile.kind == ProjectionTile::kValue;
    const float other = __shfl_xor_sync(~0u, sum, 8);
    const bool second = lane() & 8;  // of a pair
    float low = (second ? other : sum) + extras.bias,
          high = (second ? sum : other) + extras.high_bias;
    if (value) {
      low = elementwise::to_float(elementwise::from_float<T>(low));
      high = elementwise::to_float(elementwise::from_float<T>(high));
    } else {
      const float from = low;
      low = from * extras.cos - high * extras.sin;
      high = high * extras.cos + from * extras.sin;
    }
    // Each warp for some blocks of a cluster, half of it for one.
    const int column = tile.first + lane() % 8, apart = tile.rows.high - tile.rows.low;
    if (lane() % 8 < (second ? tile.rows.high_count : tile.rows.low_count)) {
      const int at = place_in_head(tile.kind, tile.head) + column + (second ? apart : 0);
#pragma unroll 1
      for (int rank = thread() / 16; rank < p_.layout.cluster; rank += kThreads / 16) {
        store_word(projected(rank) + at, stamped(bits_of(second ? high : low), stamp(layer)));
      }
    }
    if (tile.kind == ProjectionTile::kQuery || thread() >= tile.rows.low_count) return;
    // Heads that share a key have the same one.
    const int shared = s_.heads / s_.kv_heads;
    if (clusters() && items_.head() != tile.head * shared) return;
    const bool both = lane() < tile.rows.high_count;
    // The slots that the new row goes to, which are read from the next step on.
    const HeadCache& cache = caches_[layer * s_.kv_heads + tile.head];
    const int32_t* entry = words_ + p_.writes + 2 * (pattern_ * s_.kv_heads + tile.head);
#pragma unroll 1
    for (int i = 0; i < entry[1]; i++) {
      std::byte* row = static_cast<std::byte*>(cache.rows) + words_[entry[0] + i] * p_.row_bytes;
      if (value) {
        T* at = reinterpret_cast<T*>(row + static_cast<int64_t>(s_.qk_dim) * 4) + column;
        at[0] = elementwise::from_float<T>(low);
        if (both) at[apart] = elementwise::from_float<T>(high);
      } else {
        float* at = reinterpret_cast<float*>(row) + column;
        at[0] = low;
        at[apart] = high;
      }
    }
  }

  // Writes value(i) for i < 2^count_log, as words first + i < words of all copies of a part. All
  // lanes call value() at once.
  template <typename Value>
  __device__ void publish(int64_t offset, int words, int first, int count_log, uint32_t stamp,
                          const Value& value) const {
#pragma unroll 1
    for (int from = 0; from < p_.layout.copies << count_log; from += 32) {
      const int copy = (from + lane()) >> count_log;
      const int number = (from + lane()) & ((1 << count_log) - 1);
      const uint32_t bits = value(number);
      if (copy < p_.layout.copies && first + number < words) {
        store_word(part(offset) + static_cast<int64_t>(copy) * words + first + number,
                   stamped(bits, stamp));
      }
    }
  }

  __device__ void finish_feed_forward(int layer, int tile, float x) const {
    const float y = __fdividef(x, 1 + power_of_two(-1.702f * 1.44269504f * x));
    publish(p_.layout.ff, s_.ff_width / 2, tile * kTileRows / 2, FoldedTasks::kTileLog - 1,
            stamp(layer), [&](int i) {
              const float low = __shfl_sync(~0u, y, 2 * i), high = __shfl_sync(~0u, y, 2 * i + 1);
              return pack<T>(low, high);
            });
  }

  __device__ void finish_branch(LoneKind kind, int layer, int tile, const FoldedTasks& tasks,
                                float sum) const {
    const int row = tasks.row(tile, lane() % kTileRows);
    const bool second = kind == kLoneFf2;
    const float x = row < s_.d_model ? stream(second)[row] + sum : 0;
    publish(second ? place_of_x(layer) : p_.layout.second, s_.d_model, tasks.row(tile, 0),
            tasks.rows_log(), stamp(layer),
            [&](int i) { return bits_of(__shfl_sync(~0u, x, i << tasks.fold_log)); });
  }

  // ---- attention --------------------------------------------------------------------------------

  __device__ void attention(int layer) {
    const int tasks = p_.layout.tasks[kLoneKeys].tiles;
#pragma unroll 1
    for (int task = block(); task < tasks; task += blocks()) {
      if (task != block()) __syncthreads();  // before what is shared is another task's
      attend_range(layer, task);
    }
  }

  __device__ void attend_range(int layer, int task) {
    using Share = KeyShare<kLanes>;
    constexpr int kRound = kKeysAhead * Share::kBlockKeys;
    const KeyTask head = items_.keys(task);
    const KeyRange range = key_range(p_, words_, pattern_, head);
    const int own = warp() * Share::kGroups + lane() / kLanes;
    float *q = shared<float>(p_.layout.fresh_at), *key = q + s_.qk_dim, *value = key + s_.qk_dim;
    QuerySums<T, kLanes> sums;
    int first = range.begin;
    do {
      const bool any = first < range.end;
      KeyVectors vectors;
      if (any) ahead_.take_rows(range, first + own, vectors);
      if (first == range.begin) {
        gather_head(layer, head, range, q);
        __syncthreads();
        tick(9);
        sums.ask(s_.qk_dim, 1.44269504f / sqrtf(static_cast<float>(s_.qk_dim)),
                 [&](int column) { return *reinterpret_cast<const float4*>(q + column); });
      }
      if (!any) break;
#pragma unroll
      for (int u = 0; u < kKeysAhead; u++) {
        if (vectors.live[u] && first + own + u * Share::kBlockKeys == range.fresh) {
          fresh_vectors(key, value, u, vectors);
        }
      }
      sums.add(vectors);
      first += kRound;
    } while (first < range.end);
    sums.leave(s_.v_dim, scratch_);
    __syncthreads();
    if (thread() < s_.v_dim / 2) {
      const WarpsJoined joined(s_.v_dim, scratch_);
      const float2 stats = joined.stats();
      uint64_t* to = range_words(head.head, thread()) + 4 * head.split;
      const auto number = [&](float x) { return stamped(bits_of(x), stamp(layer)); };
      store_words(to, number(stats.x), number(stats.y));
      store_words(to + 2, number(joined.sum(2 * thread())), number(joined.sum(2 * thread() + 1)));
    }
    tick(10);
  }

  // What the fused projection gives, as block `rank` of the cluster reads it.
  __device__ uint64_t* projected(int rank) const {
    if (!clusters()) return part(p_.layout.projected);
    return of_rank(shared<uint64_t>(p_.layout.words_at), rank);
  }
  // Where there the query, key or value of a head begins.
  __device__ int place_in_head(ProjectionTile::Kind kind, int head) const {
    const int kinds_before = clusters() ? 1 : kind == ProjectionTile::kQuery ? 0 : s_.heads;
    if (clusters()) head = 0;
    if (kind == ProjectionTile::kQuery) return head * s_.qk_dim;
    if (kind == ProjectionTile::kKey) return (kinds_before + head) * s_.qk_dim;
    return (kinds_before + (clusters() ? 1 : s_.kv_heads)) * s_.qk_dim + head * s_.v_dim;
  }
  // What the ranges of a head give for its numbers 2 pair and 2 pair + 1: where they are joined.
  __device__ uint64_t* range_words(int head, int pair) const {
    const int splits = p_.layout.key_splits, cluster = p_.layout.cluster;
    if (!clusters()) {
      return part(p_.layout.ranges) + 4 * static_cast<int64_t>(head * s_.v_dim / 2 + pair) * splits;
    }
    return of_rank(shared<uint64_t>(p_.layout.words_at) + p_.layout.projected_words +
                       4 * (pair / cluster) * splits,
                   pair % cluster);
  }

  // A head's query, and the new key and value where the range has them, into shared memory.
  __device__ void gather_head(int layer, const KeyTask& task, const KeyRange& range,
                              float* to) const {
    const int q = s_.qk_dim / 2, v = s_.v_dim / 2;
    const bool fresh = range.begin <= range.fresh && range.fresh < range.end;
    const uint64_t* from = projected(items_.rank());
    const int first_query = place_in_head(ProjectionTile::kQuery, task.head),
              first_key = place_in_head(ProjectionTile::kKey, task.kv_head),
              first_value = place_in_head(ProjectionTile::kValue, task.kv_head);
#pragma unroll 1
    for (int i = thread(); i < (fresh ? 2 * q + v : q); i += kThreads) {
      const uint64_t* words = from + (i < q       ? first_query + 2 * i
                                      : i < 2 * q ? first_key + 2 * (i - q)
                                                  : first_value + 2 * (i - 2 * q));
      StampedPair pair;
      pair.load(words);
      pair.await(words, stamp(layer));
      *reinterpret_cast<float2*>(to + 2 * i) =
          make_float2(number_of(pair.first()), number_of(pair.second()));
    }
  }

  __device__ void fresh_vectors(const float* key, const float* value, int u,
                                KeyVectors& vectors) const {
    const int own = thread() % kLanes;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int column = (i * kLanes + own) * 4;
      if (column < s_.qk_dim) {
        vectors.keys[u][i] = *reinterpret_cast<const float4*>(key + column);
      }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int column = (i * kLanes + own) * 8;
      if (column >= s_.v_dim) continue;
      const float* x = value + column;
      vectors.values[u][i] = make_uint4(pack<T>(x[0], x[1]), pack<T>(x[2], x[3]),
                                        pack<T>(x[4], x[5]), pack<T>(x[6], x[7]));
    }
  }

  // Two numbers of what attention gives a warp, its lanes the ranges of keys. The first warps come
  // last, as they have more to do before.
  __device__ void join_ranges(int layer) const {
    const int splits = p_.layout.key_splits, of_head = s_.v_dim / 2, pairs = s_.heads * of_head;
    const int own = clusters() ? items_.rank() : block(),
              step = clusters() ? p_.layout.cluster : blocks();
    const int head = clusters() ? items_.head() : 0;
    if (head >= s_.heads) return;
#pragma unroll 1
    for (int pair = own + step * (kWarps - 1 - warp()); pair < (clusters() ? of_head : pairs);
         pair += step * kWarps) {
      float highest = -INFINITY, total = 0, low = 0, high = 0;
      if (lane() < splits) {
        const uint64_t* from = range_words(head, pair) + 4 * lane();
        StampedPair stats, sums;
        stats.load(from);
        sums.load(from + 2);
        stats.await(from, stamp(layer));
        sums.await(from + 2, stamp(layer));
        highest = number_of(stats.first()), total = number_of(stats.second());
        low = number_of(sums.first()), high = number_of(sums.second());
      }
      float most = highest;
#pragma unroll
      for (int lanes = 16; lanes > 0; lanes /= 2) {
        most = fmaxf(most, __shfl_xor_sync(~0u, most, lanes));
      }
      const float weight = power_of_two(highest - finite_shift(most));
      total *= weight, low *= weight, high *= weight;
#pragma unroll
      for (int lanes = 16; lanes > 0; lanes /= 2) {
        total += __shfl_xor_sync(~0u, total, lanes);
        low += __shfl_xor_sync(~0u, low, lanes);
        high += __shfl_xor_sync(~0u, high, lanes);
      }
      const float inverse = total == 0 ? 0 : __fdividef(1, total);  // a query without keys
      const uint32_t bits = pack<T>(low * inverse, high * inverse);
      publish(p_.layout.attended, pairs, head * of_head + pair, 0, stamp(layer),
              [&](int) { return bits; });
    }
  }

  // ---- the end ----------------------------------------------------------------------------------

  // In float32, a warp a symbol of the vocabulary.
  __device__ void logits() const {
    gather_stream(s_.layers);
    __syncthreads();
    const Norm norm = find_norm(stream(false), p_.final_eps);
#pragma unroll 1
    for (int symbol = block() + blocks() * warp(); symbol < s_.vocab; symbol += blocks() * kWarps) {
      const float* weight = p_.tables.output_weight + static_cast<int64_t>(symbol) * s_.d_model;
      float sum = 0;
#pragma unroll 4
      for (int column = lane() * 4; column < s_.d_model; column += 128) {
        const auto w = Numbers<4>::load_constant(weight + column),
                   gain = Numbers<4>::load_constant(p_.tables.norm_weight + column),
                   bias = Numbers<4>::load_constant(p_.tables.norm_bias + column);
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const float y =
              (stream(false)[column + i] - norm.mean) * norm.rstd * gain.v[i] + bias.v[i];
          sum += w.v[i] * y;
        }
      }
      const float total = warp_sum(sum);
      if (lane() == 0) p_.logits[symbol] = total;
    }
  }

  const LoneParams& p_;
  const StepShape& s_;
  const int32_t* words_;
  const DecodeBlock* blocks_;  // in shared memory, as all below
  const HeadCache* caches_;
  float* scratch_;
  const OwnItems items_;
  CopiesAhead<T, kLanes> ahead_;
  const int copy_ = block() % p_.layout.copies;  // that the block reads
  int pattern_ = 0;                              // of the layer
  bool turn_ = false;  // which half of scratch_ the next tile's sums go to
};

template <typename T, int kLanes>
__global__ void __launch_bounds__(kThreads, 1)
    lone_step_kernel(const __grid_constant__ LoneParams params) {
  LoneStep<T, kLanes>(params).run();
}

template <typename T>
const void* find_lone_kernel(const LoneLayout& layout) {
  const auto pointer = [](auto* kernel) { return reinterpret_cast<const void*>(kernel); };
  switch (layout.lanes) {
    case 4:
      return pointer(lone_step_kernel<T, 4>);
    case 8:
      return pointer(lone_step_kernel<T, 8>);
    default:
      return pointer(lone_step_kernel<T, 16>);
  }
}

}  // namespace lace::cuda::decode
