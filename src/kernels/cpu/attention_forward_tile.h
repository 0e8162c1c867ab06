#pragma once

#include "kernels/cpu/attention_forward.h"
#include "kernels/cpu/micro_kernels.h"
#include "kernels/cpu/pack.h"
#include "kernels/cpu/softcap.h"

// For an instruction set S, ForwardOps: make_forward_ops<S>(), and ForwardTypeOps of one dtype:
// Forward<S, T, kOperands>::ops().
//
// A batch of keys is taken in three steps: Sᵀ = K Qᵀ with the largest logit of each query;
// P = 2^((S − max) · scale) with the sums; Oᵀ = Oᵀ · 2^(old max − max) + Vᵀ P. Everything about
// softmax is vertical, as lanes are queries. Each segment of the batch computes only its granules.

namespace lace::cpu {

// Prefetches `bytes` of each of rows [r, r + kRows).
template <int kRows>
[[gnu::always_inline]] inline void prefetch_rows(const void* const* rows, int r, int bytes) {
  for (int i = 0; i < kRows; i++) {
    const char* row = static_cast<const char*>(rows[r + i]);
    for (int b = 0; b < bytes; b += 64) __builtin_prefetch(row + b, 0, 3);
  }
}

// Stores logits, capped if the tile says so, masked if kMasked, and raises `peak`; prefetches the
// rows of V on the way.
template <typename S, bool kMasked>
struct StoreLogits {
  const ForwardTile& tile;
  float* logits;
  float* peak;
  const uint64_t* live;
  const void* const* v_rows;
  int v_bytes;
  int v_begin;

  template <int kRows, int kVectors>
  [[gnu::always_inline]] void operator()(typename S::F (&acc)[kRows][kVectors], int r,
                                         int v) const {
    using F = typename S::F;
    if (tile.capped) cap_tile<S>(acc, tile.cap_scale);
    F top[kVectors];
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; j++) top[j] = S::load(peak + (v + j) * S::kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++) {
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; j++) {
        F x = acc[i][j];
        if constexpr (kMasked) {
          const uint64_t bits = live[r + i] >> ((v + j) * S::kLanes);
          x = S::keep(static_cast<uint32_t>(bits), x, S::set(-__builtin_inff()));
        }
        top[j] = S::max(top[j], x);
        S::store(logits + (r + i) * kTileOwners + (v + j) * S::kLanes, x);
      }
    }
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; j++) S::store(peak + (v + j) * S::kLanes, top[j]);
    if (v == v_begin) prefetch_rows<kRows>(v_rows, r, v_bytes);
  }
};

// acc = out · factor.
template <typename S>
struct LoadRescaled {
  const float* out;
  const float* factor;
  template <int kRows, int kVectors>
  [[gnu::always_inline]] void operator()(typename S::F (&acc)[kRows][kVectors], int r,
                                         int v) const {
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; j++) {
      const typename S::F f = S::load(factor + (v + j) * S::kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; i++) {
        acc[i][j] = S::mul(S::load(out + (r + i) * kTileOwners + (v + j) * S::kLanes), f);
      }
    }
  }
};

// out = acc; prefetches the rows ahead on the way, spread over the rows of out.
template <typename S>
struct StoreOut {
  float* out;
  const void* const* ahead;
  int ahead_count;
  int k_bytes;
  int v_dim;
  int v_begin;

  template <int kRows, int kVectors>
  [[gnu::always_inline]] void operator()(typename S::F (&acc)[kRows][kVectors], int r,
                                         int v) const {
    StoreTile<S>{out}(acc, r, v);
    if (v != v_begin) return;
    const int end = (r + kRows) * ahead_count / v_dim;
    for (int row = r * ahead_count / v_dim; row < end; row++) {
      prefetch_rows<1>(ahead, row, k_bytes);
    }
  }
};

// For each granule of owners the others [begin, end) of the batch whose weights are multiplied with
// V: outside them all its pairs are dead; begin is even, end is 0 if there is none. Neighbouring
// granules get the span of their union where one product over it is cheaper than one for each.
template <typename S>
struct Spans {
  int begin[kTileGranules] = {};
  int end[kTileGranules] = {};

  Spans(const OtherBatch& batch, int granules) {
    for (int s = batch.segment_count - 1; s >= 0; s--) {
      const Segment& segment = batch.segments[s];
      for (int g = segment.granule_begin; g < segment.granule_end; g++) {
        begin[g] = segment.begin;
        if (end[g] == 0) end[g] = segment.end;
      }
    }
    if (batch.segment_count > 1) merge(granules);
  }

