#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attention_backward.h"
#include "kernels/cpu/micro_kernels.h"
#include "kernels/cpu/pack.h"
#include "kernels/cpu/softcap.h"

// For an instruction set S, BackwardOps: make_backward_ops<S>(), and BackwardTypeOps of one dtype:
// Backward<S, T, kOperands>::ops().

namespace lace::cpu {

inline constexpr float kLog2E = 1.44269504088896341f;

// The dot that multiplies operands of that form.
template <typename S, bool kPairs>
struct DotOf {
  using Type = typename S::Fma;
};
template <typename S>
struct DotOf<S, true> {
  using Type = typename S::DotBf16;
};

template <typename S, typename T, Operands kOperands>
struct Backward {
  using F = typename S::F;
  static constexpr bool kPairs = kOperands == Operands::kPairs;

  // Prefetches a share of `next` with each row of a batch: half of it with the first product, half
  // with the second.
  struct Prefetcher {
    const Prefetch& next;
    int first;  // row of the batch that is row 0 of the product
    int count;  // rows of the batch
    int half;

    template <int kRows>
    [[gnu::always_inline]] void run(int r) const {
      const int begin = half * next.count / 2, share = (next.count + 1) / 2;
      const int end = begin + (first + r + kRows) * share / count;
      for (int i = begin + (first + r) * share / count; i < end && i < next.count; i++) {
        for (int b = 0; b < next.bytes[i]; b += 64) {
          __builtin_prefetch(static_cast<const std::byte*>(next.rows[i]) + b, 0, 2);
        }
      }
    }
  };

  // P of a segment, from the accumulated q kᵀ. The scale and the difference are one step: scaled
  // logits may be large, and lse is rounded as it is.
  struct WeightEnd {
    const KeyTile& tile;
    const OtherBatch& batch;
    const QueryRows& rows;
    bool masked;
    Prefetcher prefetcher;

    template <int kRows, int kVectors>
    [[gnu::always_inline]] void operator()(F (&acc)[kRows][kVectors], int r, int v) const {
      if (tile.capped) cap(acc, r, v);
      const F c = S::set(tile.capped ? tile.softcap : tile.scale), log2e = S::set(kLog2E);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; i++) {
        const int row = prefetcher.first + r + i;
        const F bias = S::set(rows.neg_lse[row]);
        const uint64_t live = batch.live[row] >> (v * S::kLanes);
#pragma GCC unroll 16
        for (int j = 0; j < kVectors; j++) {
          F x = S::exp2(S::mul(S::fma(acc[i][j], c, bias), log2e));
          if (masked) {
            x = S::keep(static_cast<uint32_t>(live >> (j * S::kLanes)), x, S::zero());
          }
          S::store(tile.scratch.p + (r + i) * kTileOwners + (v + j) * S::kLanes, x);
        }
      }
      prefetcher.template run<kRows>(r);
    }

