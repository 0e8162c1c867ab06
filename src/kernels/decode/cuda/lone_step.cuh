#pragma once

#include "kernels/decode/cuda/attend.cuh"
#include "kernels/decode/cuda/copies_ahead.cuh"
#include "kernels/decode/cuda/norm.cuh"
#include "kernels/decode/cuda/product.cuh"
#include "kernels/decode/cuda/projected.cuh"
#include "kernels/decode/cuda/stamped.cuh"
#include "kernels/decode/cuda/step_params.h"

namespace lace::cuda::decode {

// A symbol of one sequence through all layers, by blocks that pass one another stamped values:
//
//   norm, the fused projection, turned, rows into the caches | attention over ranges of keys
//   | ranges joined | projection | norm, ff1, quick-GELU | ff2 |     … and at the end norm, logits
//
// Where a bar is, blocks write words that others wait for one by one (stamped.cuh). What a phase
// needs of the model is in shared memory by then: some of a block's threads do nothing but copy it,
// some phases ahead (copies_ahead.cuh).
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
        slots_(params),
        own_keys_(params, block()) {
    const ProjectionTile tile =
        projection_tile(s_, least(block(), p_.layout.tasks[kLoneQkv].tiles - 1));
    own_projection_ = tile;
    own_turn_ = find_turn(tile);
  }

  __device__ __forceinline__ void run() {
    copy_table(p_.tables.blocks, s_.layers, p_.layout.blocks_at);
    copy_table(p_.tables.caches, s_.layers * s_.kv_heads, p_.layout.caches_at);
    __syncthreads();
    if (threadIdx.x >= kThreads) {
      LoneCopier<T, kLanes>(p_, words_, blocks_, caches_).run();
      return;
    }
    // One piece of code for all products: what runs once a layer anew would be fetched anew.
#pragma unroll 1
    for (int layer = 0; layer < s_.layers; layer++) {
#pragma unroll 1
      for (int kind = 0; kind < kLoneKinds; kind++) {
        if (kind == kLoneKeys) {
          attention(layer);
          join_ranges(layer);
        } else {
          multiply(static_cast<LoneKind>(kind), layer);
        }
      }
      if (++pattern_ == p_.patterns) pattern_ = 0;
    }
    if (p_.logits != nullptr) logits();
  }

 private:
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
  __device__ uint32_t stamp(int layer) const { return p_.stamp + static_cast<uint32_t>(layer); }

  // ---- the start --------------------------------------------------------------------------------

  __device__ const int32_t* bring_words() const {
    if (p_.far_words != nullptr) return p_.far_words;
    auto* words = shared<int32_t>(0);
#pragma unroll 1
    for (int i = thread(); i < p_.word_count; i += kLoneThreads) words[i] = p_.words[i];
    return words;
  }

