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
  // Where sequences are: positions of the plan. 0: none are, rows are positions.
  int64_t positions = 0;
};

// The last coordinate of a map: batch element · batch + row · row. Of columns from `columns` on
// zeros are read from kZeroMap.
struct MapSteps {
  int32_t batch = 1, row = 0, columns = INT32_MAX;
};

// Fills maps[0] (of tile_rows rows), if `stretches` maps[1 … kNaturalMaps) too (with sequences
// always maps[kRowMap] and maps[kZeroMap] alone), and from maps[kNaturalMaps] one map for each of
// `boxes`. The
// dimensions of a map are {head_dim, row within the period, period, head, batch}, of a natural map
// {head_dim, row, 1, head, batch}; a box is 64 elements of head_dim wide, swizzled by 128 bytes;
// what lies outside reads as 0. Only whole periods are inside a map.
//
// With sequences one map of boxes shows any of them, and reads as 0 what lies behind it. Rows (and
// periods) are as many as there are positions, of which those of the sequence are the last: a box
// at position p of a sequence whose last one is e − 1 is asked for at row `positions` − e + p, and
// no row at or past `positions` is read. In place of the batch the last dimension counts rows too,
// by which the sequence is moved to where it lies: its coordinate is that of the row behind the
// last one (MapSteps). So that the sum of both is the row, a map begins `positions` rows before the
// tensor; coordinates of a sequence never lead there, nor to rows that stand behind it. Those
// before its first one are for the caller not to ask for. Of periods as many count as positions
// have whole ones, and the last coordinate is of the row behind the last whole one of the sequence.
// For a box of which nothing is inside the hardware reads the first address of the map, and fails
// if there is no memory: so from such maps only boxes may be asked for of which something is
// inside. The map of single rows, and that of zeros, are of rows as they lie in memory.
//
// map_layout: sizes and strides (in elements) of the dimensions of the map of boxes of `box`, and
// how many elements before the tensor it begins.
struct MapLayout {
  int64_t sizes[5], strides[4], before;
};
MapSteps map_steps(const MappedTensor& tensor);
MapLayout map_layout(const MappedTensor& tensor, const BoxShape& box);
MapSteps make_maps(const MappedTensor& tensor, int32_t tile_rows,
                   const std::vector<BoxShape>& boxes, bool stretches, CUtensorMap (&maps)[kMaps]);

}  // namespace lace::sm90
