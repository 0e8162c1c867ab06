#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "core/context.h"
#include "core/dtype.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/kernel.h"

namespace lace {

// The matrix products of a linear layer on a GPU, by a library, and those with
// quick-GELU beside them. On CPUs libtorch computes them (model/linear.cpp).
//
// All matrices are contiguous, row by row: x [rows, in], weight [out, in], y and dy [rows, out].
// `compute` is bfloat16 or float16, sums are float32. Of the algorithms that the library proposes
// for a product, the first call times all and the fastest is kept, unless the context asks for
// deterministic results: which one wins may differ from run to run. A call that is being recorded
// (ops/device_queue.h) must not be the first.

struct LinearShape {
  int64_t rows = 0, in = 0, out = 0;
  DType compute = DType::kBFloat16;
};

struct LinearArgs {  // y = x weightᵀ + bias
  LinearShape shape;
  const void *x = nullptr, *weight = nullptr;
  const void* bias = nullptr;  // compute [out], or null
  void* y = nullptr;
};

struct LinearGradInputArgs {  // dx = dy weight
  LinearShape shape;
  const void *dy = nullptr, *weight = nullptr;
  void* dx = nullptr;
};

struct LinearGradWeightArgs {  // dweight (+)= dyᵀ x
  LinearShape shape;
  const void *dy = nullptr, *x = nullptr;
  float* dweight = nullptr;  // [out, in]
  bool add = false;          // to what is there, instead of in its place
};

// Which way to compute what has more than one: the fastest of all that can, measured by the first
// call with its shape, or a fixed one where the context asks for deterministic results.
constexpr int kFastestWay = -1;

// u = x weightᵀ + bias, y = u · σ(1.702 u) of u as it is rounded
struct LinearGeluArgs {
  LinearShape shape;
  const void *x = nullptr, *weight = nullptr;
  const void* bias = nullptr;  // compute [out], or null
  void* u = nullptr;           // compute [rows, out], or null: not wanted
  void* y = nullptr;           // compute [rows, out]
  int way = kFastestWay;       // or an index of Products::gelu_ways
};

// du = (dy weight) ∘ d quick_gelu(u) / du, and its sums over the rows, taken before it is rounded
struct GradInputGeluArgs {
  LinearShape shape;  // u is [rows, in]
  const void *dy = nullptr, *weight = nullptr, *u = nullptr;
  void* du = nullptr;  // compute [rows, in], none of the others
  ColumnSum sum;       // [in]
  int way = kFastestWay;
};

struct Products {
  void (*linear)(const Context&, const LinearArgs&);
  void (*grad_input)(const Context&, const LinearGradInputArgs&);
  void (*grad_weight)(const Context&, const LinearGradWeightArgs&);
  void (*linear_gelu)(const Context&, const LinearGeluArgs&);
  void (*grad_input_gelu)(const Context&, const GradInputGeluArgs&);
  // The ways of the two above, by name. The first, which can do all, is a product and then a kernel
  // of ElementwiseKernels; the others do both at once, each with other tiles.
  std::span<const std::string_view> gelu_ways;
  // Why a way cannot compute either of them at this shape, or empty.
  std::string (*no_gelu_way)(int way, const LinearShape& shape);
};

// Null where this build has none for the device.
const Products* products(Device device);

}  // namespace lace
