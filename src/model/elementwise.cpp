#include "model/elementwise.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/instruction_set.h"

// Written with the compiler's vectors of 16 floats, and compiled for each instruction set: bodies
// are inlined into what run_with_best() calls.
#define LACE_INLINE inline __attribute__((always_inline))

namespace lace::model {

namespace {

using Floats = float __attribute__((vector_size(64)));
using Bits = uint32_t __attribute__((vector_size(64)));
using Ints = int32_t __attribute__((vector_size(64)));
using Halves = uint16_t __attribute__((vector_size(32)));

constexpr int64_t kLanes = kElementwiseColumns;

template <typename To, typename From>
LACE_INLINE To as(const From& from) {
  To to;
  static_assert(sizeof(to) == sizeof(from));
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

LACE_INLINE Floats load(const float* from) {
  Floats x;
  std::memcpy(&x, from, sizeof(x));
  return x;
}

LACE_INLINE Floats load(const BFloat16* from) {
  Halves halves;
  std::memcpy(&halves, from, sizeof(halves));
  return as<Floats>(__builtin_convertvector(halves, Bits) << 16);
}

LACE_INLINE void store(float* to, const Floats& x) { std::memcpy(to, &x, sizeof(x)); }

// Rounds to the nearest, ties to even. A NaN of this processor stays one.
LACE_INLINE void store(BFloat16* to, const Floats& x) {
  const Bits bits = as<Bits>(x);
  const Bits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Halves halves = __builtin_convertvector(rounded, Halves);
  std::memcpy(to, &halves, sizeof(halves));
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
  const Ints n = as<Ints>(shifted) - 0x4b400000;
  const Floats whole = shifted - 12582912.0f;
  const Floats r = (x - whole * 0.693359375f) - whole * -2.12194440e-4f;
  Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const Floats result = p * r * r + r + 1.0f;
  return as<Floats>(as<Ints>(result) + (n << 23));
}

// 0 or dropout.scale for 16 columns.
LACE_INLINE Floats keep(const Dropout& dropout, uint64_t row_key, int64_t column) {
  constexpr Bits kIota = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const Bits hash = dropout_hash<Bits>(row_key, kIota + static_cast<uint32_t>(column));
  return hash >= dropout.threshold ? dropout.scale - Floats{} : Floats{};
}

LACE_INLINE void add_to(float* sums, const Floats& x) { store(sums, load(sums) + x); }

// ---- rows ---------------------------------------------------------------------------------------

template <typename T>
LACE_INLINE void norm_row(int64_t columns, const float* x, const NormWeights& weights, T* y,
                          float& mean, float& rstd) {
  Floats total{};
  for (int64_t c = 0; c < columns; c += kLanes) total += load(x + c);
  const float mu = sum(total) / static_cast<float>(columns);
  Floats squares{};
  for (int64_t c = 0; c < columns; c += kLanes) {
    const Floats centred = load(x + c) - mu;
    squares += centred * centred;
  }
  const float r = 1 / std::sqrt(sum(squares) / static_cast<float>(columns) + weights.eps);
  for (int64_t c = 0; c < columns; c += kLanes) {
    store(y + c, (load(x + c) - mu) * r * load(weights.weight + c) + load(weights.bias + c));
  }
  mean = mu;
  rstd = r;
}

template <typename T>
LACE_INLINE void residual_row(int64_t row, int64_t columns, const float* x, const T* branch,
                              const Dropout& dropout, float* sum) {
  if (dropout.threshold == 0) {
    for (int64_t c = 0; c < columns; c += kLanes) store(sum + c, load(x + c) + load(branch + c));
    return;
  }
  const uint64_t row_key = dropout_row_key(dropout, row);
  for (int64_t c = 0; c < columns; c += kLanes) {
    store(sum + c, load(x + c) + load(branch + c) * keep(dropout, row_key, c));
  }
}

template <typename T>
LACE_INLINE void norm_body(RowRange rows, const float* x, const NormWeights& weights, T* y,
                           float* mean, float* rstd) {
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const int64_t at = row * rows.columns;
    norm_row(rows.columns, x + at, weights, y + at, mean[row], rstd[row]);
  }
}

template <typename T>
LACE_INLINE void residual_norm_body(RowRange rows, const float* x, const T* branch,
                                    const Dropout& dropout, const NormWeights& weights, float* sum,
                                    T* y, float* mean, float* rstd) {
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const int64_t at = row * rows.columns;
    residual_row(row, rows.columns, x + at, branch + at, dropout, sum + at);
    norm_row(rows.columns, sum + at, weights, y + at, mean[row], rstd[row]);
  }
}

template <typename T>
LACE_INLINE void residual_body(RowRange rows, const float* x, const T* branch,
                               const Dropout& dropout, float* sum) {
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const int64_t at = row * rows.columns;
    residual_row(row, rows.columns, x + at, branch + at, dropout, sum + at);
  }
}

