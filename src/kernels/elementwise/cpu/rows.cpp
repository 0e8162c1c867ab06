#include "kernels/elementwise/cpu/rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/instruction_set.h"
#include "kernels/elementwise/cpu/elements.h"

// Written with the compiler's vectors of 16 floats, and compiled for each instruction set: bodies
// are inlined into what run_with_best() calls.
#define LACE_INLINE inline __attribute__((always_inline))

namespace lace::cpu {

namespace {

using Floats = float __attribute__((vector_size(64)));
using Bits = uint32_t __attribute__((vector_size(64)));
using Ints = int32_t __attribute__((vector_size(64)));
using Shorts = uint16_t __attribute__((vector_size(32)));
using Halves = Float16 __attribute__((vector_size(32)));

constexpr int64_t kLanes = kVectorColumns;

LACE_INLINE Floats load(const float* from) {
  Floats x;
  std::memcpy(&x, from, sizeof(x));
  return x;
}

LACE_INLINE Floats load(const BFloat16* from) {
  Shorts shorts;
  std::memcpy(&shorts, from, sizeof(shorts));
  return as_bits<Floats>(__builtin_convertvector(shorts, Bits) << 16);
}

LACE_INLINE Floats load(const Float16* from) {
  Halves halves;
  std::memcpy(&halves, from, sizeof(halves));
  return __builtin_convertvector(halves, Floats);
}

LACE_INLINE void store(float* to, const Floats& x) { std::memcpy(to, &x, sizeof(x)); }

LACE_INLINE void store(Float16* to, const Floats& x) {
  const Halves halves = __builtin_convertvector(x, Halves);
  std::memcpy(to, &halves, sizeof(halves));
}

// Rounds to the nearest, ties to even. A NaN of this processor stays one.
LACE_INLINE void store(BFloat16* to, const Floats& x) {
  const Bits bits = as_bits<Bits>(x);
  const Bits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Shorts shorts = __builtin_convertvector(rounded, Shorts);
  std::memcpy(to, &shorts, sizeof(shorts));
}

LACE_INLINE float sum(const Floats& x) {
  float lanes[kLanes];
  std::memcpy(lanes, &x, sizeof(lanes));
  for (int64_t width = kLanes / 2; width > 0; width /= 2) {
    for (int64_t i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

LACE_INLINE float maximum(const Floats& x) {
  float lanes[kLanes];
  std::memcpy(lanes, &x, sizeof(lanes));
  for (int64_t width = kLanes / 2; width > 0; width /= 2) {
    for (int64_t i = 0; i < width; ++i) lanes[i] = std::max(lanes[i], lanes[i + width]);
  }
  return lanes[0];
}

LACE_INLINE Floats clamp(const Floats& x, float low, float high) {
  const Floats raised = x < low ? low - Floats{} : x;
  return raised > high ? high - Floats{} : raised;
}

// exp(x) to about 2 ulp for x in [−87, 87], to which it is clamped.
LACE_INLINE Floats exp(const Floats& exact) {
  const Floats x = clamp(exact, -87.0f, 87.0f);
  // 2^n · e^r with n the nearest integer to x / ln 2: adding 1.5 · 2²³ rounds it.
  const Floats shifted = x * 1.44269504f + 12582912.0f;
  const Ints n = as_bits<Ints>(shifted) - 0x4b400000;
  const Floats whole = shifted - 12582912.0f;
  const Floats r = (x - whole * 0.693359375f) - whole * -2.12194440e-4f;
  Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const Floats result = p * r * r + r + 1.0f;
  return as_bits<Floats>(as_bits<Ints>(result) + (n << 23));
}

// 0 or dropout.scale for 16 columns.
LACE_INLINE Floats keep(const Dropout& dropout, uint64_t row_key, int64_t column) {
  constexpr Bits kIota = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const Bits hash = dropout_hash<Bits>(row_key, kIota + static_cast<uint32_t>(column));
  return hash >= dropout.threshold ? dropout.scale - Floats{} : Floats{};
}

LACE_INLINE void add_to(float* sums, const Floats& x) { store(sums, load(sums) + x); }

template <typename T>
LACE_INLINE const T* in(const void* p) {
  return static_cast<const T*>(p);
}
template <typename T>
LACE_INLINE T* out(void* p) {
  return static_cast<T*>(p);
}

// ---- rows ---------------------------------------------------------------------------------------

// R: of the residual stream, here and below.
template <typename T, typename R>
LACE_INLINE void residual_row(const NormArgs& a, int64_t row, const R* x, R* sum) {
  const int64_t columns = a.elements.columns;
  const T* branch = in<T>(a.branch) + row * columns;
  if (a.dropout.threshold == 0) {
    for (int64_t c = 0; c < columns; c += kLanes) store(sum + c, load(x + c) + load(branch + c));
    return;
  }
  const uint64_t row_key = dropout_row_key(*a.dropout.key, row);
  for (int64_t c = 0; c < columns; c += kLanes) {
    store(sum + c, load(x + c) + load(branch + c) * keep(a.dropout, row_key, c));
  }
}

template <typename T, typename R>
LACE_INLINE void norm_row(const NormArgs& a, int64_t row, const R* x) {
  const int64_t columns = a.elements.columns;
  Floats total{};
  for (int64_t c = 0; c < columns; c += kLanes) total += load(x + c);
  const float mu = sum(total) / static_cast<float>(columns);
  Floats squares{};
  for (int64_t c = 0; c < columns; c += kLanes) {
    const Floats centred = load(x + c) - mu;
    squares += centred * centred;
  }
  const float variance = sum(squares) / static_cast<float>(columns);
  const float r = 1 / std::sqrt(variance + static_cast<float>(a.eps));
  const float *weight = in<float>(a.weight), *bias = in<float>(a.bias);
  T* y = out<T>(a.y) + row * columns;
  for (int64_t c = 0; c < columns; c += kLanes) {
    store(y + c, (load(x + c) - mu) * r * load(weight + c) + load(bias + c));
  }
  out<float>(a.mean)[row] = mu;
  out<float>(a.rstd)[row] = r;
}

template <typename T, typename R>
LACE_INLINE void norm_body(NormArgs a, RowRange rows) {
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const R* x = in<R>(a.x) + row * a.elements.columns;
    if (a.branch != nullptr) {
      R* sum = out<R>(a.sum) + row * a.elements.columns;
      residual_row<T>(a, row, x, sum);
      x = sum;
    }
    if (a.y != nullptr) norm_row<T>(a, row, x);
  }
}

// The gradient of the branch from that of the sum.
template <typename T, typename R>
LACE_INLINE void branch_grad_row(const NormGradArgs& a, int64_t row, const R* dx, float* sums) {
  const int64_t columns = a.elements.columns;
  T* dbranch = out<T>(a.dbranch) + row * columns;
  const bool drops = a.dropout.threshold != 0;
  const uint64_t row_key = drops ? dropout_row_key(*a.dropout.key, row) : 0;
  for (int64_t c = 0; c < columns; c += kLanes) {
    Floats g = load(dx + c);
    if (drops) g *= keep(a.dropout, row_key, c);
    store(dbranch + c, g);
    add_to(sums + c, g);
  }
}

// With x̂ = (x − mean) · rstd and g = dy · weight:
// dx = grad + rstd · (g − mean(g) − x̂ · mean(g · x̂)).
template <typename T, typename R>
LACE_INLINE void norm_grad_body(NormGradArgs a, RowRange rows, RowSums sums) {
  const int64_t columns = a.elements.columns;
  const float share = 1 / static_cast<float>(columns);
  const float* weight = in<float>(a.weight);
  float *weight_sum = out<float>(sums.data[0]), *bias_sum = out<float>(sums.data[1]);
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const T* dy = in<T>(a.dy) + row * columns;
    const R* x = in<R>(a.x) + row * columns;
    R* dx = out<R>(a.dx) + row * columns;
    const float mu = in<float>(a.mean)[row], r = in<float>(a.rstd)[row];
    Floats total{}, along{};
    for (int64_t c = 0; c < columns; c += kLanes) {
      const Floats d = load(dy + c);
      const Floats normed = (load(x + c) - mu) * r;
      const Floats g = d * load(weight + c);
      total += g;
      along += g * normed;
      add_to(weight_sum + c, d * normed);
      add_to(bias_sum + c, d);
    }
    const float g_mean = sum(total) * share, along_mean = sum(along) * share;
    const R* grad = a.grad == nullptr ? nullptr : in<R>(a.grad) + row * columns;
    for (int64_t c = 0; c < columns; c += kLanes) {
      const Floats normed = (load(x + c) - mu) * r;
      const Floats g = load(dy + c) * load(weight + c);
      const Floats through = (g - g_mean - normed * along_mean) * r;
      store(dx + c, grad == nullptr ? through : load(grad + c) + through);
    }
    if (a.dbranch != nullptr) branch_grad_row<T>(a, row, dx, out<float>(sums.data[2]));
  }
}

LACE_INLINE Floats gate(const Floats& x) { return 1.0f / (1.0f + exp(x * -1.702f)); }

template <typename T>
LACE_INLINE void gelu_body(GeluArgs a, RowRange rows) {
  const int64_t columns = a.elements.columns;
  for (int64_t at = rows.begin * columns; at < rows.end * columns; at += kLanes) {
    const Floats v = load(in<T>(a.x) + at);
    store(out<T>(a.y) + at, v * gate(v));
  }
}

template <typename T>
LACE_INLINE void gelu_grad_body(GeluGradArgs a, RowRange rows, RowSums sums) {
  const int64_t columns = a.elements.columns;
  float* sum = out<float>(sums.data[0]);
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const T *dy = in<T>(a.dy) + row * columns, *x = in<T>(a.x) + row * columns;
    T* dx = out<T>(a.dx) + row * columns;
    for (int64_t c = 0; c < columns; c += kLanes) {
      const Floats v = load(x + c);
      const Floats s = gate(v);
      const Floats d = load(dy + c) * (s + v * 1.702f * s * (1.0f - s));
      store(dx + c, d);
      add_to(sum + c, d);
    }
  }
}

template <typename T>
LACE_INLINE void column_sum_body(ColumnSumArgs a, RowRange rows, RowSums sums) {
  const int64_t columns = a.elements.columns;
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const T* x = in<T>(a.x) + row * columns;
    for (int64_t c = 0; c < columns; c += kLanes) add_to(out<float>(sums.data[0]) + c, load(x + c));
  }
}

template <typename T>
LACE_INLINE void rotate_body(RotateArgs a, RowRange rows) {
  const int64_t half = a.head_dim / 2;
  const float sign = a.inverse ? -1.0f : 1.0f;
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const int64_t position = a.first_position + row % a.n;
    const float *cos = in<float>(a.cos) + position * half,
                *sin = in<float>(a.sin) + position * half;
    T* low = out<T>(a.x) + row * a.elements.columns;
    for (int64_t head = 0; head < a.heads; ++head, low += a.head_dim) {
      T* high = low + half;
      for (int64_t c = 0; c < half; c += kLanes) {
        const Floats u = load(low + c), v = load(high + c);
        const Floats along = load(cos + c), across = load(sin + c) * sign;
        store(low + c, u * along - v * across);
        store(high + c, v * along + u * across);
      }
    }
  }
}