    // T, and its slopes.
    template <int kRows, int kVectors>
    [[gnu::always_inline]] void cap(F (&acc)[kRows][kVectors], int r, int v) const {
      cap_tile<S>(acc, tile.cap_scale);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; i++) {
#pragma GCC unroll 16
        for (int j = 0; j < kVectors; j++) {
          const F slope = S::sub(S::set(1), S::mul(acc[i][j], acc[i][j]));
          S::store(tile.scratch.slope + (r + i) * kTileOwners + (v + j) * S::kLanes, slope);
        }
      }
    }
  };

  // dS of a segment, from the accumulated dout vᵀ and P. Masked too: 0 · dout vᵀ is no 0 where that
  // overflows.
  struct GradientEnd {
    const KeyTile& tile;
    const OtherBatch& batch;
    const QueryRows& rows;
    bool masked;
    Prefetcher prefetcher;

    template <int kRows, int kVectors>
    [[gnu::always_inline]] void operator()(F (&acc)[kRows][kVectors], int r, int v) const {
      const BackwardScratch& scratch = tile.scratch;
      const F c = S::set(tile.scale);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; i++) {
        const int row = prefetcher.first + r + i;
        const F bias = S::set(rows.neg_delta[row]);
        const uint64_t live = batch.live[row] >> (v * S::kLanes);
#pragma GCC unroll 16
        for (int j = 0; j < kVectors; j++) {
          const int at = (r + i) * kTileOwners + (v + j) * S::kLanes;
          acc[i][j] = S::mul(S::load(scratch.p + at), S::fma(acc[i][j], c, bias));
          if (tile.capped) acc[i][j] = S::mul(acc[i][j], S::load(scratch.slope + at));
          if (masked) {
            acc[i][j] =
                S::keep(static_cast<uint32_t>(live >> (j * S::kLanes)), acc[i][j], S::zero());
          }
          if constexpr (!kPairs) S::store(scratch.ds + at, acc[i][j]);
        }
      }
      if constexpr (kPairs) store_pairs(acc, r, v);
      prefetcher.template run<kRows>(r);
    }

    // r is even: kRows is, but for the last rows.
    template <int kRows, int kVectors>
    [[gnu::always_inline]] void store_pairs(F (&ds)[kRows][kVectors], int r, int v) const {
      const BackwardScratch& scratch = tile.scratch;
#pragma GCC unroll 16
      for (int i = 0; i < kRows; i += 2) {
#pragma GCC unroll 16
        for (int j = 0; j < kVectors; j++) {
          const int lane = (v + j) * S::kLanes;
          const float* p = scratch.p + (r + i) * kTileOwners + lane;
          const int at = (r + i) / 2 * kTileOwners + lane;
          BFloat16* row = scratch.ds_rows + (r + i) * kTileOwners + lane;
          const bool both = i + 1 < kRows;
          S::store_pairs(scratch.p_pairs + at, S::load(p),
                         both ? S::load(p + kTileOwners) : S::zero());
          S::store_pairs(reinterpret_cast<uint32_t*>(scratch.ds) + at, ds[i][j],
                         both ? ds[both ? i + 1 : i][j] : S::zero());
          S::store(row, ds[i][j]);
          if (both) S::store(row + kTileOwners, ds[both ? i + 1 : i][j]);
        }
      }
    }
  };

  // dq += the accumulators, or = where a row is fresh.
  struct QueryEnd {
    float* const* dq;  // of the segment's rows
    uint64_t fresh;    // likewise
    int dim;

    template <int kRows, int kVectors>
    [[gnu::always_inline]] void operator()(F (&acc)[kRows][kVectors], int r, int v) const {
      const bool whole = (v + kVectors) * S::kLanes <= dim;
#pragma GCC unroll 16
      for (int i = 0; i < kRows; i++) {
        float* row = dq[r + i] + v * S::kLanes;
        if ((fresh >> (r + i) & 1) == 0) {
#pragma GCC unroll 16
          for (int j = 0; j < kVectors; j++) {
            const int n = whole ? S::kLanes : rest(v + j);
            acc[i][j] = S::add(load_some<S>(row + j * S::kLanes, n), acc[i][j]);
          }
        }
#pragma GCC unroll 16
        for (int j = 0; j < kVectors; j++) {
          store_some<S>(row + j * S::kLanes, acc[i][j], whole ? S::kLanes : rest(v + j));
        }
      }
    }
    [[gnu::always_inline]] int rest(int v) const {
      return dim - v * S::kLanes < S::kLanes ? dim - v * S::kLanes : S::kLanes;
    }
  };

  static void begin(const KeyTile& tile, const float* const* dk, const float* const* dv) {
    const BackwardScratch& scratch = tile.scratch;
    const T* const* k = reinterpret_cast<const T* const*>(tile.k);
    const T* const* v = reinterpret_cast<const T* const*>(tile.v);
    const int lanes = (tile.count + kGranule - 1) / kGranule * kGranule;
    if constexpr (kPairs) {
      pack_rows<S>(reinterpret_cast<const float* const*>(tile.k), lanes, tile.qk_dim / 2,
                   scratch.k);
      pack_rows<S>(reinterpret_cast<const float* const*>(tile.v), lanes, tile.v_dim / 2, scratch.v);
      zip_rows<S>(k, lanes, tile.qk_dim, scratch.qk_stride,
                  reinterpret_cast<uint32_t*>(scratch.k_rows));
    } else {
      pack_rows<S>(k, lanes, tile.qk_dim, scratch.k);
      pack_rows<S>(v, lanes, tile.v_dim, scratch.v);
      copy_rows(k, lanes, tile.qk_dim, scratch);
    }
    if (dk) {
      pack_rows<S>(dk, lanes, tile.qk_dim, scratch.dk);
      pack_rows<S>(dv, lanes, tile.v_dim, scratch.dv);
    } else {
      clear(scratch.dk, lanes, tile.qk_dim);
      clear(scratch.dv, lanes, tile.v_dim);
    }
  }

  static void clear(float* packed, int lanes, int dim) {
    for (int d = 0; d < dim; d++) {
      for (int e = 0; e < lanes; e += S::kLanes) S::store(packed + d * kTileOwners + e, S::zero());
    }
  }

  // k_rows[e] = k[e] as floats, or zero.
  static void copy_rows(const T* const* k, int count, int dim, const BackwardScratch& scratch) {
    for (int e = 0; e < count; e++) {
      float* row = scratch.k_rows + e * scratch.qk_stride;
      for (int d = 0; d < scratch.qk_stride; d += S::kLanes) {
        const int n = dim - d < S::kLanes ? dim - d : S::kLanes;
        S::store(row + d, k[e] && n > 0 ? load_some<S>(k[e] + d, n) : S::zero());
      }
    }
  }

  static void batch(const KeyTile& tile, const OtherBatch& batch, const QueryRows& rows,
                    const Prefetch& next) {
    const BackwardScratch& scratch = tile.scratch;
    if constexpr (kOperands == Operands::kWidened) {
      widen_rows<S>(reinterpret_cast<const T* const*>(rows.q), batch.count, tile.qk_dim,
                    scratch.qk_stride, scratch.q);
      widen_rows<S>(reinterpret_cast<const T* const*>(rows.dout), batch.count, tile.v_dim,
                    scratch.v_stride, scratch.dout);
    }
    for (int s = 0; s < batch.segment_count; s++) {
      segment(tile, batch, batch.segments[s], rows, next);
    }
  }

  // The five products of one segment.
  static void segment(const KeyTile& tile, const OtherBatch& batch, const Segment& segment,
                      const QueryRows& rows, const Prefetch& next) {
    const BackwardScratch& scratch = tile.scratch;
    using D = typename DotOf<S, kPairs>::Type;
    using Element = typename D::Element;
    constexpr int kStep = kPairs ? 2 : 1;  // query rows or dims in an element
    constexpr int kGranuleVectors = kGranule / S::kLanes;
    const int count = segment.end - segment.begin;
    const int v_begin = segment.granule_begin * kGranuleVectors;
    const int v_end = segment.granule_end * kGranuleVectors;
    const auto as = [](const auto* p) { return reinterpret_cast<const Element*>(p); };
    const bool masked = segment.masked || tile.ragged;

    const Element* q[kBatchOthers];
    const Element* dout[kBatchOthers];
    const Element* ds[kBatchOthers];
    for (int r = 0; r < count; r++) {
      const int row = segment.begin + r;
      if constexpr (kOperands == Operands::kWidened) {
        q[r] = scratch.q + row * scratch.qk_stride;
        dout[r] = scratch.dout + row * scratch.v_stride;
      } else {
        q[r] = static_cast<const Element*>(rows.q[row]);
        dout[r] = static_cast<const Element*>(rows.dout[row]);
      }
    }
    Prefetcher prefetcher{next, segment.begin, batch.count, 0};
    dot_rows<D>(count, tile.qk_dim / kStep, q, as(scratch.k), kTileOwners, v_begin, v_end,
                ZeroTile<S>{}, WeightEnd{tile, batch, rows, masked, prefetcher});
    prefetcher.half = 1;
    dot_rows<D>(count, tile.v_dim / kStep, dout, as(scratch.v), kTileOwners, v_begin, v_end,
                ZeroTile<S>{}, GradientEnd{tile, batch, rows, masked, prefetcher});

    const int lane = segment.granule_begin * kGranule;
    const int lanes = (segment.granule_end - segment.granule_begin) * kGranule;
    for (int r = 0; r < count; r++) {
      const int at = r * kTileOwners + lane;
      ds[r] = kPairs ? as(scratch.ds_rows + at) : as(scratch.ds + at);
    }
    dot_rows<D>(count, lanes / kStep, ds, as(scratch.k_rows + lane / kStep * scratch.qk_stride),
                scratch.qk_stride, 0, (tile.qk_dim + S::kLanes - 1) / S::kLanes, ZeroTile<S>{},
                QueryEnd{rows.dq + segment.begin, rows.fresh >> segment.begin, tile.qk_dim});

    const int steps = (count + kStep - 1) / kStep;
    if constexpr (kPairs) {
      zip_rows<S>(reinterpret_cast<const T* const*>(rows.q) + segment.begin, count, tile.qk_dim,
                  scratch.qk_stride, reinterpret_cast<uint32_t*>(scratch.q));
      zip_rows<S>(reinterpret_cast<const T* const*>(rows.dout) + segment.begin, count, tile.v_dim,
                  scratch.v_stride, reinterpret_cast<uint32_t*>(scratch.dout));
      for (int r = 0; r < steps; r++) {
        q[r] = as(scratch.q + r * scratch.qk_stride);
        dout[r] = as(scratch.dout + r * scratch.v_stride);
      }
    }
    const Element* p = kPairs ? as(scratch.p_pairs) : as(scratch.p);
    dot_columns<D>(tile.v_dim, steps, dout, p, kTileOwners, v_begin, v_end, LoadTile<S>{scratch.dv},
                   StoreTile<S>{scratch.dv});
    dot_columns<D>(tile.qk_dim, steps, q, as(scratch.ds), kTileOwners, v_begin, v_end,
                   LoadTile<S>{scratch.dk}, StoreTile<S>{scratch.dk});
  }

  template <typename To>
  static void store(const KeyTile& tile, To* const* dk, To* const* dv) {
    const BackwardScratch& scratch = tile.scratch;
    alignas(64) float ones[kTileOwners];
    for (int e = 0; e < kTileOwners; e++) ones[e] = 1;
    unpack_rows<S>(scratch.dk, ones, tile.count, tile.qk_dim, dk);
    unpack_rows<S>(scratch.dv, ones, tile.count, tile.v_dim, dv);
  }

  static void end(const KeyTile& tile, void* const* dk, void* const* dv) {
    store(tile, reinterpret_cast<T* const*>(dk), reinterpret_cast<T* const*>(dv));
  }
  static void end_fp32(const KeyTile& tile, float* const* dk, float* const* dv) {
    store(tile, dk, dv);
  }

  static float dot(const void* a, const void* b, int dim) {
    F sum = S::zero();
    for (int d = 0; d < dim; d += S::kLanes) {
      const int n = dim - d < S::kLanes ? dim - d : S::kLanes;
      sum = S::fma(load_some<S>(static_cast<const T*>(a) + d, n),
                   load_some<S>(static_cast<const T*>(b) + d, n), sum);
    }
    float lanes[S::kLanes];
    S::store(lanes, sum);
    float total = 0;
    for (int i = 0; i < S::kLanes; i++) total += lanes[i];
    return total;
  }

  static void round(const float* in, void* out, int dim) {
    for (int d = 0; d < dim; d += S::kLanes) {
      const int n = dim - d < S::kLanes ? dim - d : S::kLanes;
      store_some<S>(static_cast<T*>(out) + d, S::load_first(in + d, n), n);
    }
  }

  static constexpr BackwardTypeOps ops() {
    return {kOperands, begin, batch, end, end_fp32, dot, round};
  }
};

template <typename S>
constexpr BackwardOps make_backward_ops() {
  return {Backward<S, float, Operands::kInPlace>::ops(),
          Backward<S, BFloat16, Operands::kWidened>::ops(),
          Backward<S, Float16, Operands::kWidened>::ops()};
}

}  // namespace lace::cpu
