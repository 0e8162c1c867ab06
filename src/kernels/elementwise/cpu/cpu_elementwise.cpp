#include "kernels/elementwise/cpu/cpu_elementwise.h"

#include <algorithm>
#include <cstring>
#include <initializer_list>

#include "kernels/elementwise/cpu/adam.h"
#include "kernels/elementwise/cpu/rows.h"

namespace lace::cpu {

namespace {

// Rows are cut into at most this many chunks, each with sums of its own.
constexpr int64_t kChunks = 64;
constexpr int64_t kMinRows = 16;

int64_t chunk_count(int64_t rows) { return std::clamp<int64_t>(rows / kMinRows, 1, kChunks); }

const RowFunctions& functions(int64_t columns, DType compute) {
  const bool vectors = columns % kVectorColumns == 0 && compute != DType::kFloat64;
  return vectors ? kVectors : kPlain;
}
const RowFunctions& functions(const Elements& elements) {
  return functions(elements.columns, elements.compute);
}

// body(rows, chunk) on all threads.
template <typename Body>
void for_chunks(const Context& context, int64_t rows, Body body) {
  const int64_t chunks = chunk_count(rows);
  run_tasks(*context.executor, chunks, [&](int64_t chunk, int) {
    body(RowRange{rows * chunk / chunks, rows * (chunk + 1) / chunks}, chunk);
  });
}

template <typename Args>
void for_rows(const Context& context, const Args& args, void (*function)(const Args&, RowRange)) {
  for_chunks(context, args.elements.rows, [&](RowRange rows, int64_t) { function(args, rows); });
}

template <typename W>
void add_parts(const W* parts, int64_t chunks, int64_t chunk_stride, int64_t columns,
               const ColumnSum& sum) {
  W* to = static_cast<W*>(sum.data);
  if (!sum.add) std::fill_n(to, columns, W{0});
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    for (int64_t c = 0; c < columns; ++c) to[c] += parts[chunk * chunk_stride + c];
  }
}

// As for_rows, where the function also sums over the rows: the chunks' sums are added in order.
template <typename Args>
void with_sums(const Context& context, const Args& args,
               void (*function)(const Args&, RowRange, const RowSums&),
               std::initializer_list<ColumnSum> sums) {
  const int64_t rows = args.elements.rows, columns = args.elements.columns;
  const auto count = static_cast<int64_t>(sums.size());
  const int64_t width = size_bytes(wide_type(args.elements.compute));
  const int64_t sum_bytes = columns * width, chunk_bytes = count * sum_bytes;
  const Workspace parts = context.allocate(static_cast<size_t>(chunk_count(rows) * chunk_bytes));
  for_chunks(context, rows, [&](RowRange range, int64_t chunk) {
    std::byte* own = parts.get() + chunk * chunk_bytes;
    std::memset(own, 0, static_cast<size_t>(chunk_bytes));
    RowSums pointers{};
    for (int64_t i = 0; i < count; ++i) pointers.data[i] = own + i * sum_bytes;
    function(args, range, pointers);
  });
  int64_t i = 0;
  for (const ColumnSum& sum : sums) {
    const std::byte* first = parts.get() + i++ * sum_bytes;
    if (sum.data == nullptr) continue;
    if (width == sizeof(float)) {
      add_parts(reinterpret_cast<const float*>(first), chunk_count(rows), count * columns, columns,
                sum);
    } else {
      add_parts(reinterpret_cast<const double*>(first), chunk_count(rows), count * columns, columns,
                sum);
    }
  }
}

void embedding(const Context& context, const EmbeddingArgs& args) {
  const EmbeddingShape& shape = args.shape;
  for_chunks(context, shape.batch * shape.n, [&](RowRange slots, int64_t) {
    functions(shape.columns, shape.residual).embedding(args, slots);
  });
}

// Each task has columns of its own, so that rows are added in one order.
void embedding_grad(const Context& context, const EmbeddingGradArgs& args) {
  const EmbeddingShape& shape = args.shape;
  if (!args.add) {
    const int64_t row_bytes = shape.columns * size_bytes(shape.wide);
    const auto clear = [&](void* table, int64_t rows) {
      std::memset(table, 0, static_cast<size_t>(rows * row_bytes));
    };
    clear(args.tok, shape.vocab);
    clear(args.sos, 1);
    for (int p = 0; p < shape.parts; ++p) clear(args.pos[p], shape.position_rows[p]);
  }
  constexpr int64_t kColumns = 4 * kVectorColumns;
  run_tasks(*context.executor, (shape.columns + kColumns - 1) / kColumns, [&](int64_t task, int) {
    const RowRange columns{task * kColumns, std::min(shape.columns, (task + 1) * kColumns)};
    functions(shape.columns, shape.residual).embedding_grad(args, columns);
  });
}

}  // namespace

const ElementwiseKernels kElementwise = {
    .name = "cpu",
    .norm = [](const Context& c, const NormArgs& a) { for_rows(c, a, functions(a.elements).norm); },
    .norm_grad =
        [](const Context& c, const NormGradArgs& a) {
          with_sums(c, a, functions(a.elements).norm_grad,
                    {a.weight_sum, a.bias_sum, a.branch_sum});
        },
    .gelu = [](const Context& c, const GeluArgs& a) { for_rows(c, a, functions(a.elements).gelu); },
    .gelu_grad =
        [](const Context& c, const GeluGradArgs& a) {
          with_sums(c, a, functions(a.elements).gelu_grad, {a.sum});
        },
    .column_sum =
        [](const Context& c, const ColumnSumArgs& a) {
          with_sums(c, a, functions(a.elements).column_sum, {a.sum});
        },
    .rotate =
        [](const Context& c, const RotateArgs& a) {
          for_rows(c, a, functions(a.head_dim / 2, a.elements.compute).rotate);
        },
    .cross_entropy =
        [](const Context& c, const CrossEntropyArgs& a) {
          for_rows(c, a, functions(a.elements).cross_entropy);
        },
    .cross_entropy_grad =
        [](const Context& c, const CrossEntropyGradArgs& a) {
          for_rows(c, a, functions(a.elements).cross_entropy_grad);
        },
    .embedding = embedding,
    .embedding_grad = embedding_grad,
    .adam_norm = adam_norm,
    .adam_step = adam_step,
};

}  // namespace lace::cpu
