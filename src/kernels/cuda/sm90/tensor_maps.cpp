#include "kernels/cuda/sm90/tensor_maps.h"

#include <algorithm>

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

CUtensorMap make_map(const MappedTensor& source, const BoxShape& box) {
  static const Encode encode = find_encode();
  const auto unsigned_of = [](int64_t value) { return static_cast<cuuint64_t>(value); };
  // The stride of a dimension of size 1 is never used, but it must be a valid one.
  const auto stride = [&](int64_t size, int64_t elements) {
    return size > 1 ? unsigned_of(elements) * 2 : cuuint64_t{16};
  };
  const Tensor4& t = source.tensor;
  const int64_t periods = box.period == 0 ? 1 : source.rows / box.period;
  const int64_t inner = box.period == 0 ? source.rows : box.period;
  const cuuint64_t sizes[5] = {unsigned_of(source.head_dim), unsigned_of(inner),
                               unsigned_of(std::max<int64_t>(periods, 1)),
                               unsigned_of(source.heads), unsigned_of(source.batch)};
  const cuuint64_t strides[4] = {
      stride(inner, t.row_stride), stride(periods, t.row_stride * box.period),
      stride(source.heads, t.head_stride), stride(source.batch, t.batch_stride)};
  const cuuint32_t box_sizes[5] = {64, static_cast<cuuint32_t>(box.inner),
                                   static_cast<cuuint32_t>(box.outer), 1, 1};
  const cuuint32_t element_strides[5] = {1, 1, 1, 1, 1};
  CUtensorMap map{};
  const CUresult status =
      encode(&map,
             source.dtype == DType::kFloat16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                             : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
             5, t.data, sizes, strides, box_sizes, element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  LACE_CHECK(status == CUDA_SUCCESS, "[cuda] cuTensorMapEncodeTiled failed with ",
             static_cast<int>(status), " for ", source.rows, " rows of stride ", t.row_stride);
  return map;
}

}  // namespace

void make_maps(const MappedTensor& tensor, int32_t tile_rows, const std::vector<BoxShape>& boxes,
               bool stretches, CUtensorMap (&maps)[kMaps]) {
  for (int i = 0; i < (stretches ? kNaturalMaps : 1); ++i) {
    maps[i] = make_map(tensor, {0, i == 0 ? tile_rows : 128 >> i, 1});
  }
  for (size_t i = 0; i < boxes.size(); ++i) {
    maps[static_cast<size_t>(kNaturalMaps) + i] = make_map(tensor, boxes[i]);
  }
}

}  // namespace lace::sm90
