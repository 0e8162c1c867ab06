// The same in plain loops: for every dtype and any number of columns.

#include <algorithm>
#include <cmath>

#include "kernels/elementwise/cpu/elements.h"
#include "kernels/elementwise/cpu/rows.h"

namespace lace::cpu {

namespace {

template <typename T>
const T* in(const void* p) {
  return static_cast<const T*>(p);
}
template <typename T>
T* out(void* p) {
  return static_cast<T*>(p);
}

// 0 or dropout.scale
template <typename W>
W keep(const Dropout& dropout, int64_t row, int64_t column) {
  if (dropout.threshold == 0) return 1;
  const uint64_t row_key = dropout_row_key(*dropout.key, row);
  const bool kept = dropout_hash(row_key, static_cast<uint32_t>(column)) >= dropout.threshold;
  return kept ? W{dropout.scale} : W{0};
}

template <typename W>
W gate(W x) {
  return 1 / (1 + std::exp(x * W{-1.702}));
}

// T: of compute, R: of the residual stream.
template <typename T, typename R>
struct PlainResidual {
  using W = Wide<T>;

  static void norm_row(const NormArgs& a, int64_t row, const R* x) {
    const int64_t columns = a.elements.columns;
    W total = 0, squares = 0;
    for (int64_t c = 0; c < columns; ++c) total += value(x + c);
    const W mu = total / static_cast<W>(columns);
    for (int64_t c = 0; c < columns; ++c) {
      squares += (value(x + c) - mu) * (value(x + c) - mu);
    }
    const W r = 1 / std::sqrt(squares / static_cast<W>(columns) + static_cast<W>(a.eps));
    for (int64_t c = 0; c < columns; ++c) {
      set(out<T>(a.y) + row * columns + c,
          (value(x + c) - mu) * r * in<W>(a.weight)[c] + in<W>(a.bias)[c]);
    }
    out<W>(a.mean)[row] = mu;
    out<W>(a.rstd)[row] = r;
  }

  static void norm(const NormArgs& a, RowRange rows) {
    const int64_t columns = a.elements.columns;
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      const R* x = in<R>(a.x) + row * columns;
      if (a.branch != nullptr) {
        R* sum = out<R>(a.sum) + row * columns;
        for (int64_t c = 0; c < columns; ++c) {
          const W branch = value(in<T>(a.branch) + row * columns + c);
          set(sum + c, value(x + c) + branch * keep<W>(a.dropout, row, c));
        }
        x = sum;
      }
      if (a.y != nullptr) norm_row(a, row, x);
    }
  }

  static void norm_grad(const NormGradArgs& a, RowRange rows, const RowSums& sums) {
    const int64_t columns = a.elements.columns;
    const W share = W{1} / static_cast<W>(columns);
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      const W mu = in<W>(a.mean)[row], r = in<W>(a.rstd)[row];
      const auto dy = [&](int64_t c) { return W{value(in<T>(a.dy) + row * columns + c)}; };
      const auto normed = [&](int64_t c) {
        return (value(in<R>(a.x) + row * columns + c) - mu) * r;
      };
      W total = 0, along = 0;
      for (int64_t c = 0; c < columns; ++c) {
        const W g = dy(c) * in<W>(a.weight)[c];
        total += g;
        along += g * normed(c);
        out<W>(sums.data[0])[c] += dy(c) * normed(c);
        out<W>(sums.data[1])[c] += dy(c);
      }
      for (int64_t c = 0; c < columns; ++c) {
        const int64_t at = row * columns + c;
        const W g = dy(c) * in<W>(a.weight)[c];
        const W through = (g - total * share - normed(c) * (along * share)) * r;
        R* dx = out<R>(a.dx) + at;
        set(dx, a.grad == nullptr ? through : value(in<R>(a.grad) + at) + through);
        if (a.dbranch == nullptr) continue;
        const W dbranch = value(dx) * keep<W>(a.dropout, row, c);
        set(out<T>(a.dbranch) + at, dbranch);
        out<W>(sums.data[2])[c] += dbranch;
      }
    }
  }
};