template <typename T>
LACE_INLINE void branch_grad_body(RowRange rows, const float* grad, const Dropout& dropout,
                                  T* branch_grad, float* branch_sum) {
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const int64_t at = row * rows.columns;
    const uint64_t row_key = dropout_row_key(dropout, row);
    for (int64_t c = 0; c < rows.columns; c += kLanes) {
      Floats g = load(grad + at + c);
      if (dropout.threshold != 0) g *= keep(dropout, row_key, c);
      store(branch_grad + at + c, g);
      add_to(branch_sum + c, g);
    }
  }
}

// With x̂ = (x − mean) · rstd and g = dy · weight:
// dx = rstd · (g − mean(g) − x̂ · mean(g · x̂)).
template <typename T>
LACE_INLINE void norm_grad_body(RowRange rows, const T* dy, const float* x, const float* mean,
                                const float* rstd, const float* weight, const float* grad,
                                float* grad_in, float* weight_sum, float* bias_sum) {
  const float share = 1 / static_cast<float>(rows.columns);
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const int64_t at = row * rows.columns;
    const float mu = mean[row], r = rstd[row];
    Floats total{}, along{};
    for (int64_t c = 0; c < rows.columns; c += kLanes) {
      const Floats d = load(dy + at + c);
      const Floats normed = (load(x + at + c) - mu) * r;
      const Floats g = d * load(weight + c);
      total += g;
      along += g * normed;
      add_to(weight_sum + c, d * normed);
      add_to(bias_sum + c, d);
    }
    const float g_mean = sum(total) * share, along_mean = sum(along) * share;
    for (int64_t c = 0; c < rows.columns; c += kLanes) {
      const Floats normed = (load(x + at + c) - mu) * r;
      const Floats g = load(dy + at + c) * load(weight + c);
      store(grad_in + at + c, load(grad + at + c) + (g - g_mean - normed * along_mean) * r);
    }
  }
}

LACE_INLINE Floats gate(const Floats& x) { return 1.0f / (1.0f + exp(x * -1.702f)); }

template <typename T>
LACE_INLINE void gelu_body(RowRange rows, const T* x, T* y) {
  for (int64_t at = rows.begin * rows.columns; at < rows.end * rows.columns; at += kLanes) {
    const Floats v = load(x + at);
    store(y + at, v * gate(v));
  }
}

template <typename T>
LACE_INLINE void gelu_grad_body(RowRange rows, const T* dy, const T* x, T* dx, float* dx_sum) {
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const int64_t at = row * rows.columns;
    for (int64_t c = 0; c < rows.columns; c += kLanes) {
      const Floats v = load(x + at + c);
      const Floats s = gate(v);
      const Floats d = load(dy + at + c) * (s + v * 1.702f * s * (1.0f - s));
      store(dx + at + c, d);
      add_to(dx_sum + c, d);
    }
  }
}

template <typename T>
LACE_INLINE void sum_body(RowRange rows, const T* x, float* sum) {
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    for (int64_t c = 0; c < rows.columns; c += kLanes) {
      add_to(sum + c, load(x + row * rows.columns + c));
    }
  }
}

LACE_INLINE float value(const float* x) { return *x; }
LACE_INLINE float value(const BFloat16* x) {
  return as<float>(static_cast<uint32_t>(x->bits) << 16);
}

template <typename T>
LACE_INLINE void cross_entropy_body(RowRange rows, const T* logits, const int64_t* targets,
                                    float* nats, float* lse) {
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const T* x = logits + row * rows.columns;
    Floats high = load(x);
    for (int64_t c = kLanes; c < rows.columns; c += kLanes) {
      const Floats v = load(x + c);
      high = v > high ? v : high;
    }
    const float top = maximum(high);
    Floats total{};
    for (int64_t c = 0; c < rows.columns; c += kLanes) total += exp(load(x + c) - top);
    lse[row] = top + std::log(sum(total));
    nats[row] = lse[row] - value(x + targets[row]);
  }
}

template <typename T>
LACE_INLINE void cross_entropy_grad_body(RowRange rows, const T* logits, const int64_t* targets,
                                         const float* lse, float scale, T* dlogits) {
  constexpr Bits kIota = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const int64_t at = row * rows.columns;
    const auto target = static_cast<uint32_t>(targets[row]);
    for (int64_t c = 0; c < rows.columns; c += kLanes) {
      const Floats p = exp(load(logits + at + c) - lse[row]);
      const Bits column = kIota + static_cast<uint32_t>(c);
      store(dlogits + at + c, (column == target ? p - 1.0f : p) * scale);
    }
  }
}

LACE_INLINE void embedding_body(RowRange rows, int64_t n, const int64_t* tokens,
                                const int64_t* indices, const EmbeddingTables& tables, float* out) {
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const int64_t slot = row % n;
    float* to = out + row * rows.columns;
    if (slot == 0) {
      std::memcpy(to, tables.sos, static_cast<size_t>(rows.columns) * sizeof(float));
      continue;
    }
    const float* tok = tables.tok + tokens[row - 1] * rows.columns;
    const float* pos[3] = {};
    for (int p = 0; p < tables.parts; ++p) {
      pos[p] = tables.pos[p] + indices[p * n + slot - 1] * rows.columns;
    }
    for (int64_t c = 0; c < rows.columns; c += kLanes) {
      Floats x = load(tok + c);
      for (int p = 0; p < tables.parts; ++p) x += load(pos[p] + c);
      store(to + c, x);
    }
  }
}

