#include <algorithm>

#include "lace/error.h"

#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/sm90/clear_rows.h"

namespace lace::sm90 {
namespace {

constexpr int kThreads = 256;
constexpr int kMostResults = 2;

// A result by words; strides in words.
struct WordRows {
  uint32_t* data = nullptr;
  int64_t batch_stride = 0, head_stride = 0, row_stride = 0;
  int32_t heads = 0, words = 0;
  uint32_t word = 0;
};

struct ClearParams {
  WordRows results[kMostResults];
  const uint8_t* marks = nullptr;  // [batch, rows]: 1 where a sequence has the row
  int32_t batch = 0, rows = 0;
};

// A block a sequence.
__global__ void __launch_bounds__(kThreads)
    mark_kernel(const Sequence* sequences, const SequenceSide side, bool packed, int32_t rows,
                uint8_t* marks) {
  const auto s = static_cast<int32_t>(blockIdx.x);
  const Extent extent = side.of(sequences[s]);
  uint8_t* own = marks + (packed ? 0 : int64_t{s} * rows);
  for (int32_t p = extent.begin + static_cast<int32_t>(threadIdx.x); p < extent.end;
       p += kThreads) {
    own[extent.row + p] = 1;
  }
}

// A warp a row of all heads.
__global__ void __launch_bounds__(kThreads) clear_kernel(const ClearParams params) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t index =
      int64_t{blockIdx.x} * (kThreads / 32) + static_cast<int32_t>(threadIdx.x) / 32;
  if (index >= int64_t{params.batch} * params.rows || params.marks[index] != 0) return;
  const int64_t b = index / params.rows, row = index - b * params.rows;
  for (const WordRows& result : params.results) {
    for (int32_t h = 0; h < result.heads; ++h) {
      uint32_t* to =
          result.data + b * result.batch_stride + h * result.head_stride + row * result.row_stride;
      for (int32_t w = lane; w < result.words; w += 32) to[w] = result.word;
    }
  }
}

}  // namespace

void clear_rows(const Context& context, const AttentionShape& shape, const Sequence* sequences,
                const SequenceSide& side, std::initializer_list<ResultRows> results) {
  LACE_CHECK(results.size() <= kMostResults, "[clear_rows] takes ", kMostResults, " results, got ",
             results.size());
  const auto stream = static_cast<cudaStream_t>(context.stream);
  ClearParams params;
  params.batch = static_cast<int32_t>(shape.batch_in_memory());
  size_t count = 0;
  for (const ResultRows& of : results) {
    const int64_t in_word = 4 / of.element_bytes;
    params.rows = static_cast<int32_t>(of.rows);
    params.results[count++] = {static_cast<uint32_t*>(of.tensor.data),
                               of.tensor.batch_stride / in_word,
                               of.tensor.head_stride / in_word,
                               of.tensor.row_stride / in_word,
                               static_cast<int32_t>(of.heads),
                               static_cast<int32_t>(of.dim / in_word),
                               of.word};
  }
  const int64_t rows = int64_t{params.batch} * params.rows;
  if (rows == 0) return;
  const Workspace memory = context.allocate(static_cast<size_t>(rows));
  auto* marks = reinterpret_cast<uint8_t*>(memory.get());
  LACE_CUDA(cudaMemsetAsync(marks, 0, static_cast<size_t>(rows), stream));
  if (sequences != nullptr && shape.batch > 0) {
    mark_kernel<<<static_cast<unsigned>(shape.batch), kThreads, 0, stream>>>(
        sequences, side, shape.packed, params.rows, marks);
    LACE_CUDA(cudaGetLastError());
  }
  params.marks = marks;
  constexpr int64_t kOfBlock = kThreads / 32;
  clear_kernel<<<static_cast<unsigned>((rows + kOfBlock - 1) / kOfBlock), kThreads, 0, stream>>>(
      params);
  LACE_CUDA(cudaGetLastError());
}

}  // namespace lace::sm90
