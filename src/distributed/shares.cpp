#include "distributed/shares.h"

#include "lace/error.h"

namespace lace::distributed {
namespace {

void check_rank(int rank, int size) {
  LACE_CHECK(rank >= 0 && rank < size, "[distributed] a rank is at least 0 and below their number ",
             size, ", got ", rank);
}

}  // namespace

StepShares::StepShares(int64_t batch, int64_t accumulate, int rank, int size)
    : batch_(batch), accumulate_(accumulate), rank_(rank), size_(size) {
  LACE_CHECK(batch >= 1 && accumulate >= 1,
             "[distributed] a step needs at least 1 micro-batch of 1 window, got ", accumulate,
             " of ", batch);
  check_rank(rank, size);
}

MicroBatch StepShares::micro_batch(int64_t windows_taken, int64_t i) const {
  LACE_CHECK(i >= 0 && i < accumulate_, "[distributed] a rank has the micro-batches 0 to ",
             accumulate_ - 1, ", got ", i);
  const int64_t index = rank_ * accumulate_ + i;
  return {index, windows_taken + index * batch_};
}

Range state_range(int64_t elements, int rank, int size) {
  LACE_CHECK(elements >= 0, "[distributed] an arena has at least 0 elements, got ", elements);
  check_rank(rank, size);
  const int64_t share = elements / kStateAlignment / size * kStateAlignment;
  return {rank * share, rank + 1 < size ? (rank + 1) * share : elements};
}

}  // namespace lace::distributed
