#pragma once

#include <cstdint>

#include "core/context.h"
#include "core/dtype.h"
#include "kernels/elementwise/dropout.h"
#include "kernels/kernel.h"

namespace lace {

// What a model computes between its matrix products and attention, and its optimiser: a table of
// functions for each kind of device, each fused so that an array is read and written once.
//
// All arrays are contiguous, in the memory of the device, matrices [rows, columns] row by row.
// `compute` is the dtype that matrix products and attention compute with. `wide` is that of the
// parameters and every sum: float64 where compute is, else float32. `residual` is that of the
// residual stream and its gradient: wide or compute.
// Results are the same bit for bit whenever a call is repeated on the same device.

struct Elements {
  int64_t rows = 0, columns = 0;
  DType compute = DType::kFloat32;
};

constexpr DType wide_type(DType compute) {
  return compute == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

// Where sums over the rows of a matrix go: wide [columns].
struct ColumnSum {
  void* data = nullptr;  // null: the sums are not wanted
  bool add = false;      // to what is there, instead of in its place
};

// sum = x + dropout(branch), y = (sum − mean) · rstd · weight + bias,
// rstd = 1 / √(variance + eps)
// where y is made of the sum as it is rounded
struct NormArgs {
  Elements elements;
  DType residual = DType::kFloat32;
  const void* x = nullptr;       // residual
  const void* branch = nullptr;  // compute; null: sum is x
  Dropout dropout;
  void* sum = nullptr;           // residual; null where branch is
  const void* weight = nullptr;  // wide [columns]
  const void* bias = nullptr;    // wide [columns]
  double eps = 0;
  void* y = nullptr;                      // compute; null: only the sum is wanted
  void *mean = nullptr, *rstd = nullptr;  // wide [rows]
};

// dx = grad + (the gradient of x through its norm, dy being that of y), and from it, as it is
// rounded, that of the branch below: dbranch = dropout'(dx), whose sums are taken before it is
// rounded itself.
struct NormGradArgs {
  Elements elements;
  DType residual = DType::kFloat32;
  const void* dy = nullptr;                     // compute
  const void* x = nullptr;                      // residual; NormArgs.sum
  const void *mean = nullptr, *rstd = nullptr;  // wide [rows]
  const void* weight = nullptr;                 // wide [columns]
  const void* grad = nullptr;                   // residual; null: 0
  void* dx = nullptr;                           // residual; may be grad
  void* dbranch = nullptr;                      // compute; null: not wanted
  Dropout dropout;                              // of the branch
  ColumnSum weight_sum, bias_sum, branch_sum;
};

// y = x · σ(1.702 x)
struct GeluArgs {
  Elements elements;
  const void* x = nullptr;  // compute
  void* y = nullptr;        // compute; may be x
};

// dx = dy · d y / d x; its sums are taken before it is rounded
struct GeluGradArgs {
  Elements elements;
  const void *dy = nullptr, *x = nullptr;  // compute
  void* dx = nullptr;                      // compute; may be dy
  ColumnSum sum;
};

struct ColumnSumArgs {
  Elements elements;
  const void* x = nullptr;  // compute
  ColumnSum sum;
};

// lse = log Σ exp(logits), nats = lse − logits[target]
struct CrossEntropyArgs {
  Elements elements;
  const void* logits = nullptr;          // compute
  const int64_t* targets = nullptr;      // [rows], in [0, columns)
  void *nats = nullptr, *lse = nullptr;  // wide [rows]
};

// dlogits = scale · *factor · (softmax(logits) − onehot(target))
struct CrossEntropyGradArgs {
  Elements elements;
  const void* logits = nullptr;      // compute
  const int64_t* targets = nullptr;  // [rows]
  const void* lse = nullptr;         // wide [rows]
  double scale = 1;
  const double* factor = nullptr;  // in the device's memory; null: 1
  void* dlogits = nullptr;         // compute; may be logits
};

// Slot s of each sequence: sos for s = 0, else tok[tokens[s − 1]] + Σ_p pos_p[indices[p, s − 1]].
constexpr int kMaxPositionTables = 3;
struct EmbeddingShape {
  int64_t batch = 0, n = 0, columns = 0;
  DType wide = DType::kFloat32;
  DType residual = DType::kFloat32;
  int64_t vocab = 0;
  int parts = 0;                                   // position tables, at most kMaxPositionTables
  int64_t position_rows[kMaxPositionTables] = {};  // of each
  const int64_t* tokens = nullptr;                 // [batch, n], in [0, vocab)
  const int64_t* indices = nullptr;                // [parts, n], in [0, position_rows[p])
};

struct EmbeddingArgs {
  EmbeddingShape shape;
  const void *tok = nullptr, *sos = nullptr;  // wide [vocab, columns], [columns]
  const void* pos[kMaxPositionTables] = {};   // wide [position_rows[p], columns]
  void* out = nullptr;                        // residual [batch · n, columns]
};

// The gradients of the tables, shaped as they are.
struct EmbeddingGradArgs {
  EmbeddingShape shape;
  const void* grad = nullptr;  // residual [batch · n, columns]
  void *tok = nullptr, *sos = nullptr;
  void* pos[kMaxPositionTables] = {};
  bool add = false;  // to what is there, instead of in its place
};

// Rotary positions, in place: of each row's first `heads` · head_dim columns, a head's halves
// (a, b) become (a · cos − b · sin, b · cos + a · sin), cos and sin those of position
// first_position + row mod n. `inverse`: (a · cos + b · sin, b · cos − a · sin), what makes the
// gradient of a head before from that of the head after.
struct RotateArgs {
  Elements elements;
  void* x = nullptr;  // compute
  int64_t heads = 0, head_dim = 0;
  int64_t n = 0, first_position = 0;
  const void *cos = nullptr, *sin = nullptr;  // wide [>= first_position + n, head_dim / 2]
  bool inverse = false;
};

// What an optimiser's step leaves for the host to read, and hands on to the next.
struct StepState {
  double norm = 0;         // √Σ g² / loss_scale, of the step's gradients before clipping
  double factor = 0;       // that the gradients were multiplied by
  double loss_scale = 1;   // what the next loss is multiplied by
  int64_t overflowed = 0;  // 1: some gradients of the step were not finite
  // 1: they were and there is no loss scaling. Nothing is changed by this step and all that follow,
  // until the host sets it to 0.
  int64_t failed = 0;
};

// Dynamic scaling of the loss for fp16.
struct LossScaling {
  bool on = false;
  double growth = 1, floor = 1;
};

// Adam over all parameters, which stand one after the other in one array each of `values`,
// gradients and so on. With g the gradient times `factor` (the clipping and 1 / loss_scale):
//   m ← β₁ m + (1 − β₁) g,  v ← β₂ v + (1 − β₂) g²
//   values ← values − rate · (m / (√v + ε) + wd · values), wd for the first `decayed` elements only
//   ema ← decay · ema + (1 − decay) · values, copies ← values, rounded
// `norm` first: the state's norm and factor; with scaling, gradients that are not finite count as 0
// in both, and loss_scale halves (not below floor) where there are any and else grows.
struct AdamArgs {
  int64_t count = 0, decayed = 0;
  DType wide = DType::kFloat32, compute = DType::kFloat32;
  void* values = nullptr;           // wide
  const void* gradients = nullptr;  // wide
  void *m = nullptr, *v = nullptr;  // wide
  void* ema = nullptr;              // wide, or null
  void* copies = nullptr;           // compute, or null
  double beta1 = 0, beta2 = 0, epsilon = 0, weight_decay = 0, ema_decay = 0;
  double clip_norm = 0;  // 0: no clipping
  LossScaling scaling;
  const double* rate = nullptr;  // in the device's memory
  StepState* state = nullptr;    // in the device's memory
};

struct ElementwiseKernels {
  std::string_view name;
  void (*norm)(const Context&, const NormArgs&);
  void (*norm_grad)(const Context&, const NormGradArgs&);
  void (*gelu)(const Context&, const GeluArgs&);
  void (*gelu_grad)(const Context&, const GeluGradArgs&);
  void (*column_sum)(const Context&, const ColumnSumArgs&);
  void (*rotate)(const Context&, const RotateArgs&);
  void (*cross_entropy)(const Context&, const CrossEntropyArgs&);
  void (*cross_entropy_grad)(const Context&, const CrossEntropyGradArgs&);
  void (*embedding)(const Context&, const EmbeddingArgs&);
  void (*embedding_grad)(const Context&, const EmbeddingGradArgs&);
  void (*adam_norm)(const Context&, const AdamArgs&);
  void (*adam_step)(const Context&, const AdamArgs&);
};

// The table for this device. A CPU's is fast for float32 and bfloat16; float16 and float64 are
// computed by plain loops. On a GPU compute is bfloat16 or float16.
const ElementwiseKernels& elementwise_kernels(Device device);

}  // namespace lace
