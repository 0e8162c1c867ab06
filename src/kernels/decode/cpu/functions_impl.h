#pragma once

#include <cstdint>

#include "kernels/cpu/simd.h"
#include "kernels/decode/cpu/functions.h"

// The functions of decoding as templates over an instruction set S (kernels/cpu/simd.h says what
// one is), the type T of weights and values, and the wide type W. Included by one file an
// instruction set, compiled with its flags: nothing here is shared with other files.

namespace lace::cpu {
namespace {

template <typename S>
using F = typename S::F;

#ifdef __AVX2__
[[gnu::always_inline]] inline float sum_lanes(__m128 x) {
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
[[gnu::always_inline]] inline float sum_lanes(__m256 x) {
  return sum_lanes(_mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1)));
}
#endif
#ifdef __AVX512F__
[[gnu::always_inline]] inline float sum_lanes(__m512 x) {
  return sum_lanes(_mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1)));
}
#endif

template <typename S, typename W>
[[gnu::always_inline]] inline W sum(F<S> x) {
  if constexpr (requires { sum_lanes(x); }) {
    return sum_lanes(x);
  } else {
    W lanes[S::kLanes];
    S::store(lanes, x);
    for (int width = S::kLanes / 2; width > 0; width /= 2) {
      for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
    }
    return lanes[0];
  }
}

template <typename S, typename P>
[[gnu::always_inline]] inline F<S> load_some(const P* p, int64_t n) {
  return n >= S::kLanes ? S::load(p) : S::load_first(p, static_cast<int>(n));
}
template <typename S, typename P>
[[gnu::always_inline]] inline void store_some(P* p, F<S> x, int64_t n) {
  if (n >= S::kLanes) {
    S::store(p, x);
  } else {
    S::store_first(p, x, static_cast<int>(n));
  }
}

template <typename S>
[[gnu::always_inline]] inline F<S> multiply_add(F<S> a, F<S> b, F<S> acc) {
  return S::Fma::apply(acc, a, b);
}

// How products multiply a weight with an operand: kStep elements at a time.
template <typename S, typename T, typename W>
struct Dot {
  using Operand = W;
  using Vector = F<S>;
  static constexpr int kStep = S::kLanes;
  [[gnu::always_inline]] static Vector weight(const T* p) { return S::load(p); }
  [[gnu::always_inline]] static Vector weight_first(const T* p, int n) {
    return S::load_first(p, n);
  }
  [[gnu::always_inline]] static Vector operand(const W* p) { return S::load(p); }
  [[gnu::always_inline]] static Vector operand_first(const W* p, int n) {
    return S::load_first(p, n);
  }
  [[gnu::always_inline]] static F<S> apply(F<S> acc, Vector a, Vector b) {
    return multiply_add<S>(a, b, acc);
  }
};

#ifdef __AVX512BF16__
template <>
struct Dot<Avx512Bf16, BFloat16, float> {
  using Operand = BFloat16;
  using Vector = __m512i;
  static constexpr int kStep = 32;
  [[gnu::always_inline]] static Vector weight(const BFloat16* p) { return _mm512_loadu_si512(p); }
  [[gnu::always_inline]] static Vector weight_first(const BFloat16* p, int n) {
    return _mm512_maskz_loadu_epi16((1u << n) - 1, p);
  }
  [[gnu::always_inline]] static Vector operand(const BFloat16* p) { return weight(p); }
  [[gnu::always_inline]] static Vector operand_first(const BFloat16* p, int n) {
    return weight_first(p, n);
  }
  [[gnu::always_inline]] static __m512 apply(__m512 acc, Vector a, Vector b) {
    return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b);
  }
};
#endif

// Weights are asked for so many bytes before they are read: a processor's own look ahead ends with
// a page.
constexpr int64_t kAhead = 4096;

