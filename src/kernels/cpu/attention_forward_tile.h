#pragma once

#include "kernels/cpu/attention_forward.h"
#include "kernels/cpu/micro_kernels.h"
#include "kernels/cpu/pack.h"

// ForwardOps for an instruction set S: make_forward_ops<S>().
//
// A batch of keys is taken in three steps: Sᵀ = K Qᵀ with the largest logit of each query;
// P = 2^(S·scale − max) with the sums; Oᵀ = Oᵀ · 2^(old max − max) + Vᵀ P. Everything about softmax
// is vertical, as lanes are queries. Each segment of the batch computes only its granules.

namespace lace::cpu {

// Prefetches `bytes` of each of rows [r, r + kRows).
template <int kRows>
[[gnu::always_inline]] inline void prefetch_rows(const void* const* rows, int r, int bytes) {
  for (int i = 0; i < kRows; i++) {
    const char* row = static_cast<const char*>(rows[r + i]);
    for (int b = 0; b < bytes; b += 64) __builtin_prefetch(row + b, 0, 3);
  }
}

// Stores logits, masked if kMasked, and raises `peak`; prefetches the rows of V on the way.
template <typename S, bool kMasked>
struct StoreLogits {
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

// out = acc; prefetches the next keys on the way, spread over the rows of out.
template <typename S>
struct StoreOut {
  float* out;
  const void* const* next_k;
  int next_count;
  int k_bytes;
  int v_dim;
  int v_begin;

  template <int kRows, int kVectors>
  [[gnu::always_inline]] void operator()(typename S::F (&acc)[kRows][kVectors], int r,
                                         int v) const {
    StoreTile<S>{out}(acc, r, v);
    if (v != v_begin) return;
    const int end = (r + kRows) * next_count / v_dim;
    for (int row = r * next_count / v_dim; row < end; row++) {
      prefetch_rows<1>(next_k, row, k_bytes);
    }
  }
};

template <typename S>
struct Forward {
  using F = typename S::F;
  static constexpr int kGranuleVectors = kGranule / S::kLanes;

  static int vectors(const ForwardTile& tile) {
    return (tile.owners + kGranule - 1) / kGranule * kGranuleVectors;
  }

  static void pack_queries(const ForwardTile& tile, const void* const* q_rows) {
    if (!tile.bf16) {
      pack_rows<S>(reinterpret_cast<const float* const*>(q_rows), tile.owners, tile.qk_dim, tile.q);
    } else if constexpr (S::kHasDotBf16) {
      pack_rows<S>(reinterpret_cast<const float* const*>(q_rows), tile.owners, tile.qk_dim / 2,
                   tile.q);
    } else {
      pack_rows<S>(reinterpret_cast<const uint16_t* const*>(q_rows), tile.owners, tile.qk_dim,
                   tile.q);
    }
  }

  static void resume(const ForwardTile& tile, const float* const* rows) {
    pack_rows<S>(rows, tile.owners, tile.v_dim, tile.out);
    rescale(tile, tile.sum);
  }

  static void rescale(const ForwardTile& tile, const float* factor) {
    for (int v = 0; v < vectors(tile); v++) {
      const F f = S::load(factor + v * S::kLanes);
      for (int d = 0; d < tile.v_dim; d++) {
        float* x = tile.out + d * kTileOwners + v * S::kLanes;
        S::store(x, S::mul(S::load(x), f));
      }
    }
  }

  template <typename D>
  static void compute_logits(const ForwardTile& tile, const Batch& batch,
                             const typename D::Element* const* k_rows, int depth,
                             const void* const* v_rows) {
    for (int v = 0; v < vectors(tile); v++) {
      S::store(tile.peak + v * S::kLanes, S::set(-__builtin_inff()));
    }
    const int v_bytes = tile.v_dim * (tile.bf16 ? 2 : 4);
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
        run(StoreLogits<S, true>{logits, tile.peak, live, v_rows + begin, v_bytes, v_begin});
      } else {
        run(StoreLogits<S, false>{logits, tile.peak, live, v_rows + begin, v_bytes, v_begin});
      }
    }
  }

