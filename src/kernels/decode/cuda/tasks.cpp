#include "kernels/decode/cuda/tasks.h"

#include <algorithm>
#include <array>

#include "lace/error.h"

#include "kernels/decode/cuda/step_words.h"

namespace lace::cuda::decode {

namespace {

// A block that norms all rows for itself reads this much of them at most: as long as it takes the
// others to write them and to wait for one another.
constexpr int64_t kOwnNormBytes = int64_t{1} << 16;

// A range of fewer columns leaves warps without any.
constexpr int kLeastSplit = kChunk * kWarps;

constexpr int64_t kMostDim = 256, kMostRows = int64_t{1} << 30;

int64_t round_up(int64_t count, int64_t size) { return (count + size - 1) / size * size; }

// Two rows of 16 bytes a lane, eight lanes at once, touch different banks: rows begin 64 bytes
// after a multiple of 128.
int stride_of(int columns) { return static_cast<int>(round_up(columns, 64)) + 32; }

// Sums of a warp: rows side by side in pairs of sequences.
int64_t sums_bytes(int sequences) {
  return int64_t{kWarps} * kTileRows * column_stride(sequences) * 4;
}

// As many splits as leave each block one item, or as the most columns that shared memory holds ask.
ProductTasks split(int rows, int columns, int blocks, int most_columns) {
  ProductTasks tasks;
  tasks.tiles = cover(rows, kTileRows);
  int splits = std::clamp(blocks / tasks.tiles, 1, std::max(1, columns / kLeastSplit));
  splits = std::max(splits, cover(columns, most_columns));
  tasks.split_columns = static_cast<int>(round_up(cover(columns, splits), kChunk));
  tasks.splits = cover(columns, tasks.split_columns);
  return tasks;
}

void check(const DecodeShape& shape, int64_t batch) {
  LACE_CHECK(shape.compute == DType::kBFloat16 || shape.compute == DType::kFloat16,
             "[decode] compute must be bfloat16 or float16 on a GPU, got ", name(shape.compute));
  for (const int64_t dim : {shape.qk_dim, shape.v_dim}) {
    LACE_CHECK(dim > 0 && dim % 8 == 0 && dim <= kMostDim,
               "[decode] head_dim must be a multiple of 8 up to ", kMostDim, " on a GPU, got ",
               dim);
  }
  const int64_t widths[] = {(shape.heads + shape.kv_heads) * (shape.qk_dim + shape.v_dim),
                            shape.d_model, shape.ff_width, shape.vocab, batch};
  for (const int64_t width : widths) {
    LACE_CHECK(width <= kMostRows, "[decode] widths and batch may be up to ", kMostRows,
               " on a GPU, got ", width);
  }
}

}  // namespace

StepShape step_shape(const DecodeShape& shape) {
  const auto narrow = [](int64_t size) { return static_cast<int>(size); };
  return {narrow(shape.layers),   narrow(shape.d_model), narrow(shape.heads),
          narrow(shape.kv_heads), narrow(shape.qk_dim),  narrow(shape.v_dim),
          narrow(shape.ff_width), narrow(shape.vocab)};
}

StepLayout step_layout(const DecodeShape& shape, int64_t batch, const Gpu& gpu) {
  check(shape, batch);
  const StepShape s = step_shape(shape);
  StepLayout layout;
  layout.words_bytes = round_up(int64_t{kLaunchWords} * 4, 128);
  const int64_t shared_bytes = gpu.shared_bytes - layout.words_bytes;  // for all else
  const int columns_in = s.heads * s.v_dim;
  const int chunks_in = static_cast<int>(round_up(s.d_model, kChunk));

  // Sequences at once: all, as far as the operands of a whole row fit.
  constexpr std::array kSequences = {64, 32, 16, 8};
  layout.aligned = s.d_model % 8 == 0 && s.ff_width % 8 == 0;
  for (const int sequences : kSequences) {
    if (sequences > 8 && !layout.aligned) continue;
    const int64_t bytes = int64_t{sequences} * stride_of(chunks_in) * 2 + sums_bytes(sequences);
    layout.sequences = sequences;
    if (bytes <= shared_bytes && (sequences == 8 || sequences / 2 < batch)) break;
  }
  const int64_t room = shared_bytes - sums_bytes(layout.sequences);
  const auto most_columns =
      static_cast<int>((room / 2 / layout.sequences - 32) / 64 * 64);  // whose stride_of() fits
  LACE_CHECK(chunks_in <= most_columns, "[decode] d_model may be up to ", most_columns,
             " on this GPU, got ", s.d_model);

  layout.qkv = {projection_tiles(s), 1, s.d_model};
  layout.ff1 = {cover(s.ff_width, kTileRows), 1, s.d_model};
  layout.proj = split(s.d_model, columns_in, gpu.multiprocessors, most_columns);
  layout.ff2 = split(s.d_model, s.ff_width, gpu.multiprocessors, most_columns);
  const int64_t head_tasks = batch * s.heads;
  layout.key_splits =
      static_cast<int>(std::clamp<int64_t>(gpu.multiprocessors / head_tasks, 1, kMostKeySplits));
  const int64_t most_items = std::max<int64_t>(
      {layout.qkv.tiles, layout.ff1.tiles, int64_t{layout.proj.tiles} * layout.proj.splits,
       int64_t{layout.ff2.tiles} * layout.ff2.splits, head_tasks * layout.key_splits,
       cover(s.vocab, kWarps)});
  layout.blocks = static_cast<int>(std::min<int64_t>(gpu.multiprocessors, most_items));

  const int widest = std::max({chunks_in, layout.proj.split_columns, layout.ff2.split_columns});
  layout.operand_stride = stride_of(widest);
  const int64_t operand_bytes = int64_t{layout.sequences} * layout.operand_stride * 2;
  const int64_t row_bytes = int64_t{s.d_model} * 4;
  const int64_t warps = std::min<int64_t>(kWarps, batch);
  layout.scratch_bytes = std::max<int64_t>(sums_bytes(layout.sequences),
                                           int64_t{kWarps} * (s.v_dim + kMergeWords) * 4);
  // A norm of its own reads the stream and the sums that are to be added, and has its rows beside
  // the operands that it makes.
  const int64_t sums = std::max(layout.proj.splits, layout.ff2.splits);
  const int64_t own_scratch = std::max(layout.scratch_bytes, warps * row_bytes);
  const int64_t norm_bytes = round_up(2 * row_bytes, 128);
  layout.own_norms = batch <= layout.sequences && batch * (1 + sums) * row_bytes <= kOwnNormBytes &&
                     norm_bytes + operand_bytes + own_scratch <= shared_bytes;
  if (layout.own_norms) {
    layout.scratch_bytes = own_scratch;
    layout.norm_bytes = norm_bytes;
  }
  layout.shared_bytes = layout.norm_bytes + operand_bytes + layout.scratch_bytes;
  // Norms before a barrier, and the last one, have all but the words.
  layout.norm_warps = static_cast<int>(std::clamp<int64_t>(shared_bytes / row_bytes, 1, warps));
  layout.shared_bytes =
      layout.words_bytes + std::max(layout.shared_bytes, layout.norm_warps * row_bytes);
  LACE_CHECK(layout.shared_bytes <= gpu.shared_bytes, "[decode] a step of this model needs ",
             layout.shared_bytes, " bytes of shared memory, of which the GPU has ",
             gpu.shared_bytes);

  const auto take = [&](int64_t bytes) {
    const int64_t at = layout.workspace_bytes;
    layout.workspace_bytes += round_up(bytes, 256);
    return at;
  };
  layout.barrier = take(256);
  for (int64_t& x : layout.x) x = take(batch * row_bytes);
  layout.normed = take(batch * row_bytes);
  layout.q = take(head_tasks * s.qk_dim * 4);
  layout.head_sums = take(head_tasks * layout.key_splits * s.v_dim * 4);
  layout.head_stats = take(head_tasks * layout.key_splits * 2 * 4);
  layout.ff = take(batch * s.ff_width * 2);
  layout.proj_sums = take(layout.proj.splits * batch * row_bytes);
  layout.ff_sums = take(layout.ff2.splits * batch * row_bytes);
  return layout;
}

}  // namespace lace::cuda::decode