 private:
  // What a row of V costs for so many granules at once: narrow tiles load more for each product.
  static constexpr int kCost[kTileGranules + 1] = {0, 11, 16, 23, 30};

  // The cheapest cut of the granules into groups, from the last granule backwards.
  void merge(int granules) {
    int best[kTileGranules + 1] = {}, group_end[kTileGranules] = {};
    for (int first = granules - 1; first >= 0; first--) {
      best[first] = -1;
      int low = 0, high = 0;
      for (int last = first; last < granules; last++) {
        widen(last, low, high);
        const int cost = (high - low) * kCost[last - first + 1] + best[last + 1];
        if (best[first] < 0 || cost < best[first]) {
          best[first] = cost;
          group_end[first] = last + 1;
        }
      }
    }
    for (int first = 0; first < granules; first = group_end[first]) {
      int low = 0, high = 0;
      for (int g = first; g < group_end[first]; g++) widen(g, low, high);
      for (int g = first; g < group_end[first]; g++) {
        begin[g] = low;
        end[g] = high;
      }
    }
  }

  // [low, high), if not empty, becomes the span of its union with that of granule g.
  void widen(int g, int& low, int& high) const {
    if (end[g] == 0) return;
    if (high == 0 || begin[g] < low) low = begin[g];
    if (end[g] > high) high = end[g];
  }
};

template <typename S, typename T, Operands kOperands>
struct Forward {
  using F = typename S::F;
  static constexpr int kGranuleVectors = kGranule / S::kLanes;

  static int vectors(const ForwardTile& tile) {
    return (tile.owners + kGranule - 1) / kGranule * kGranuleVectors;
  }

  static void pack_queries(const ForwardTile& tile, const void* const* q_rows) {
    if constexpr (kOperands == Operands::kPairs) {
      pack_rows<S>(reinterpret_cast<const float* const*>(q_rows), tile.owners, tile.qk_dim / 2,
                   tile.q);
    } else {
      pack_rows<S>(reinterpret_cast<const T* const*>(q_rows), tile.owners, tile.qk_dim, tile.q);
    }
  }

  static void resume(const ForwardTile& tile, const float* const* rows) {
    pack_rows<S>(rows, tile.owners, tile.v_dim, tile.out);
    for (int v = 0; v < vectors(tile); v++) {
      const F sum = S::load(tile.sum + v * S::kLanes);
      for (int d = 0; d < tile.v_dim; d++) {
        float* x = tile.out + d * kTileOwners + v * S::kLanes;
        S::store(x, S::mul(S::load(x), sum));
      }
    }
  }

  template <typename D>
  static void compute_logits(const ForwardTile& tile, const OtherBatch& batch,
                             const typename D::Element* const* k_rows, int depth,
                             const void* const* v_rows) {
    for (int v = 0; v < vectors(tile); v++) {
      S::store(tile.peak + v * S::kLanes, S::set(-__builtin_inff()));
    }
    const int v_bytes = tile.v_dim * static_cast<int>(sizeof(T));
    const auto* q = reinterpret_cast<const typename D::Element*>(tile.q);
    for (int s = 0; s < batch.segment_count; s++) {
      const Segment& segment = batch.segments[s];
      const int begin = segment.begin, v_begin = segment.granule_begin * kGranuleVectors;
      const auto run = [&](const auto& end) {
        dot_rows<D>(segment.end - begin, depth, k_rows + begin, q, kTileOwners, v_begin,
                    segment.granule_end * kGranuleVectors, ZeroTile<S>{}, end);
      };
      float* logits = tile.logits + begin * kTileOwners;
      const uint64_t* live = batch.live + begin;
      if (segment.masked) {
        run(StoreLogits<S, true>{tile, logits, tile.peak, live, v_rows + begin, v_bytes, v_begin});
      } else {
        run(StoreLogits<S, false>{tile, logits, tile.peak, live, v_rows + begin, v_bytes, v_begin});
      }
    }
  }