template <typename T>
LACE_INLINE void cross_entropy_body(CrossEntropyArgs a, RowRange rows) {
  const int64_t columns = a.elements.columns;
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const T* x = in<T>(a.logits) + row * columns;
    Floats high = load(x);
    for (int64_t c = kLanes; c < columns; c += kLanes) {
      const Floats v = load(x + c);
      high = v > high ? v : high;
    }
    const float top = maximum(high);
    Floats total{};
    for (int64_t c = 0; c < columns; c += kLanes) total += exp(load(x + c) - top);
    const float lse = top + std::log(sum(total));
    out<float>(a.lse)[row] = lse;
    out<float>(a.nats)[row] = lse - value(x + a.targets[row]);
  }
}

template <typename T>
LACE_INLINE void cross_entropy_grad_body(CrossEntropyGradArgs a, RowRange rows) {
  constexpr Bits kIota = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const int64_t columns = a.elements.columns;
  const auto scale = static_cast<float>(a.factor == nullptr ? a.scale : a.scale * *a.factor);
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const T* logits = in<T>(a.logits) + row * columns;
    T* dlogits = out<T>(a.dlogits) + row * columns;
    const float lse = in<float>(a.lse)[row];
    const auto target = static_cast<uint32_t>(a.targets[row]);
    for (int64_t c = 0; c < columns; c += kLanes) {
      const Floats p = exp(load(logits + c) - lse);
      const Bits column = kIota + static_cast<uint32_t>(c);
      store(dlogits + c, (column == target ? p - 1.0f : p) * scale);
    }
  }
}

