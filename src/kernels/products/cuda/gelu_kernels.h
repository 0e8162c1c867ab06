#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include <cuda_runtime_api.h>

#include "kernels/products/products.h"

namespace lace::cuda::products {

// Products whose epilogue is quick-GELU or its gradient, for Hopper GPUs. As cuBLAS does, they
// compute the transpose, [out, rows] or [in, rows]: widths of u are the tiles' rows, whose sums
// cost little then.

// How a product is cut into tiles: which columns of u and which rows a block computes at once.
struct Tiling {
  std::string_view name;
  int64_t columns, rows;
};
constexpr std::array<Tiling, 3> kTilings = {{
    {"pingpong 128x128", 128, 128},
    {"cooperative 128x256", 128, 256},
    {"cooperative 256x128", 256, 128},
}};

// Partial sums of grad_input_gelu: float32 [count, stride], of which the first `in` columns count.
struct Partials {
  int64_t count, stride;
};
constexpr Partials partials_of(const Tiling& tiling, const LinearShape& shape) {
  return {(shape.rows + tiling.rows - 1) / tiling.rows,
          (shape.in + tiling.columns - 1) / tiling.columns * tiling.columns};
}

// Enqueues LinearGeluArgs' products, with the tiling kTilings[tiling].
// rows > 0; in and out multiples of 8; matrices and bias begin at multiples of 16 bytes.
void linear_gelu_bf16(int tiling, const LinearGeluArgs& args, cudaStream_t stream);
void linear_gelu_fp16(int tiling, const LinearGeluArgs& args, cudaStream_t stream);

// Enqueues GradInputGeluArgs' product, but leaves the sums apart: `partials` as partials_of says,
// or null where they are not wanted. Asks for the same.
void grad_input_gelu_bf16(int tiling, const GradInputGeluArgs& args, float* partials,
                          cudaStream_t stream);
void grad_input_gelu_fp16(int tiling, const GradInputGeluArgs& args, float* partials,
                          cudaStream_t stream);

}  // namespace lace::cuda::products
