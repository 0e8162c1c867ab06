#pragma once

#include <cstdint>

#include "core/context.h"
#include "core/dtype.h"
#include "kernels/kernel.h"

namespace lace {

// The matrix products of a linear layer on a GPU, by a library. On CPUs libtorch computes them
// (model/linear.cpp).
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

struct Products {
  void (*linear)(const Context&, const LinearArgs&);
  void (*grad_input)(const Context&, const LinearGradInputArgs&);
  void (*grad_weight)(const Context&, const LinearGradWeightArgs&);
};

// Null where this build has none for the device.
const Products* products(Device device);

}  // namespace lace
