#include "train/attention_weights.h"

#include <array>
#include <cmath>
#include <vector>

#include "pattern/live_keys.h"

namespace lace::train {
namespace {

// Sums apart, which a compiler may put into vectors.
float dot(const float* a, const float* b, int64_t n) {
  constexpr int64_t kLanes = 16;
  std::array<float, kLanes> sums{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane)
      sums[static_cast<size_t>(lane)] += a[i + lane] * b[i + lane];
  float sum = 0;
  for (; i < n; ++i) sum += a[i] * b[i];
  for (const float part : sums) sum += part;
  return sum;
}

// add(j, w_ij) for each live key of a query.
template <typename Add>
void for_each_weight(const HeadRows& head, const BoundPattern& pattern, int64_t head_number,
                     int64_t query, const Add& add) {
  const float* q = head.q + query * head.head_dim;
  const float lse = head.lse[query];
  for (const pattern::KeyRun& run : pattern::live_keys(pattern, head_number, query)) {
    for (int64_t stretch = 0; stretch < run.count; ++stretch) {
      const int64_t begin = run.begin(stretch);
      for (int64_t key = begin; key < begin + run.width; ++key) {
        const float logit = head.scale * dot(q, head.k + key * head.head_dim, head.head_dim);
        add(key, std::exp(logit - lse));
      }
    }
  }
}

void add_to(double& cell, float weight) {
  if (std::isnan(cell)) cell = 0;
  cell += weight;
}

}  // namespace

void add_weights(const HeadRows& head, const BoundPattern& pattern, int64_t head_number,
                 int64_t rows, int64_t columns, const Executor& executor, std::span<double> cells) {
  std::vector<int64_t> column_of(static_cast<size_t>(head.n));
  for (int64_t key = 0; key < head.n; ++key)
    column_of[static_cast<size_t>(key)] = key * columns / head.n;
  run_tasks(executor, rows, [&](int64_t row, int) {
    double* cells_of_row = cells.data() + row * columns;
    const int64_t end = first_of_row(row + 1, rows, head.n);
    for (int64_t query = first_of_row(row, rows, head.n); query < end; ++query) {
      for_each_weight(head, pattern, head_number, query, [&](int64_t key, float weight) {
        add_to(cells_of_row[column_of[static_cast<size_t>(key)]], weight);
      });
    }
  });
}

void add_query_weights(const HeadRows& head, const BoundPattern& pattern, int64_t head_number,
                       int64_t query, std::span<double> cells) {
  for_each_weight(head, pattern, head_number, query, [&](int64_t key, float weight) {
    add_to(cells[static_cast<size_t>(key)], weight);
  });
}

}  // namespace lace::train