// T: of compute, or, for the tables of embeddings, of the residual stream.
template <typename T>
struct Plain {
  using W = Wide<T>;

  static void gelu(const GeluArgs& a, RowRange rows) {
    const int64_t columns = a.elements.columns;
    for (int64_t at = rows.begin * columns; at < rows.end * columns; ++at) {
      const W x = value(in<T>(a.x) + at);
      set(out<T>(a.y) + at, x * gate(x));
    }
  }

  static void gelu_grad(const GeluGradArgs& a, RowRange rows, const RowSums& sums) {
    const int64_t columns = a.elements.columns;
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      for (int64_t c = 0; c < columns; ++c) {
        const int64_t at = row * columns + c;
        const W x = value(in<T>(a.x) + at), s = gate(x);
        const W d = value(in<T>(a.dy) + at) * (s + x * W{1.702} * s * (1 - s));
        set(out<T>(a.dx) + at, d);
        out<W>(sums.data[0])[c] += d;
      }
    }
  }

  static void column_sum(const ColumnSumArgs& a, RowRange rows, const RowSums& sums) {
    const int64_t columns = a.elements.columns;
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      for (int64_t c = 0; c < columns; ++c) {
        out<W>(sums.data[0])[c] += value(in<T>(a.x) + row * columns + c);
      }
    }
  }

  static void rotate(const RotateArgs& a, RowRange rows) {
    const int64_t half = a.head_dim / 2;
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      const int64_t at = (a.first_position + row % a.n) * half;
      for (int64_t head = 0; head < a.heads; ++head) {
        T* x = out<T>(a.x) + row * a.elements.columns + head * a.head_dim;
        for (int64_t c = 0; c < half; ++c) {
          const W u = value(x + c), v = value(x + half + c);
          const W along = in<W>(a.cos)[at + c];
          const W across = a.inverse ? -in<W>(a.sin)[at + c] : in<W>(a.sin)[at + c];
          set(x + c, u * along - v * across);
          set(x + half + c, v * along + u * across);
        }
      }
    }
  }

  static void cross_entropy(const CrossEntropyArgs& a, RowRange rows) {
    const int64_t columns = a.elements.columns;
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      const T* x = in<T>(a.logits) + row * columns;
      W top = value(x), total = 0;
      for (int64_t c = 1; c < columns; ++c) top = std::max<W>(top, value(x + c));
      for (int64_t c = 0; c < columns; ++c) total += std::exp(value(x + c) - top);
      const W lse = top + std::log(total);
      out<W>(a.lse)[row] = lse;
      out<W>(a.nats)[row] = lse - value(x + a.targets[row]);
    }
  }

  static void cross_entropy_grad(const CrossEntropyGradArgs& a, RowRange rows) {
    const int64_t columns = a.elements.columns;
    const auto scale = static_cast<W>(a.factor == nullptr ? a.scale : a.scale * *a.factor);
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      for (int64_t c = 0; c < columns; ++c) {
        const int64_t at = row * columns + c;
        const W p = std::exp(value(in<T>(a.logits) + at) - in<W>(a.lse)[row]);
        set(out<T>(a.dlogits) + at, (c == a.targets[row] ? p - 1 : p) * scale);
      }
    }
  }

  static void embedding(const EmbeddingArgs& a, RowRange slots) {
    const EmbeddingShape& shape = a.shape;
    const int64_t columns = shape.columns;
    for (int64_t row = slots.begin; row < slots.end; ++row) {
      const int64_t slot = row % shape.n;
      T* to = out<T>(a.out) + row * columns;
      for (int64_t c = 0; c < columns; ++c) {
        W x = slot == 0 ? in<W>(a.sos)[c] : in<W>(a.tok)[shape.tokens[row - 1] * columns + c];
        for (int p = 0; p < shape.parts && slot > 0; ++p) {
          x += in<W>(a.pos[p])[shape.indices[p * shape.n + slot - 1] * columns + c];
        }
        set(to + c, x);
      }
    }
  }

  static void embedding_grad(const EmbeddingGradArgs& a, RowRange range) {
    const EmbeddingShape& shape = a.shape;
    const int64_t columns = shape.columns;
    for (int64_t row = 0; row < shape.batch * shape.n; ++row) {
      const int64_t slot = row % shape.n;
      const auto add = [&](void* table, int64_t table_row) {
        for (int64_t c = range.begin; c < range.end; ++c) {
          out<W>(table)[table_row * columns + c] += value(in<T>(a.grad) + row * columns + c);
        }
      };
      if (slot == 0) {
        add(a.sos, 0);
        continue;
      }
      add(a.tok, shape.tokens[row - 1]);
      for (int p = 0; p < shape.parts; ++p) add(a.pos[p], shape.indices[p * shape.n + slot - 1]);
    }
  }
};