// kRows rows of weights with kBatch operands. Every sum is its own, in the order of `in`, so that
// it is the same for any number of rows and operands.
template <typename S, typename T, typename W, int kRows, int kBatch, typename D>
[[gnu::always_inline]] inline void product_tile(const DecodeProduct& a, int64_t row,
                                                int64_t first) {
  const T* weight = static_cast<const T*>(a.weight) + row * a.in;
  const auto* x = static_cast<const typename D::Operand*>(a.x) + first * a.in;
  F<S> sums[kRows][kBatch];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int b = 0; b < kBatch; ++b) sums[r][b] = S::zero();
  }
  int64_t i = 0;
  for (; i + D::kStep <= a.in; i += D::kStep) {
    typename D::Vector xs[kBatch];
#pragma GCC unroll 8
    for (int b = 0; b < kBatch; ++b) xs[b] = D::operand(x + b * a.in + i);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const auto w = D::weight(weight + r * a.in + i);
      __builtin_prefetch(reinterpret_cast<const char*>(weight + r * a.in + i) + kAhead);
#pragma GCC unroll 8
      for (int b = 0; b < kBatch; ++b) sums[r][b] = D::apply(sums[r][b], w, xs[b]);
    }
  }
  if (i < a.in) {
    const int n = static_cast<int>(a.in - i);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const auto w = D::weight_first(weight + r * a.in + i, n);
#pragma GCC unroll 8
      for (int b = 0; b < kBatch; ++b) {
        sums[r][b] = D::apply(sums[r][b], w, D::operand_first(x + b * a.in + i, n));
      }
    }
  }
  const T* bias = static_cast<const T*>(a.bias);
  W* out = static_cast<W*>(a.out) + first * a.out_stride + row;
  for (int r = 0; r < kRows; ++r) {
    W shift[S::kLanes] = {};
    if (bias != nullptr) S::store(shift, S::load_first(bias + row + r, 1));
    for (int b = 0; b < kBatch; ++b) {
      W& to = out[b * a.out_stride + r];
      const W value = sum<S, W>(sums[r][b]) + shift[0];
      to = a.add ? to + value : value;
    }
  }
}

template <typename S, typename T, typename W, int kRows, typename D>
[[gnu::always_inline]] inline void product_rows(const DecodeProduct& a, int64_t row) {
  constexpr int kTile = S::kLanes == 16 ? 4 : 2;  // that registers have room for
  int64_t b = 0;
  if (kRows == 8) {
    if (a.batch == 1) return product_tile<S, T, W, 8, 1, D>(a, row, 0);
    for (; b + kTile <= a.batch; b += kTile) {
      product_tile<S, T, W, 4, kTile, D>(a, row, b);
      product_tile<S, T, W, 4, kTile, D>(a, row + 4, b);
    }
  }
  for (; b < a.batch; ++b) product_tile<S, T, W, kRows, 1, D>(a, row, b);
}

template <typename S, typename T, typename W, typename D>
void product(const DecodeProduct& a) {
  int64_t row = 0;
  for (; row + 8 <= a.rows; row += 8) product_rows<S, T, W, 8, D>(a, row);
  for (; row < a.rows; ++row) product_rows<S, T, W, 1, D>(a, row);
}

template <typename S, typename W, typename Y>
void norm(const void* x_data, const void* weight_data, const void* bias_data, double eps, int64_t n,
          void* y_data) {
  const W *x = static_cast<const W*>(x_data), *weight = static_cast<const W*>(weight_data),
          *bias = static_cast<const W*>(bias_data);
  Y* y = static_cast<Y*>(y_data);
  F<S> total = S::zero();
  for (int64_t i = 0; i < n; i += S::kLanes) total = S::add(total, load_some<S>(x + i, n - i));
  const W mean = sum<S, W>(total) / static_cast<W>(n);
  const F<S> mean_lanes = S::set(mean);
  F<S> squares = S::zero();
  for (int64_t i = 0; i < n; i += S::kLanes) {
    F<S> away = S::sub(load_some<S>(x + i, n - i), mean_lanes);
    if (n - i < S::kLanes) away = S::keep((1u << (n - i)) - 1, away, S::zero());
    squares = multiply_add<S>(away, away, squares);
  }
  const W variance = sum<S, W>(squares) / static_cast<W>(n);
  const F<S> rstd = S::set(static_cast<W>(1 / __builtin_sqrt(static_cast<double>(variance) + eps)));
  for (int64_t i = 0; i < n; i += S::kLanes) {
    const F<S> scaled = S::mul(S::sub(load_some<S>(x + i, n - i), mean_lanes), rstd);
    store_some<S>(
        y + i,
        multiply_add<S>(scaled, load_some<S>(weight + i, n - i), load_some<S>(bias + i, n - i)),
        n - i);
  }
}