  // Raises max to the batch's peak; factor = 2^((old max − max) · scale).
  static void raise_max(const ForwardTile& tile) {
    const F scale = S::set(tile.scale);
    for (int v = 0; v < vectors(tile); v++) {
      const int e = v * S::kLanes;
      const F old_max = S::load(tile.max + e);
      const F new_max = S::max(S::load(tile.peak + e), old_max);
      const F factor = S::exp2(S::mul(S::sub(old_max, new_max), scale));
      S::store(tile.max + e, new_max);
      S::store(tile.factor + e, factor);
      S::store(tile.sum + e, S::mul(S::load(tile.sum + e), factor));
    }
  }

  // The difference before the scale: both sides of it may be large, and are exact.
  [[gnu::always_inline]] static F weight(const float* logit, F max, F scale) {
    return S::exp2(S::mul(S::sub(S::load(logit), max), scale));
  }

  // logits → weights, in place; rows of a granule's span that its segments leave out weigh 0.
  static void weigh(const ForwardTile& tile, const OtherBatch& batch, const Spans<S>& spans) {
    const F scale = S::set(tile.scale);
    for (int v = 0; v < vectors(tile); v++) {
      const int g = v / kGranuleVectors;
      const F max = S::load(tile.max + v * S::kLanes);
      F sum = S::load(tile.sum + v * S::kLanes);
      float* x = tile.logits + v * S::kLanes;
      for_each_segment(batch, spans, g, [&](int begin, int end, bool live) {
        if (!live) {
          for (int r = begin; r < end; r++) S::store(x + r * kTileOwners, S::zero());
          return;
        }
#pragma GCC unroll 4
        for (int r = begin; r < end; r++) {
          const F p = weight(x + r * kTileOwners, max, scale);
          sum = S::add(sum, p);
          S::store(x + r * kTileOwners, p);
        }
      });
      S::store(tile.sum + v * S::kLanes, sum);
    }
  }

  // logits → pairs of weights, likewise; an odd last row is paired with 0. Segments begin at even
  // rows.
  static void weigh_pairs(const ForwardTile& tile, const OtherBatch& batch, const Spans<S>& spans) {
    const F scale = S::set(tile.scale);
    for (int v = 0; v < vectors(tile); v++) {
      const int g = v / kGranuleVectors;
      const F max = S::load(tile.max + v * S::kLanes);
      F sum = S::load(tile.sum + v * S::kLanes);
      const float* x = tile.logits + v * S::kLanes;
      uint32_t* pairs = tile.weight_pairs + v * S::kLanes;
      for_each_segment(batch, spans, g, [&](int begin, int end, bool live) {
        if (!live) {
          for (int r = begin; r < end; r += 2) {
            S::store_pairs(pairs + r / 2 * kTileOwners, S::zero(), S::zero());
          }
          return;
        }
#pragma GCC unroll 4
        for (int r = begin; r < end; r += 2) {
          const F even = weight(x + r * kTileOwners, max, scale);
          const F odd = r + 1 < end ? weight(x + (r + 1) * kTileOwners, max, scale) : S::zero();
          sum = S::add(sum, S::add(even, odd));
          S::store_pairs(pairs + r / 2 * kTileOwners, even, odd);
        }
      });
      S::store(tile.sum + v * S::kLanes, sum);
    }
  }

  // body(begin, end, live) for the segments within the span of granule g; live: they compute it.
  template <typename Body>
  [[gnu::always_inline]] static void for_each_segment(const OtherBatch& batch,
                                                      const Spans<S>& spans, int g,
                                                      const Body& body) {
    for (int s = 0; s < batch.segment_count; s++) {
      const Segment& segment = batch.segments[s];
      if (segment.begin < spans.begin[g] || segment.end > spans.end[g]) continue;
      body(segment.begin, segment.end, segment.granule_begin <= g && g < segment.granule_end);
    }
  }

  // out = out · factor + Vᵀ P. kStep: rows of V in a step of the dot. Granules with no key in the
  // batch keep their out: their factor is 1.
  template <typename D, int kStep>
  static void add_values(const ForwardTile& tile, const Spans<S>& spans,
                         const typename D::Element* const* v_rows,
                         const typename D::Element* weights, const void* const* ahead,
                         int ahead_count) {
    const int k_bytes = tile.qk_dim * static_cast<int>(sizeof(T));
    const int granules = vectors(tile) / kGranuleVectors;
    for (int g = 0; g < granules;) {
      const int first = g;
      const int begin = spans.begin[g] / kStep, end = (spans.end[g] + kStep - 1) / kStep;
      do {
        g++;
      } while (g < granules && spans.begin[g] == spans.begin[first] &&
               spans.end[g] == spans.end[first]);
      if (end == 0) continue;
      dot_columns<D>(
          tile.v_dim, end - begin, v_rows + begin, weights + begin * kTileOwners, kTileOwners,
          first * kGranuleVectors, g * kGranuleVectors, LoadRescaled<S>{tile.out, tile.factor},
          StoreOut<S>{tile.out, ahead, ahead_count, k_bytes, tile.v_dim, first * kGranuleVectors});
      ahead_count = 0;
    }
  }