// Calls Plain<T>::NAME of the compute type.
#define LACE_PLAIN(NAME, DTYPE, ...)             \
  switch (DTYPE) {                               \
    case DType::kFloat64:                        \
      return Plain<double>::NAME(__VA_ARGS__);   \
    case DType::kFloat32:                        \
      return Plain<float>::NAME(__VA_ARGS__);    \
    case DType::kBFloat16:                       \
      return Plain<BFloat16>::NAME(__VA_ARGS__); \
    case DType::kFloat16:                        \
      return Plain<Float16>::NAME(__VA_ARGS__);  \
  }

// Calls PlainResidual<T, R>::NAME of the compute type and the residual stream's.
#define LACE_PLAIN_RESIDUAL(NAME, A, ...)                                   \
  switch ((A).elements.compute) {                                           \
    case DType::kFloat64:                                                   \
      return PlainResidual<double, double>::NAME(A, __VA_ARGS__);           \
    case DType::kFloat32:                                                   \
      return PlainResidual<float, float>::NAME(A, __VA_ARGS__);             \
    case DType::kBFloat16:                                                  \
      return (A).residual == DType::kFloat32                                \
                 ? PlainResidual<BFloat16, float>::NAME(A, __VA_ARGS__)     \
                 : PlainResidual<BFloat16, BFloat16>::NAME(A, __VA_ARGS__); \
    case DType::kFloat16:                                                   \
      return (A).residual == DType::kFloat32                                \
                 ? PlainResidual<Float16, float>::NAME(A, __VA_ARGS__)      \
                 : PlainResidual<Float16, Float16>::NAME(A, __VA_ARGS__);   \
  }

}  // namespace

const RowFunctions kPlain = {
    .norm = [](const NormArgs& a, RowRange r) { LACE_PLAIN_RESIDUAL(norm, a, r) },
    .norm_grad = [](const NormGradArgs& a, RowRange r,
                    const RowSums& s) { LACE_PLAIN_RESIDUAL(norm_grad, a, r, s) },
    .gelu = [](const GeluArgs& a, RowRange r) { LACE_PLAIN(gelu, a.elements.compute, a, r) },
    .gelu_grad = [](const GeluGradArgs& a, RowRange r,
                    const RowSums& s) { LACE_PLAIN(gelu_grad, a.elements.compute, a, r, s) },
    .column_sum = [](const ColumnSumArgs& a, RowRange r,
                     const RowSums& s) { LACE_PLAIN(column_sum, a.elements.compute, a, r, s) },
    .rotate = [](const RotateArgs& a, RowRange r) { LACE_PLAIN(rotate, a.elements.compute, a, r) },
    .cross_entropy = [](const CrossEntropyArgs& a,
                        RowRange r) { LACE_PLAIN(cross_entropy, a.elements.compute, a, r) },
    .cross_entropy_grad =
        [](const CrossEntropyGradArgs& a, RowRange r) {
          LACE_PLAIN(cross_entropy_grad, a.elements.compute, a, r)
        },
    .embedding = [](const EmbeddingArgs& a,
                    RowRange r) { LACE_PLAIN(embedding, a.shape.residual, a, r) },
    .embedding_grad = [](const EmbeddingGradArgs& a,
                         RowRange r) { LACE_PLAIN(embedding_grad, a.shape.residual, a, r) },
};

}  // namespace lace::cpu