template <typename S, typename W, typename Y>
void gelu(const void* x_data, int64_t n, void* y_data) {
  constexpr double kSlope = 1.702 * 1.4426950408889634;  // times log₂ e
  const W* x = static_cast<const W*>(x_data);
  Y* y = static_cast<Y*>(y_data);
  const F<S> slope = S::set(static_cast<W>(kSlope)), one = S::set(1), least = S::set(-126);
  for (int64_t i = 0; i < n; i += S::kLanes) {
    const F<S> value = load_some<S>(x + i, n - i);
    const F<S> power = S::sub(S::zero(), S::max(S::mul(value, slope), least));
    store_some<S>(y + i, S::div(value, S::add(one, S::exp2(power))), n - i);
  }
}

template <typename S, typename W>
void rotate(void* head_data, const void* cos_data, const void* sin_data, int64_t half) {
  W* head = static_cast<W*>(head_data);
  const W *cos = static_cast<const W*>(cos_data), *sin = static_cast<const W*>(sin_data);
  for (int64_t i = 0; i < half; i += S::kLanes) {
    const int64_t n = half - i;
    const F<S> a = load_some<S>(head + i, n), b = load_some<S>(head + half + i, n);
    const F<S> c = load_some<S>(cos + i, n), s = load_some<S>(sin + i, n);
    store_some<S>(head + i, S::sub(S::mul(a, c), S::mul(b, s)), n);
    store_some<S>(head + half + i, S::add(S::mul(b, c), S::mul(a, s)), n);
  }
}

template <typename S, typename X, typename Y>
void convert(const void* x_data, int64_t n, void* y_data) {
  const X* x = static_cast<const X*>(x_data);
  Y* y = static_cast<Y*>(y_data);
  for (int64_t i = 0; i < n; i += S::kLanes)
    store_some<S>(y + i, load_some<S>(x + i, n - i), n - i);
}

// ---- attention ----------------------------------------------------------------------------------

constexpr int kChunk = 64;  // keys at a time
constexpr int kMaxDim = 512;

// The rows that runs name, one after the other.
struct RowWalk {
  const pattern::KeyRun* run;
  const pattern::KeyRun* last;
  const char* rows;
  int64_t row_bytes;
  int64_t stretch = 0, within = 0;

  // Up to kChunk more.
  [[gnu::always_inline]] int next(const char** to) {
    int count = 0;
    while (run != last && count < kChunk) {
      const int64_t left = run->width - within, room = kChunk - count;
      const int64_t some = left < room ? left : room;
      const char* row = rows + (run->first + stretch * run->stride + within) * row_bytes;
      for (int64_t i = 0; i < some; ++i) to[count++] = row + i * row_bytes;
      within += some;
      if (within == run->width) {
        within = 0;
        if (++stretch == run->count) {
          stretch = 0;
          ++run;
        }
      }
    }
    return count;
  }
};

[[gnu::always_inline]] inline void fetch(const char* row, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(row + at);
}

