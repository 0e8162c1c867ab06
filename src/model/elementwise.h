#pragma once

#include <cstdint>

#include "model/dropout.h"

namespace lace::model {

// The element-wise parts of a block on a CPU, fused so that each tensor is read and written once.
//
// All arrays are contiguous, [rows, columns] row by row; columns is a multiple of 16. A call works
// on the rows [begin, end); calls on different rows may run at once. `T` is float or BFloat16, in
// which products are computed; the residual stream and all sums are float.
// Pointers named *_sum hold `columns` floats to which the rows' sums are added.

struct BFloat16 {
  uint16_t bits;
};

constexpr int64_t kElementwiseColumns = 16;

struct RowRange {
  int64_t begin, end, columns;
};

struct NormWeights {
  const float* weight;  // [columns]
  const float* bias;    // [columns]
  float eps;
};

// y = (x − mean) · rstd · weight + bias, rstd = 1 / √(variance + eps); mean, rstd [rows]
template <typename T>
void norm_rows(RowRange rows, const float* x, const NormWeights& weights, T* y, float* mean,
               float* rstd);

// sum = x + dropout(branch), then norm_rows of sum
template <typename T>
void residual_norm_rows(RowRange rows, const float* x, const T* branch, const Dropout& dropout,
                        const NormWeights& weights, float* sum, T* y, float* mean, float* rstd);

// sum = x + dropout(branch)
template <typename T>
void residual_rows(RowRange rows, const float* x, const T* branch, const Dropout& dropout,
                   float* sum);

// branch_grad = dropout'(grad), rounded to T; its column sums
template <typename T>
void branch_grad_rows(RowRange rows, const float* grad, const Dropout& dropout, T* branch_grad,
                      float* branch_sum);

// grad_in = grad + d norm_rows / d x · dy; the gradients of weight and bias are column sums
template <typename T>
void norm_grad_rows(RowRange rows, const T* dy, const float* x, const float* mean,
                    const float* rstd, const float* weight, const float* grad, float* grad_in,
                    float* weight_sum, float* bias_sum);

// y = x · σ(1.702 x)
template <typename T>
void gelu_rows(RowRange rows, const T* x, T* y);

// dx = dy · d gelu / d x; its column sums
template <typename T>
void gelu_grad_rows(RowRange rows, const T* dy, const T* x, T* dx, float* dx_sum);

template <typename T>
void sum_rows(RowRange rows, const T* x, float* sum);

// lse = log Σ exp(logits), nats = lse − logits[target]; lse, nats [rows]
template <typename T>
void cross_entropy_rows(RowRange rows, const T* logits, const int64_t* targets, float* nats,
                        float* lse);

// dlogits = scale · (softmax(logits) − onehot(target)); may be `logits` itself
template <typename T>
void cross_entropy_grad_rows(RowRange rows, const T* logits, const int64_t* targets,
                             const float* lse, float scale, T* dlogits);

// Slot s of a sequence of n (rows = batch · n, slot = row mod n): slot 0 is sos; slot s is
// tok[token] + Σ pos_p[index_p], each of the symbol s − 1; indices [parts, n]. At most 3 parts.
struct EmbeddingTables {
  const float* tok;
  const float* sos;
  const float* pos[3];
  int parts;
};
void embedding_rows(RowRange rows, int64_t n, const int64_t* tokens, const int64_t* indices,
                    const EmbeddingTables& tables, float* out);

// Adds the gradients of all tables, for the columns [column_begin, column_end) of all rows.
struct EmbeddingGrads {
  float* tok;
  float* sos;
  float* pos[3];
  int parts;
};
void embedding_grad_columns(int64_t rows, int64_t columns, int64_t column_begin, int64_t column_end,
                            int64_t n, const int64_t* tokens, const int64_t* indices,
                            const float* grad, const EmbeddingGrads& grads);

}  // namespace lace::model