template <typename R>
LACE_INLINE void embedding_body(EmbeddingArgs a, RowRange slots) {
  const EmbeddingShape& shape = a.shape;
  const int64_t columns = shape.columns;
  for (int64_t row = slots.begin; row < slots.end; ++row) {
    const int64_t slot = row % shape.n;
    R* to = out<R>(a.out) + row * columns;
    if (slot == 0) {
      for (int64_t c = 0; c < columns; c += kLanes) store(to + c, load(in<float>(a.sos) + c));
      continue;
    }
    const float* tok = in<float>(a.tok) + shape.tokens[row - 1] * columns;
    const float* pos[kMaxPositionTables] = {};
    for (int p = 0; p < shape.parts; ++p) {
      pos[p] = in<float>(a.pos[p]) + shape.indices[p * shape.n + slot - 1] * columns;
    }
    for (int64_t c = 0; c < columns; c += kLanes) {
      Floats x = load(tok + c);
      for (int p = 0; p < shape.parts; ++p) x += load(pos[p] + c);
      store(to + c, x);
    }
  }
}

template <typename R>
LACE_INLINE void embedding_grad_body(EmbeddingGradArgs a, RowRange range) {
  const EmbeddingShape& shape = a.shape;
  const int64_t columns = shape.columns;
  for (int64_t row = 0; row < shape.batch * shape.n; ++row) {
    const int64_t slot = row % shape.n;
    float* to[kMaxPositionTables + 1] = {out<float>(a.sos)};
    int targets = 1;
    if (slot > 0) {
      to[0] = out<float>(a.tok) + shape.tokens[row - 1] * columns;
      for (int p = 0; p < shape.parts; ++p) {
        to[targets++] = out<float>(a.pos[p]) + shape.indices[p * shape.n + slot - 1] * columns;
      }
    }
    for (int64_t c = range.begin; c < range.end; c += kLanes) {
      const Floats g = load(in<R>(a.grad) + row * columns + c);
      for (int t = 0; t < targets; ++t) add_to(to[t] + c, g);
    }
  }
}

}  // namespace