  template <typename E>
  __device__ void copy_table(const E* from, int count, int64_t to) const {
    const auto* words = reinterpret_cast<const uint64_t*>(from);
    const int all = count * static_cast<int>(sizeof(E) / 8);
#pragma unroll 1
    for (int i = thread(); i < all; i += kLoneThreads) shared<uint64_t>(to)[i] = __ldg(words + i);
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
      gather_numbers(part(place_of_x(layer - 1)), stamp(layer - 1), to);
    }
  }
  __device__ int64_t place_of_x(int layer) const {
    return p_.layout.x + (layer % 2 == 0 ? 0 : s_.d_model);
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
    const int stride = stretch_stride(tasks.columns);
    gather(
        part(offset), tasks.in() / 4, stamp,
        [&](int i) {
          const auto stretch =
              static_cast<int>(static_cast<unsigned>(4 * i) / static_cast<unsigned>(tasks.columns));
          const int column = 4 * i - stretch * tasks.columns;
          return reinterpret_cast<uint2*>(operands() + stretch * stride + column);
        },
        [](uint2* at, uint32_t first, uint32_t second) { *at = make_uint2(first, second); });
  }

  // ---- products ---------------------------------------------------------------------------------

  // What the numbers of a pair of rows of the projection are turned by: pair lane mod 8.
  struct Turn {
    float cos = 1, sin = 0;
  };
  __device__ Turn find_turn(const ProjectionTile& tile) const {
    const int pair = lane() % 8;
    if (tile.kind == ProjectionTile::kValue || p_.cos == nullptr || pair >= tile.rows.low_count) {
      return {};
    }
    return {p_.cos[tile.first + pair], p_.sin[tile.first + pair]};
  }

  __device__ static bool begins_branch(LoneKind kind) {
    return kind == kLoneQkv || kind == kLoneFf1;
  }

  struct Norm {
    float mean = 0, rstd = 0;
  };

  // A product by this block's tiles of it. At each first barrier of two the group at hand has been
  // copied, at each second one it has been read.
  __device__ void multiply(LoneKind kind, int layer) {
    const FoldedTasks& tasks = p_.layout.tasks[kind];
    const bool any = block() < tasks.tiles;
    Norm norm;
    int tile = block();
    do {
      float sums[4] = {}, bias = 0, high_bias = 0;
#pragma unroll 1
      for (int group = 0; group < tasks.groups; group++) {
        __syncthreads();
        WeightPieces pieces;
#pragma unroll
        for (int i = 0; i < kLonePieces; i++) pieces.of[i] = *slots_.piece(taken_, i, thread());
        if (group == 0) {
          const T* biases = slots_.biases(taken_);
          const int number = lane() % kTileRows;
          bias = elementwise::to_float(
              biases[kind == kLoneQkv ? number % 8 : number >> tasks.fold_log]);
          high_bias = elementwise::to_float(biases[8 + number % 8]);
          if (tile == block()) {
            gather_input(kind, layer, any);
            sync_first<kThreads>();
            if (!any) return;
            if (begins_branch(kind)) norm = find_norm(stream(kind == kLoneFf1), p_.block_eps);
          }
        }
        multiply_group(kind, tasks, group, norm, pieces, sums);
        taken_ = LoneSlots<T>::next(taken_);
        if (group + 1 < tasks.groups) __syncthreads();
      }
      float* scratch = scratch_ + (turn_ ? kTileRows * kWarps : 0);
      turn_ = !turn_;
      leave_sums(tasks, sums, scratch);
      __syncthreads();
      if (warp() == 0) finish(kind, layer, tile, bias, high_bias, scratch);
      tile += blocks();
    } while (tile < tasks.tiles);
    if (begins_branch(kind)) norm_ = LoneSlots<T>::next_norm(norm_);
  }

  // What a product is of, into shared memory. any: this block has some of it.
  __device__ void gather_input(LoneKind kind, int layer, bool any) const {
    if (kind == kLoneQkv) {
      gather_stream(layer);
    } else if (kind == kLoneFf1) {
      gather_numbers(part(p_.layout.second), stamp(layer), stream(true));
    } else if (any) {
      gather_operands(kind == kLoneProj ? p_.layout.attended : p_.layout.ff, p_.layout.tasks[kind],
                      stamp(layer));
    }
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

  // By each warp for itself, in one pass: of differences from the mean of the norm before, which is
  // near.
  __device__ Norm find_norm(const float* row, float eps) {
    float sum = 0, squares = 0;
#pragma unroll 4
    for (int column = lane() * 4; column < s_.d_model; column += 128) {
      const float4 x = *reinterpret_cast<const float4*>(row + column);
      const float a = x.x - near_mean_, b = x.y - near_mean_, c = x.z - near_mean_,
                  d = x.w - near_mean_;
      sum += (a + b) + (c + d);
      squares += (a * a + b * b) + (c * c + d * d);
    }
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) {
      sum += __shfl_xor_sync(~0u, sum, lanes);
      squares += __shfl_xor_sync(~0u, squares, lanes);
    }
    const float away = sum * p_.layout.inverse_width;
    const float variance = fmaxf(squares * p_.layout.inverse_width - away * away, 0.0f);
    near_mean_ += away;
    return {near_mean_, rsqrtf(variance + eps)};
  }

  // Eight operands from `column` on.
  __device__ uint4 normed(LoneKind kind, int column, const Norm& norm) const {
    const float *x = stream(kind == kLoneFf1) + column, *weight = slots_.norm(norm_) + column,
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

  // ---- the end of a product, by one warp --------------------------------------------------------

  // bias: of row lane mod 16 of the tile, of the projection's of rows lane mod 8 and 8 more.
  __device__ void finish(LoneKind kind, int layer, int tile, float bias, float high_bias,
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
      const bool first = tile == block();
      const ProjectionTile of = first ? own_projection_ : projection_tile(s_, tile);
      finish_projection(layer, of, first ? own_turn_ : find_turn(of), sum, bias, high_bias);
    } else if (kind == kLoneFf1) {
      finish_feed_forward(layer, tile, sum + bias);
    } else {
      finish_branch(kind, layer, tile, tasks, sum + bias);
    }
  }

  __device__ void finish_projection(int layer, const ProjectionTile& tile, const Turn& turn,
                                    float sum, float bias, float high_bias) const {
    const bool value = tile.kind == ProjectionTile::kValue;
    float low = sum + bias, high = __shfl_xor_sync(~0u, sum, 8) + high_bias;
    if (lane() >= tile.rows.low_count) return;
    const bool both = lane() < tile.rows.high_count;
    if (value) {
      low = elementwise::to_float(elementwise::from_float<T>(low));
      high = elementwise::to_float(elementwise::from_float<T>(high));
    } else {
      turn_pair(low, high, turn.cos, turn.sin);
    }
    uint64_t* to = part(p_.layout.projected) + lane();
    store_word(to + tile.rows.low, stamped(bits_of(low), stamp(layer)));
    if (both) store_word(to + tile.rows.high, stamped(bits_of(high), stamp(layer)));
    if (tile.kind == ProjectionTile::kQuery) return;
    const int column = tile.first + lane(), apart = tile.rows.high - tile.rows.low;
    // The slots that the new row goes to, which are read from the next step on.
    const HeadCache& cache = caches_[layer * s_.kv_heads + tile.head];
    const int32_t* entry = words_ + p_.writes + 2 * (pattern_ * s_.kv_heads + tile.head);
#pragma unroll 1
    for (int i = 0; i < entry[1]; i++) {
      std::byte* row = static_cast<std::byte*>(cache.rows) + words_[entry[0] + i] * p_.row_bytes;
      store_pair<T>(row, value, s_.qk_dim, column, apart, both, low, high);
    }
  }

  __device__ void finish_feed_forward(int layer, int tile, float x) const {
    const float y = __fdividef(x, 1 + power_of_two(-1.702f * 1.44269504f * x));
    const float other = __shfl_xor_sync(~0u, y, 1);
    const int row = tile * kTileRows + lane();
    if (lane() >= kTileRows || lane() % 2 != 0 || row >= s_.ff_width) return;
    store_word(part(p_.layout.ff) + row / 2, stamped(pack<T>(y, other), stamp(layer)));
  }

  __device__ void finish_branch(LoneKind kind, int layer, int tile, const FoldedTasks& tasks,
                                float sum) const {
    const bool second = kind == kLoneFf2;
    const int row = tasks.row(tile, lane());
    if (lane() >= kTileRows || tasks.stretch(lane()) != 0 || row >= s_.d_model) return;
    store_word(part(second ? place_of_x(layer) : p_.layout.second) + row,
               stamped(bits_of(stream(second)[row] + sum), stamp(layer)));
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
    const KeyTask head = task == block() ? own_keys_ : KeyTask(p_, task);
    const KeyRange range(p_, words_, pattern_, head);
    const int own = warp() * Share::kGroups + lane() / kLanes;
    float *q = shared<float>(p_.layout.fresh_at), *key = q + s_.qk_dim, *value = key + s_.qk_dim;
    QuerySums<T, kLanes> sums;
    int first = range.begin;
    do {
      __syncthreads();
      KeyVectors vectors;
      if (first < range.end) take_rows(range, first + own, vectors);
      if (first == range.begin) {
        gather_head(layer, head, range, q);
        sync_first<kThreads>();
        sums.ask(s_.qk_dim, 1.44269504f / sqrtf(static_cast<float>(s_.qk_dim)),
                 [&](int column) { return *reinterpret_cast<const float4*>(q + column); });
      }
      if (first >= range.end) break;
#pragma unroll
      for (int u = 0; u < kKeysAhead; u++) {
        if (vectors.live[u] && first + own + u * Share::kBlockKeys == range.fresh) {
          fresh_vectors(key, value, u, vectors);
        }
      }
      sums.add(vectors);
      first += kRound;
      if (first < range.end) __syncthreads();
    } while (first < range.end);
    sums.leave(s_.v_dim, scratch_);
    __syncthreads();
    if (thread() < s_.v_dim / 2) {
      const WarpsJoined joined(s_.v_dim, scratch_);
      const float2 stats = joined.stats();
      uint64_t* to = range_words(head.head * s_.v_dim / 2 + thread()) + 4 * head.split;
      const auto number = [&](float x) { return stamped(bits_of(x), stamp(layer)); };
      store_words(to, number(stats.x), number(stats.y));
      store_words(to + 2, number(joined.sum(2 * thread())), number(joined.sum(2 * thread() + 1)));
    }
  }

  // What the ranges give for two numbers of a head: of all heads', pair number `pair`.
  __device__ uint64_t* range_words(int pair) const {
    return part(p_.layout.ranges) + 4 * static_cast<int64_t>(pair) * p_.layout.key_splits;
  }

  // Keys key, key + KeyShare::kBlockKeys, … of a range. The one of this step is left out.
  __device__ void take_rows(const KeyRange& range, int key, KeyVectors& vectors) {
    const int lane = thread() % kLanes;
    const int values = LoneSlots<T>::next(LoneSlots<T>::next(taken_));
#pragma unroll
    for (int u = 0; u < kKeysAhead; u++) {
      const int own = key + u * KeyShare<kLanes>::kBlockKeys;
      vectors.live[u] = own < range.end;
      const bool there = own < range.end && own != range.fresh;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        vectors.keys[u][i] = make_float4(0, 0, 0, 0);
        if (there && (i * kLanes + lane) * 4 < s_.qk_dim) {
          vectors.keys[u][i] = *reinterpret_cast<const float4*>(slots_.piece(taken_, i, thread()));
        }
      }
#pragma unroll
      for (int i = 0; i < 2; i++) {
        vectors.values[u][i] = make_uint4(0, 0, 0, 0);
        if (there && (i * kLanes + lane) * 8 < s_.v_dim) {
          vectors.values[u][i] = *slots_.piece(values, 2 * u + i, thread());
        }
      }
      taken_ = LoneSlots<T>::next(taken_);
    }
    taken_ = LoneSlots<T>::next(taken_);
  }

  // A head's query, and the new key and value where the range has them, into shared memory.
  __device__ void gather_head(int layer, const KeyTask& task, const KeyRange& range,
                              float* to) const {
    const int q = s_.qk_dim / 2, v = s_.v_dim / 2;
    const bool fresh = range.begin <= range.fresh && range.fresh < range.end;
    const uint64_t* from = part(p_.layout.projected);
    const int first_query = task.head * s_.qk_dim,
              first_key = (s_.heads + task.kv_head) * s_.qk_dim,
              first_value = (s_.heads + s_.kv_heads) * s_.qk_dim + task.kv_head * s_.v_dim;
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
    const int splits = p_.layout.key_splits, pairs = s_.heads * s_.v_dim / 2;
#pragma unroll 1
    for (int pair = block() + blocks() * (kWarps - 1 - warp()); pair < pairs;
         pair += blocks() * kWarps) {
      float highest = -INFINITY, total = 0, low = 0, high = 0;
      if (lane() < splits) {
        const uint64_t* from = range_words(pair) + 4 * lane();
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
      if (lane() == 0) {
        store_word(part(p_.layout.attended) + pair,
                   stamped(pack<T>(low * inverse, high * inverse), stamp(layer)));
      }
    }
  }

  // ---- the end ----------------------------------------------------------------------------------

  // In float32, a warp a symbol of the vocabulary.
  __device__ void logits() {
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
  const LoneSlots<T> slots_;
  int taken_ = 0, norm_ = 0;  // the slots of the next group and of the next norm
  // Of the block's first items, as whole numbers take long to divide.
  const KeyTask own_keys_;
  ProjectionTile own_projection_;
  Turn own_turn_;
  int pattern_ = 0;      // of the layer
  float near_mean_ = 0;  // of the norm before
  bool turn_ = false;    // which half of scratch_ the next tile's sums go to
};

template <typename T, int kLanes>
__global__ void __launch_bounds__(kLoneThreads, 1)
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
