#pragma once

#include <cstdint>
#include <vector>

#include <cuda.h>

#include "kernels/cuda/sm90/work.h"
#include "kernels/kernel.h"

namespace lace::sm90 {

// What the tensor maps of one tensor share. dtype: bf16 or fp16; data and strides multiples of 16
// bytes; strides positive.
struct MappedTensor {
  Tensor4 tensor;
  DType dtype = DType::kBFloat16;
  int64_t head_dim = 0, rows = 0, heads = 0, batch = 0;
};

// Fills maps[0] (of tile_rows rows), if `stretches` maps[1 … kNaturalMaps) too, and from
// maps[kNaturalMaps] one map for each of `boxes`. The dimensions of a map are {head_dim, row within
// the period, period, head, batch}, of a natural map {head_dim, row, 1, head, batch}; a box is 64
// elements of head_dim wide, swizzled by 128 bytes; what lies outside reads as 0. Only whole
// periods are inside a map.
void make_maps(const MappedTensor& tensor, int32_t tile_rows, const std::vector<BoxShape>& boxes,
               bool stretches, CUtensorMap (&maps)[kMaps]);

}  // namespace lace::sm90