// ---- entry points -------------------------------------------------------------------------------

// Calls NAME_body of the compute type.
#define LACE_ROWS(NAME, ...)                                                  \
  switch (args.elements.compute) {                                            \
    case DType::kBFloat16:                                                    \
      return run_with_best<NAME##_body<BFloat16>>(args, rows, ##__VA_ARGS__); \
    case DType::kFloat16:                                                     \
      return run_with_best<NAME##_body<Float16>>(args, rows, ##__VA_ARGS__);  \
    default:                                                                  \
      return run_with_best<NAME##_body<float>>(args, rows, ##__VA_ARGS__);    \
  }

// The same of the compute type and the residual stream's.
#define LACE_RESIDUAL_ROWS(NAME, ...)                                                 \
  if (args.residual == DType::kBFloat16) {                                            \
    return run_with_best<NAME##_body<BFloat16, BFloat16>>(args, rows, ##__VA_ARGS__); \
  }                                                                                   \
  if (args.residual == DType::kFloat16) {                                             \
    return run_with_best<NAME##_body<Float16, Float16>>(args, rows, ##__VA_ARGS__);   \
  }                                                                                   \
  switch (args.elements.compute) {                                                    \
    case DType::kBFloat16:                                                            \
      return run_with_best<NAME##_body<BFloat16, float>>(args, rows, ##__VA_ARGS__);  \
    case DType::kFloat16:                                                             \
      return run_with_best<NAME##_body<Float16, float>>(args, rows, ##__VA_ARGS__);   \
    default:                                                                          \
      return run_with_best<NAME##_body<float, float>>(args, rows, ##__VA_ARGS__);     \
  }

// Calls NAME_body of the residual stream's type.
#define LACE_SLOTS(NAME)                                        \
  switch (args.shape.residual) {                                \
    case DType::kBFloat16:                                      \
      return run_with_best<NAME##_body<BFloat16>>(args, range); \
    case DType::kFloat16:                                       \
      return run_with_best<NAME##_body<Float16>>(args, range);  \
    default:                                                    \
      return run_with_best<NAME##_body<float>>(args, range);    \
  }

const RowFunctions kVectors = {
    .norm = [](const NormArgs& args, RowRange rows) { LACE_RESIDUAL_ROWS(norm) },
    .norm_grad = [](const NormGradArgs& args, RowRange rows,
                    const RowSums& sums) { LACE_RESIDUAL_ROWS(norm_grad, sums) },
    .gelu = [](const GeluArgs& args, RowRange rows) { LACE_ROWS(gelu) },
    .gelu_grad = [](const GeluGradArgs& args, RowRange rows,
                    const RowSums& sums) { LACE_ROWS(gelu_grad, sums) },
    .column_sum = [](const ColumnSumArgs& args, RowRange rows,
                     const RowSums& sums) { LACE_ROWS(column_sum, sums) },
    .rotate = [](const RotateArgs& args, RowRange rows) { LACE_ROWS(rotate) },
    .cross_entropy = [](const CrossEntropyArgs& args, RowRange rows) { LACE_ROWS(cross_entropy) },
    .cross_entropy_grad = [](const CrossEntropyGradArgs& args,
                             RowRange rows) { LACE_ROWS(cross_entropy_grad) },
    .embedding = [](const EmbeddingArgs& args, RowRange range) { LACE_SLOTS(embedding) },
    .embedding_grad = [](const EmbeddingGradArgs& args,
                         RowRange range) { LACE_SLOTS(embedding_grad) },
};

}  // namespace lace::cpu