// logits[j] = q · key j for all of a chunk; those beyond `count` are −∞.
template <typename S, typename W>
[[gnu::always_inline]] inline void chunk_logits(const W* q, int64_t dim, const char* const* keys,
                                                int count, W* logits) {
  constexpr int L = S::kLanes;
  for (int j = 0; j < count; j += L) {
    F<S> sums[L];
#pragma GCC unroll 16
    for (int l = 0; l < L; ++l) sums[l] = S::zero();
    int64_t i = 0;
    for (; i + L <= dim; i += L) {
      const F<S> part = S::load(q + i);
#pragma GCC unroll 16
      for (int l = 0; l < L; ++l) {
        sums[l] =
            multiply_add<S>(S::load(reinterpret_cast<const W*>(keys[j + l]) + i), part, sums[l]);
      }
    }
    if (i < dim) {
      const int n = static_cast<int>(dim - i);
      const F<S> part = S::load_first(q + i, n);
#pragma GCC unroll 16
      for (int l = 0; l < L; ++l) {
        sums[l] = multiply_add<S>(S::load_first(reinterpret_cast<const W*>(keys[j + l]) + i, n),
                                  part, sums[l]);
      }
    }
    S::transpose(sums);
#pragma GCC unroll 4
    for (int width = L / 2; width > 0; width /= 2) {
#pragma GCC unroll 8
      for (int l = 0; l < width; ++l) sums[l] = S::add(sums[l], sums[l + width]);
    }
    if (count - j < L) {
      sums[0] = S::keep((1u << (count - j)) - 1, sums[0], S::set(-__builtin_inff()));
    }
    S::store(logits + j, sums[0]);
  }
}

// out[0, columns) = kept · out + Σ weights[j] · values[j], kVectors vectors wide.
template <typename S, typename T, typename W, int kVectors>
[[gnu::always_inline]] inline void add_values(const char* const* rows, int64_t offset, int count,
                                              const W* weights, W kept, W* out) {
  F<S> even[kVectors], odd[kVectors];
#pragma GCC unroll 4
  for (int c = 0; c < kVectors; ++c) {
    even[c] = S::mul(S::load(out + c * S::kLanes), S::set(kept));
    odd[c] = S::zero();
  }
  int j = 0;
  for (; j + 2 <= count; j += 2) {
    const F<S> a = S::set(weights[j]), b = S::set(weights[j + 1]);
    const T* x = reinterpret_cast<const T*>(rows[j] + offset);
    const T* y = reinterpret_cast<const T*>(rows[j + 1] + offset);
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; ++c) {
      even[c] = multiply_add<S>(a, S::load(x + c * S::kLanes), even[c]);
      odd[c] = multiply_add<S>(b, S::load(y + c * S::kLanes), odd[c]);
    }
  }
  if (j < count) {
    const F<S> a = S::set(weights[j]);
    const T* x = reinterpret_cast<const T*>(rows[j] + offset);
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; ++c) {
      even[c] = multiply_add<S>(a, S::load(x + c * S::kLanes), even[c]);
    }
  }
#pragma GCC unroll 4
  for (int c = 0; c < kVectors; ++c) S::store(out + c * S::kLanes, S::add(even[c], odd[c]));
}

// The columns behind the last whole vector.
template <typename S, typename T, typename W>
[[gnu::always_inline]] inline void add_last_values(const char* const* rows, int64_t offset,
                                                   int count, const W* weights, W kept, int n,
                                                   W* out) {
  F<S> all = S::mul(S::load(out), S::set(kept));
  for (int j = 0; j < count; ++j) {
    const T* x = reinterpret_cast<const T*>(rows[j] + offset);
    all = multiply_add<S>(S::set(weights[j]), S::load_first(x, n), all);
  }
  S::store(out, all);
}