LACE_INLINE void embedding_grad_body(int64_t rows, int64_t columns, int64_t column_begin,
                                     int64_t column_end, int64_t n, const int64_t* tokens,
                                     const int64_t* indices, const float* grad,
                                     const EmbeddingGrads& grads) {
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t slot = row % n;
    float* to[4] = {grads.sos};
    int targets = 1;
    if (slot > 0) {
      to[0] = grads.tok + tokens[row - 1] * columns;
      for (int p = 0; p < grads.parts; ++p) {
        to[targets++] = grads.pos[p] + indices[p * n + slot - 1] * columns;
      }
    }
    for (int64_t c = column_begin; c < column_end; c += kLanes) {
      const Floats g = load(grad + row * columns + c);
      for (int t = 0; t < targets; ++t) add_to(to[t] + c, g);
    }
  }
}

}  // namespace

// ---- entry points -------------------------------------------------------------------------------

#define LACE_ELEMENTWISE(T)                                                                        \
  template <>                                                                                      \
  void norm_rows<T>(RowRange rows, const float* x, const NormWeights& weights, T* y, float* mean,  \
                    float* rstd) {                                                                 \
    run_with_best<norm_body<T>>(rows, x, weights, y, mean, rstd);                                  \
  }                                                                                                \
  template <>                                                                                      \
  void residual_norm_rows<T>(RowRange rows, const float* x, const T* branch,                       \
                             const Dropout& dropout, const NormWeights& weights, float* sum, T* y, \
                             float* mean, float* rstd) {                                           \
    run_with_best<residual_norm_body<T>>(rows, x, branch, dropout, weights, sum, y, mean, rstd);   \
  }                                                                                                \
  template <>                                                                                      \
  void residual_rows<T>(RowRange rows, const float* x, const T* branch, const Dropout& dropout,    \
                        float* sum) {                                                              \
    run_with_best<residual_body<T>>(rows, x, branch, dropout, sum);                                \
  }                                                                                                \
  template <>                                                                                      \
  void branch_grad_rows<T>(RowRange rows, const float* grad, const Dropout& dropout,               \
                           T* branch_grad, float* branch_sum) {                                    \
    run_with_best<branch_grad_body<T>>(rows, grad, dropout, branch_grad, branch_sum);              \
  }                                                                                                \
  template <>                                                                                      \
  void norm_grad_rows<T>(RowRange rows, const T* dy, const float* x, const float* mean,            \
                         const float* rstd, const float* weight, const float* grad,                \
                         float* grad_in, float* weight_sum, float* bias_sum) {                     \
    run_with_best<norm_grad_body<T>>(rows, dy, x, mean, rstd, weight, grad, grad_in, weight_sum,   \
                                     bias_sum);                                                    \
  }                                                                                                \
  template <>                                                                                      \
  void gelu_rows<T>(RowRange rows, const T* x, T* y) {                                             \
    run_with_best<gelu_body<T>>(rows, x, y);                                                       \
  }                                                                                                \
  template <>                                                                                      \
  void gelu_grad_rows<T>(RowRange rows, const T* dy, const T* x, T* dx, float* dx_sum) {           \
    run_with_best<gelu_grad_body<T>>(rows, dy, x, dx, dx_sum);                                     \
  }                                                                                                \
  template <>                                                                                      \
  void sum_rows<T>(RowRange rows, const T* x, float* sum) {                                        \
    run_with_best<sum_body<T>>(rows, x, sum);                                                      \
  }                                                                                                \
  template <>                                                                                      \
  void cross_entropy_rows<T>(RowRange rows, const T* logits, const int64_t* targets, float* nats,  \
                             float* lse) {                                                         \
    run_with_best<cross_entropy_body<T>>(rows, logits, targets, nats, lse);                        \
  }                                                                                                \
  template <>                                                                                      \
  void cross_entropy_grad_rows<T>(RowRange rows, const T* logits, const int64_t* targets,          \
                                  const float* lse, float scale, T* dlogits) {                     \
    run_with_best<cross_entropy_grad_body<T>>(rows, logits, targets, lse, scale, dlogits);         \
  }

LACE_ELEMENTWISE(float)
LACE_ELEMENTWISE(BFloat16)

void embedding_rows(RowRange rows, int64_t n, const int64_t* tokens, const int64_t* indices,
                    const EmbeddingTables& tables, float* out) {
  run_with_best<embedding_body>(rows, n, tokens, indices, tables, out);
}

void embedding_grad_columns(int64_t rows, int64_t columns, int64_t column_begin, int64_t column_end,
                            int64_t n, const int64_t* tokens, const int64_t* indices,
                            const float* grad, const EmbeddingGrads& grads) {
  run_with_best<embedding_grad_body>(rows, columns, column_begin, column_end, n, tokens, indices,
                                     grad, grads);
}

}  // namespace lace::model