  static void add_batch(const ForwardTile& tile, const OtherBatch& batch, const void* const* k_rows,
                        const void* const* v_rows, const void* const* ahead, int ahead_count) {
    if constexpr (kOperands == Operands::kPairs) {
      take_pairs(tile, batch, k_rows, v_rows, ahead, ahead_count);
    } else if constexpr (kOperands == Operands::kWidened) {
      const float *k_wide[kBatchOthers], *v_wide[kBatchOthers];
      for (int r = 0; r < batch.count; r++) {
        k_wide[r] = tile.k_wide + r * tile.qk_dim;
        v_wide[r] = tile.v_wide + r * tile.v_dim;
      }
      widen_rows<S>(reinterpret_cast<const T* const*>(k_rows), batch.count, tile.qk_dim,
                    tile.qk_dim, tile.k_wide);
      widen_rows<S>(reinterpret_cast<const T* const*>(v_rows), batch.count, tile.v_dim, tile.v_dim,
                    tile.v_wide);
      take_floats(tile, batch, k_wide, v_wide, v_rows, ahead, ahead_count);
    } else {
      take_floats(tile, batch, reinterpret_cast<const float* const*>(k_rows),
                  reinterpret_cast<const float* const*>(v_rows), v_rows, ahead, ahead_count);
    }
  }

  static void take_floats(const ForwardTile& tile, const OtherBatch& batch,
                          const float* const* k_rows, const float* const* v_rows,
                          const void* const* v_source, const void* const* ahead, int ahead_count) {
    using D = typename S::Fma;
    compute_logits<D>(tile, batch, k_rows, tile.qk_dim, v_source);
    raise_max(tile);
    const Spans<S> spans(batch, vectors(tile) / kGranuleVectors);
    weigh(tile, batch, spans);
    add_values<D, 1>(tile, spans, v_rows, tile.logits, ahead, ahead_count);
  }

  static void take_pairs(const ForwardTile& tile, const OtherBatch& batch,
                         const void* const* k_rows, const void* const* v_rows,
                         const void* const* ahead, int ahead_count) {
    using D = typename S::DotBf16;
    compute_logits<D>(tile, batch, reinterpret_cast<const uint32_t* const*>(k_rows),
                      tile.qk_dim / 2, v_rows);
    raise_max(tile);
    const Spans<S> spans(batch, vectors(tile) / kGranuleVectors);
    weigh_pairs(tile, batch, spans);
    zip_rows<S>(reinterpret_cast<const T* const*>(v_rows), batch.count, tile.v_dim, tile.v_dim,
                tile.v_pairs);
    const uint32_t* pairs[kBatchOthers / 2];
    for (int r = 0; r < batch.count; r += 2) pairs[r / 2] = tile.v_pairs + r / 2 * tile.v_dim;
    add_values<D, 2>(tile, spans, pairs, tile.weight_pairs, ahead, ahead_count);
  }

  template <typename To>
  static void store(const ForwardTile& tile, To* const* rows) {
    for (int e = 0; e < tile.owners; e++) {
      tile.factor[e] = tile.sum[e] == 0 ? 0 : 1 / tile.sum[e];
    }
    unpack_rows<S>(tile.out, tile.factor, tile.owners, tile.v_dim, rows);
  }

  static void finish(const ForwardTile& tile, void* const* rows) {
    store(tile, reinterpret_cast<T* const*>(rows));
  }
  static void finish_fp32(const ForwardTile& tile, float* const* rows) { store(tile, rows); }

  static constexpr ForwardTypeOps ops() {
    return {kOperands, pack_queries, resume, add_batch, finish, finish_fp32};
  }
};

template <typename S>
constexpr ForwardOps make_forward_ops() {
  return {Forward<S, float, Operands::kInPlace>::ops(),
          Forward<S, BFloat16, Operands::kWidened>::ops(),
          Forward<S, Float16, Operands::kWidened>::ops()};
}

}  // namespace lace::cpu