  // Raises max to the batch's peak; factor = 2^(old max − max). Returns whether any max rose.
  static bool raise_max(const ForwardTile& tile) {
    bool rose = false;
    const F scale = S::set(tile.scale);
    for (int v = 0; v < vectors(tile); v++) {
      const int e = v * S::kLanes;
      const F old_max = S::load(tile.max + e);
      const F new_max = S::max(S::mul(S::load(tile.peak + e), scale), old_max);
      const F factor = S::exp2(S::sub(old_max, new_max));
      S::store(tile.max + e, new_max);
      S::store(tile.factor + e, factor);
      S::store(tile.sum + e, S::mul(S::load(tile.sum + e), factor));
      rose = rose || S::any_less(old_max, new_max);
    }
    return rose;
  }

  // logits → weights, in place.
  static void weigh(const ForwardTile& tile, const Batch& batch) {
    const F scale = S::set(tile.scale);
    for (int s = 0; s < batch.segment_count; s++) {
      const Segment& segment = batch.segments[s];
      for (int v = segment.granule_begin * kGranuleVectors;
           v < segment.granule_end * kGranuleVectors; v++) {
        const F minus_max = S::sub(S::zero(), S::load(tile.max + v * S::kLanes));
        F sum = S::load(tile.sum + v * S::kLanes);
        float* x = tile.logits + v * S::kLanes;
#pragma GCC unroll 4
        for (int r = segment.begin; r < segment.end; r++) {
          const F p = S::exp2(S::fma(S::load(x + r * kTileOwners), scale, minus_max));
          sum = S::add(sum, p);
          S::store(x + r * kTileOwners, p);
        }
        S::store(tile.sum + v * S::kLanes, sum);
      }
    }
  }

  // logits → pairs of weights; an odd last row is paired with 0. Segments begin at even rows.
  static void weigh_pairs(const ForwardTile& tile, const Batch& batch) {
    const F scale = S::set(tile.scale);
    for (int s = 0; s < batch.segment_count; s++) {
      const Segment& segment = batch.segments[s];
      for (int v = segment.granule_begin * kGranuleVectors;
           v < segment.granule_end * kGranuleVectors; v++) {
        const F minus_max = S::sub(S::zero(), S::load(tile.max + v * S::kLanes));
        F sum = S::load(tile.sum + v * S::kLanes);
        const float* x = tile.logits + v * S::kLanes;
        auto* pairs = reinterpret_cast<uint32_t*>(tile.weight_pairs) + v * S::kLanes;
#pragma GCC unroll 4
        for (int r = segment.begin; r < segment.end; r += 2) {
          const F p = S::exp2(S::fma(S::load(x + r * kTileOwners), scale, minus_max));
          const F q = r + 1 < segment.end
                          ? S::exp2(S::fma(S::load(x + (r + 1) * kTileOwners), scale, minus_max))
                          : S::zero();
          sum = S::add(sum, S::add(p, q));
          S::store_pairs(pairs + r / 2 * kTileOwners, p, q);
        }
        S::store(tile.sum + v * S::kLanes, sum);
      }
    }
  }

  // out = out · factor + Vᵀ P. kStep: rows of V in a step of the dot.
  template <typename D, int kStep>
  static void add_values(const ForwardTile& tile, const Batch& batch, bool rose,
                         const typename D::Element* const* v_rows,
                         const typename D::Element* weights, const void* const* next_k,
                         int next_count) {
    const int k_bytes = tile.qk_dim * (tile.bf16 ? 2 : 4);
    const bool fused = rose && batch.segment_count == 1 && batch.segments[0].granule_begin == 0 &&
                       batch.segments[0].granule_end * kGranuleVectors == vectors(tile);
    if (rose && !fused) rescale(tile, tile.factor);
    for (int s = 0; s < batch.segment_count; s++) {
      const Segment& segment = batch.segments[s];
      const int begin = segment.begin / kStep, end = (segment.end + kStep - 1) / kStep;
      const int v_begin = segment.granule_begin * kGranuleVectors;
      const auto run = [&](const auto& load) {
        dot_columns<D>(
            tile.v_dim, end - begin, v_rows + begin, weights + begin * kTileOwners, kTileOwners,
            v_begin, segment.granule_end * kGranuleVectors, load,
            StoreOut<S>{tile.out, next_k, s == 0 ? next_count : 0, k_bytes, tile.v_dim, v_begin});
      };
      if (fused) {
        run(LoadRescaled<S>{tile.out, tile.factor});
      } else {
        run(LoadTile<S>{tile.out});
      }
    }
  }