template <typename S, typename T, typename W, typename Y>
void attend(const DecodeAttention& a) {
  constexpr int L = S::kLanes;
  constexpr double kLog2E = 1.4426950408889634;
  alignas(64) W q[kMaxDim], out[kMaxDim + L], logits[kChunk];
  const W* given = static_cast<const W*>(a.q);
  for (int64_t i = 0; i < a.qk_dim; ++i) q[i] = given[i] * static_cast<W>(a.scale * kLog2E);
  for (int64_t i = 0; i < a.v_dim + L; i += L) S::store(out + i, S::zero());
  const int64_t key_bytes = a.qk_dim * static_cast<int64_t>(sizeof(W));
  const int64_t used_bytes = key_bytes + a.v_dim * static_cast<int64_t>(sizeof(T));

  RowWalk walk{a.runs, a.runs + a.run_count, static_cast<const char*>(a.rows), a.row_bytes};
  const char* rows[kChunk];
  const char* following[kChunk];
  W highest = -__builtin_inff(), total = 0;
  for (int count = walk.next(rows); count > 0;) {
    const int more = walk.next(following);
    for (int j = 0; j < more; ++j) fetch(following[j], used_bytes);
    for (int j = count; j % L != 0; ++j) rows[j] = rows[0];
    chunk_logits<S, W>(q, a.qk_dim, rows, count, logits);
    F<S> top = S::set(highest);
    for (int j = 0; j < count; j += L) top = S::max(top, S::load(logits + j));
    W lanes[L];
    S::store(lanes, top);
    W now = lanes[0];
    for (int l = 1; l < L; ++l) now = lanes[l] > now ? lanes[l] : now;
    S::store(lanes, S::exp2(S::set(highest - now)));
    const W kept = lanes[0];
    highest = now;
    F<S> sums = S::zero();
    for (int j = 0; j < count; j += L) {
      const F<S> p = S::exp2(S::sub(S::load(logits + j), S::set(now)));
      S::store(logits + j, p);
      sums = S::add(sums, p);
    }
    total = total * kept + sum<S, W>(sums);
    int64_t c = 0;
    for (; c + 4 * L <= a.v_dim; c += 4 * L) {
      add_values<S, T, W, 4>(rows, key_bytes + c * static_cast<int64_t>(sizeof(T)), count, logits,
                             kept, out + c);
    }
    for (; c + L <= a.v_dim; c += L) {
      add_values<S, T, W, 1>(rows, key_bytes + c * static_cast<int64_t>(sizeof(T)), count, logits,
                             kept, out + c);
    }
    if (c < a.v_dim) {
      add_last_values<S, T, W>(rows, key_bytes + c * static_cast<int64_t>(sizeof(T)), count, logits,
                               kept, static_cast<int>(a.v_dim - c), out + c);
    }
    for (int j = 0; j < more; ++j) rows[j] = following[j];
    count = more;
  }
  const F<S> inverse = S::set(total > 0 || total != total ? 1 / total : 0);
  Y* to = static_cast<Y*>(a.out);
  for (int64_t i = 0; i < a.v_dim; i += L) {
    store_some<S>(to + i, S::mul(S::load(out + i), inverse), a.v_dim - i);
  }
}

template <typename S, typename T, typename W>
constexpr DecodeFunctions decode_functions() {
  using D = Dot<S, T, W>;
  using Y = typename D::Operand;
  return {.operand_bytes = sizeof(Y),
          .wide_bytes = sizeof(W),
          .compute_bytes = sizeof(T),
          .norm = norm<S, W, Y>,
          .norm_wide = norm<S, W, W>,
          .product = product<S, T, W, D>,
          .product_wide = product<S, W, W, Dot<S, W, W>>,
          .gelu = gelu<S, W, Y>,
          .rotate = rotate<S, W>,
          .attend = attend<S, T, W, Y>,
          .narrow = convert<S, W, T>,
          .widen = convert<S, T, W>};
}

template <typename S>
constexpr DecodeFunctionSet decode_function_set() {
  return {decode_functions<S, float, float>(), decode_functions<S, BFloat16, float>(),
          decode_functions<S, Float16, float>()};
}

}  // namespace
}  // namespace lace::cpu
