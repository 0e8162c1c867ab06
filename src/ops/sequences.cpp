#include "ops/sequences.h"

#include <algorithm>
#include <bit>
#include <utility>

#include <ATen/ATen.h>

#include "lace/error.h"

namespace lace {

namespace {

static_assert(sizeof(Sequence) == 6 * sizeof(int32_t));

void check_places(const char* op, const char* name, const at::Tensor& tensor,
                  const c10::SymInt& size) {
  LACE_CHECK(tensor.dim() == 1 && tensor.sym_size(0) == size, "[", op, "] ", name,
             " must have the shape [", size, "], got ", tensor.sym_sizes());
  LACE_CHECK(tensor.scalar_type() == at::kInt || tensor.scalar_type() == at::kLong, "[", op, "] ",
             name, " must be int32 or int64, got ", tensor.scalar_type());
}

// The table of sequences whose queries and keys [2, sequences] are `rows` each, from position
// `start` on, in rows `first` on of the tensors; but positions below `least` (by default 0) or from
// `limit` ([sequences] or [2, sequences]) on are padding. Few operations: on a GPU each is a launch
// that attention waits for.
at::Tensor table_of(const at::Tensor& limit, const at::Tensor& start, const at::Tensor& rows,
                    const at::Tensor& first, const std::optional<at::Tensor>& least = {}) {
  const at::Tensor from = least ? at::maximum(start, *least) : start.clamp_min(0);
  const at::Tensor begin = at::minimum(from, limit);
  const at::Tensor end = at::maximum(begin, at::minimum(start + rows, limit));
  return at::stack({begin, end, first - start}, -1).transpose(0, 1).to(at::kInt).flatten(1);
}

}  // namespace

at::Tensor padded_sequences(c10::SymInt batch, c10::SymInt q_rows, c10::SymInt k_rows,
                            const SequencePlaces& places) {
  const char* const op = "padded_sequences";
  const at::Tensor* any = nullptr;
  for (const auto& [name, tensor] :
       {std::pair("k_lens", &places.k_lens), std::pair("q_start", &places.q_start),
        std::pair("k_start", &places.k_start), std::pair("k_first", &places.k_first),
        std::pair("k_end", &places.k_end)}) {
    if (!tensor->has_value()) continue;
    any = &**tensor;
    const bool alike = (*tensor)->dim() == 1 && (*tensor)->sym_size(0) == 1;
    check_places(op, name, **tensor, alike ? c10::SymInt(1) : batch);
  }
  LACE_CHECK(any != nullptr, "[", op,
             "] needs k_lens, q_start, k_start, k_first or k_end, got none");
  const at::Tensor zero = at::zeros_symint({batch}, any->options().dtype(at::kLong));
  const at::Tensor q_count = zero.add(at::Scalar(q_rows)), k_count = zero.add(at::Scalar(k_rows));
  const at::Tensor k_start = places.k_start ? zero + *places.k_start : zero;
  const at::Tensor k_stop = k_start + k_count;
  const at::Tensor q_start = places.q_start ? zero + *places.q_start : k_stop - q_count;
  const at::Tensor length = (places.k_lens ? at::minimum(zero + *places.k_lens, k_stop) : k_stop);
  at::Tensor end = length.clamp_min(0);
  if (places.k_end) {
    end = at::stack({end, at::minimum(end, (zero + *places.k_end).clamp_min(0))});
  }
  std::optional<at::Tensor> least;
  if (places.k_first) least = at::stack({zero, (zero + *places.k_first).clamp_min(0)});
  return table_of(end, at::stack({q_start, k_start}), at::stack({q_count, k_count}), zero, least);
}

at::Tensor packed_sequences(const at::Tensor& cu_seqlens_q, const at::Tensor& cu_seqlens_k,
                            const std::optional<at::Tensor>& q_start) {
  const char* const op = "packed_sequences";
  LACE_CHECK(cu_seqlens_q.dim() == 1 && cu_seqlens_q.sym_size(0) >= 1, "[", op,
             "] cu_seqlens_q must have the shape [sequences + 1], got ", cu_seqlens_q.sym_sizes());
  const c10::SymInt size = cu_seqlens_q.sym_size(0);
  check_places(op, "cu_seqlens_q", cu_seqlens_q, size);
  check_places(op, "cu_seqlens_k", cu_seqlens_k, size);
  if (q_start) check_places(op, "q_start", *q_start, size - 1);
  const auto firsts_of = [&](const at::Tensor& cu) { return cu.slice_symint(-1, 0, size - 1); };
  if (!q_start && cu_seqlens_k.is_same(cu_seqlens_q)) {
    // On a CPU, where attention checks the table, without overflow.
    const at::Tensor cu = cu_seqlens_q.is_cpu() ? cu_seqlens_q.to(at::kLong) : cu_seqlens_q;
    const at::Tensor first = firsts_of(cu), rows = (cu.slice(0, 1) - first).clamp_min(0);
    const at::Tensor zero = at::zeros_like(rows);
    return at::stack({zero, rows, first, zero, rows, first}, 1).to(at::kInt);
  }
  const at::Tensor cu = at::stack({cu_seqlens_q.to(at::kLong), cu_seqlens_k.to(at::kLong)});
  const at::Tensor first = firsts_of(cu), rows = cu.slice(1, 1) - first;
  const at::Tensor q_rows = rows.select(0, 0), k_rows = rows.select(0, 1);
  const at::Tensor start = q_start ? q_start->to(at::kLong) : k_rows - q_rows;
  return table_of(k_rows, at::stack({start, at::zeros_like(start)}), rows, first);
}

namespace ops {

namespace {

// The longest sequence of a table on a CPU.
int64_t longest(const AttentionShape& shape, const Sequence* sequences) {
  int64_t length = 1;
  for (int64_t s = 0; s < shape.batch; ++s) {
    length = std::max<int64_t>({length, sequences[s].q.end, sequences[s].k.end});
  }
  return length;
}

}  // namespace

const Sequence* sequences_of(const at::Tensor& table) {
  return table.defined() ? static_cast<const Sequence*>(table.data_ptr()) : nullptr;
}

void check_sequences(const char* op, const AttentionShape& shape, const at::Tensor& table) {
  LACE_CHECK(table.scalar_type() == at::kInt && table.is_contiguous() &&
                 table.sizes() == at::IntArrayRef({shape.batch, 6}),
             "[", op, "] sequences must be what padded_sequences or packed_sequences returned for ",
             shape.batch, " of them, got ", table.scalar_type(), " of the shape ", table.sizes());
  if (!table.is_cpu()) return;
  const Sequence* sequences = sequences_of(table);
  const auto check = [&](const char* name, int64_t s, const Extent& extent, int64_t rows,
                         int64_t& last) {
    if (!shape.packed) last = 0;
    if (extent.begin == extent.end) return;
    const int64_t first = int64_t{extent.begin} + extent.row,
                  end = int64_t{extent.end} + extent.row;
    LACE_CHECK(0 <= extent.begin && extent.begin < extent.end && last <= first && end <= rows, "[",
               op, "] sequence ", s, " must lie in the ", rows, " rows of ", name,
               shape.packed ? ", behind the one before" : "", ", got rows ", first, " to ",
               end - 1);
    last = end;
  };
  int64_t last_q = 0, last_k = 0;
  for (int64_t s = 0; s < shape.batch; ++s) {
    check("q", s, sequences[s].q, shape.q_len, last_q);
    check("k", s, sequences[s].k, shape.k_len, last_k);
  }
}

int64_t plan_length(const char* op, const AttentionShape& shape, const at::Tensor& table,
                    std::optional<int64_t> max_len) {
  LACE_CHECK(!max_len || *max_len >= 1, "[", op, "] max_len must be positive, got ",
             max_len.value_or(0));
  const int64_t length = max_len          ? *max_len
                         : table.is_cpu() ? longest(shape, sequences_of(table))
                                          : std::max<int64_t>(shape.k_len, 1);
  // Eighths of powers of two.
  const int width = std::bit_width(static_cast<uint64_t>(length - 1));
  const int64_t step = std::max<int64_t>(16, int64_t{1} << std::max(width - 4, 0));
  return (length + step - 1) / step * step;
}

}  // namespace ops

}  // namespace lace
