#pragma once

#include "kernels/elementwise/elementwise.h"

namespace lace::cpu {

// The functions of the table for a range of rows of their matrices; calls on different rows may
// run at once. Two implementations: `vectors`, for float32, bfloat16 and float16 and columns (of
// half a head, in rotate) in multiples of kVectorColumns, and `plain`, for everything.
//
// `sums` hold `columns` wide numbers each, to which the rows' sums are added, in the order of the
// ColumnSums in the arguments.

constexpr int64_t kVectorColumns = 16;

struct RowRange {
  int64_t begin, end;
};

constexpr int kMaxSums = 3;
struct RowSums {
  void* data[kMaxSums];
};

// Slots [begin, end) of all sequences, or columns [begin, end) of the tables' gradients, which are
// added to what is there.
struct RowFunctions {
  void (*norm)(const NormArgs&, RowRange);
  void (*norm_grad)(const NormGradArgs&, RowRange, const RowSums&);
  void (*gelu)(const GeluArgs&, RowRange);
  void (*gelu_grad)(const GeluGradArgs&, RowRange, const RowSums&);
  void (*column_sum)(const ColumnSumArgs&, RowRange, const RowSums&);
  void (*rotate)(const RotateArgs&, RowRange);
  void (*cross_entropy)(const CrossEntropyArgs&, RowRange);
  void (*cross_entropy_grad)(const CrossEntropyGradArgs&, RowRange);
  void (*embedding)(const EmbeddingArgs&, RowRange slots);
  void (*embedding_grad)(const EmbeddingGradArgs&, RowRange columns);
};

extern const RowFunctions kVectors, kPlain;

}  // namespace lace::cpu
