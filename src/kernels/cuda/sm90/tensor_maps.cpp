#include "kernels/cuda/sm90/tensor_maps.h"

#include <algorithm>
#include <numeric>

#include "kernels/cuda/cuda_check.h"

namespace lace::sm90 {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// From the driver that runs, so that nothing links libcuda.
Encode find_encode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result{};
  LACE_CUDA(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                             cudaEnableDefault, &result));
  LACE_CHECK(result == cudaDriverEntryPointSuccess && function != nullptr,
             "[cuda] the driver has no cuTensorMapEncodeTiled");
  return reinterpret_cast<Encode>(function);
}

// From row to row, in elements; where there is but one row its stride may be any.
int64_t row_stride(const MappedTensor& source) {
  return source.rows > 1 ? source.tensor.row_stride : 8;
}

// The unit of the last dimension, in elements: a row is a multiple of it, and a batch element.
int64_t last_stride(const MappedTensor& source) {
  const int64_t batch_stride = source.tensor.batch_stride;
  if (source.positions == 0) return batch_stride;
  return source.batch > 1 ? std::gcd(row_stride(source), batch_stride) : row_stride(source);
}

CUtensorMap make_map(const MappedTensor& source, const BoxShape& box) {
  static const Encode encode = find_encode();
  const MapLayout layout = map_layout(source, box);
  cuuint64_t sizes[5] = {}, strides[4] = {};
  for (int i = 0; i < 5; ++i) {
    sizes[i] = static_cast<cuuint64_t>(layout.sizes[i]);
    // The stride of a dimension of size 1 is never used, but it must be a valid one.
    if (i > 0)
      strides[i - 1] = sizes[i] > 1 ? static_cast<cuuint64_t>(layout.strides[i - 1]) * 2 : 16;
  }
  const auto before = static_cast<uintptr_t>(layout.before * 2);
  const auto at = reinterpret_cast<uintptr_t>(source.tensor.data);
  LACE_CHECK(before <= at, "[attention] cuda_sm90 cannot run sequences: a tensor lies at ",
             source.tensor.data, ", less than ", before, " bytes into the address space");
  const cuuint32_t box_sizes[5] = {64, static_cast<cuuint32_t>(box.inner),
                                   static_cast<cuuint32_t>(box.outer), 1, 1};
  const cuuint32_t element_strides[5] = {1, 1, 1, 1, 1};
  CUtensorMap map{};
  const CUresult status =
      encode(&map,
             source.dtype == DType::kFloat16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                             : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
             5, reinterpret_cast<void*>(at - before), sizes, strides, box_sizes, element_strides,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  LACE_CHECK(status == CUDA_SUCCESS, "[cuda] cuTensorMapEncodeTiled failed with ",
             static_cast<int>(status), " for ", source.rows, " rows of stride ",
             source.tensor.row_stride);
  return map;
}

}  // namespace

MapSteps map_steps(const MappedTensor& tensor) {
  if (tensor.positions == 0) return {};
  const Tensor4& t = tensor.tensor;
  const int64_t unit = last_stride(tensor);
  const int64_t batch = tensor.batch > 1 ? t.batch_stride / unit : 0;
  const int64_t row = row_stride(tensor) / unit;
  LACE_CHECK(tensor.batch * batch + tensor.rows * row < INT32_MAX,
             "[attention] cuda_sm90 cannot count sequences in tensors of batch stride ",
             t.batch_stride, " and row stride ", t.row_stride);
  return {static_cast<int32_t>(batch), static_cast<int32_t>(row),
          static_cast<int32_t>(tensor.head_dim)};
}

MapLayout map_layout(const MappedTensor& tensor, const BoxShape& box) {
  const Tensor4& t = tensor.tensor;
  const bool sequences = tensor.positions > 0;
  const MapSteps steps = map_steps(tensor);
  const int64_t rows = sequences ? tensor.positions : tensor.rows;
  const int64_t inner = box.period == 0 ? rows : box.period, stride = row_stride(tensor);
  const int64_t periods = box.period == 0 ? 1 : rows / box.period;
  const int64_t last =
      sequences ? (tensor.batch - 1) * steps.batch + tensor.rows * steps.row + 1 : tensor.batch;
  return {{tensor.head_dim, inner, std::max<int64_t>(periods, 1), tensor.heads, last},
          {stride, stride * box.period, t.head_stride, last_stride(tensor)},
          sequences ? inner * periods * stride : 0};
}

MapSteps make_maps(const MappedTensor& tensor, int32_t tile_rows,
                   const std::vector<BoxShape>& boxes, bool stretches, CUtensorMap (&maps)[kMaps]) {
  const bool sequences = tensor.positions > 0;
  maps[0] = make_map(tensor, {0, tile_rows, 1});
  MappedTensor rows = tensor;  // as they lie in memory
  rows.positions = 0;
  for (int i = 1; i < kNaturalMaps; ++i) {
    const bool needed = sequences ? i == kRowMap : stretches;
    if (needed) maps[i] = make_map(rows, {0, 128 >> i, 1});
  }
  if (sequences) maps[kZeroMap] = make_map(rows, {0, tile_rows, 1});
  for (size_t i = 0; i < boxes.size(); ++i) {
    maps[static_cast<size_t>(kNaturalMaps) + i] = make_map(tensor, boxes[i]);
  }
  return map_steps(tensor);
}

}  // namespace lace::sm90