  static void take(const ForwardTile& tile, const Batch& batch, const void* const* k_rows,
                   const void* const* v_rows, const void* const* next_k, int next_count) {
    if (!tile.bf16) {
      take_floats(tile, batch, reinterpret_cast<const float* const*>(k_rows),
                  reinterpret_cast<const float* const*>(v_rows), v_rows, next_k, next_count);
    } else if constexpr (S::kHasDotBf16) {
      take_pairs(tile, batch, k_rows, v_rows, next_k, next_count);
    } else {
      const float *k_wide[kBatchOthers], *v_wide[kBatchOthers];
      for (int r = 0; r < batch.count; r++) {
        k_wide[r] = tile.k_wide + r * tile.qk_dim;
        v_wide[r] = tile.v_wide + r * tile.v_dim;
      }
      widen_rows<S>(reinterpret_cast<const uint16_t* const*>(k_rows), batch.count, tile.qk_dim,
                    tile.k_wide);
      widen_rows<S>(reinterpret_cast<const uint16_t* const*>(v_rows), batch.count, tile.v_dim,
                    tile.v_wide);
      take_floats(tile, batch, k_wide, v_wide, v_rows, next_k, next_count);
    }
  }

  static void take_floats(const ForwardTile& tile, const Batch& batch, const float* const* k_rows,
                          const float* const* v_rows, const void* const* v_source,
                          const void* const* next_k, int next_count) {
    using D = typename S::Fma;
    compute_logits<D>(tile, batch, k_rows, tile.qk_dim, v_source);
    const bool rose = raise_max(tile);
    weigh(tile, batch);
    add_values<D, 1>(tile, batch, rose, v_rows, tile.logits, next_k, next_count);
  }

  static void take_pairs(const ForwardTile& tile, const Batch& batch, const void* const* k_rows,
                         const void* const* v_rows, const void* const* next_k, int next_count) {
    using D = typename S::DotBf16;
    compute_logits<D>(tile, batch, reinterpret_cast<const uint32_t* const*>(k_rows),
                      tile.qk_dim / 2, v_rows);
    const bool rose = raise_max(tile);
    weigh_pairs(tile, batch);
    const uint32_t* pairs[kBatchOthers / 2];
    const auto* const* rows = reinterpret_cast<const uint16_t* const*>(v_rows);
    for (int r = 0; r < batch.count; r += 2) {
      auto* zipped = reinterpret_cast<uint32_t*>(tile.v_wide) + r / 2 * tile.v_dim;
      const bool has_odd = r + 1 < batch.count;
      zip_rows(rows[r], has_odd ? rows[r + 1] : nullptr, tile.v_dim, zipped);
      pairs[r / 2] = zipped;
    }
    add_values<D, 2>(tile, batch, rose, pairs, reinterpret_cast<const uint32_t*>(tile.weight_pairs),
                     next_k, next_count);
  }

  static void zip_rows(const uint16_t* even, const uint16_t* odd, int dim, uint32_t* out) {
    static constexpr uint16_t kZeros[S::kLanes] = {};
    for (int d = 0; d < dim; d += S::kLanes) {
      S::zip_bf16(out + d, even + d, odd ? odd + d : kZeros,
                  dim - d < S::kLanes ? dim - d : S::kLanes);
    }
  }

  static void finish(const ForwardTile& tile, void* const* rows, bool rows_bf16) {
    for (int e = 0; e < tile.owners; e++) {
      tile.factor[e] = tile.sum[e] == 0 ? 0 : 1 / tile.sum[e];
    }
    if (rows_bf16) {
      unpack_rows<S>(tile.out, tile.factor, tile.owners, tile.v_dim,
                     reinterpret_cast<uint16_t* const*>(rows));
    } else {
      unpack_rows<S>(tile.out, tile.factor, tile.owners, tile.v_dim,
                     reinterpret_cast<float* const*>(rows));
    }
  }
};

template <typename S>
constexpr ForwardOps make_forward_ops() {
  return {S::kHasDotBf16, Forward<S>::pack_queries, Forward<S>::resume, Forward<S>::take,
          Forward<S>::finish};
}

}  // namespace lace::cpu
