#pragma once

#include <cstdint>

namespace lace::distributed {

// A micro-batch of a training step.
struct MicroBatch {
  int64_t index = 0;         // among those of all ranks in the step: dropout masks depend on it
  int64_t first_window = 0;  // of its `batch` windows in a row, in the sampler's order
};

// How a step's micro-batches are shared out: of the size · accumulate of them, rank r takes
// `accumulate` in a row, beginning with r · accumulate. Together the ranks take the windows, and
// draw the dropout masks, of one rank that accumulates size · accumulate of them, each once.
class StepShares {
 public:
  // batch, accumulate ≥ 1 and 0 ≤ rank < size; else throws lace::Error.
  StepShares(int64_t batch, int64_t accumulate, int rank = 0, int size = 1);

  int64_t micro_batches() const { return accumulate_ * size_; }  // of a step, over all ranks
  int64_t windows() const { return micro_batches() * batch_; }   // of a step, over all ranks

  // The rank's micro-batch number `i`, 0 ≤ i < accumulate, of a step before which the run has taken
  // `windows_taken` windows.
  MicroBatch micro_batch(int64_t windows_taken, int64_t i) const;

 private:
  int64_t batch_, accumulate_;
  int rank_, size_;
};

// [begin, end)
struct Range {
  int64_t begin = 0, end = 0;
};

// Optimiser states divided over ranks (ZeRO-1: Rajbhandari et al., arXiv:1910.02054, section 5.1):
// which elements of a flat arena of `elements` are rank's. Ranges follow each other in the order of
// the ranks, begin at multiples of kStateAlignment, and are of one length, but that the last rank
// also has what is left, less than size · kStateAlignment. Throws lace::Error unless elements ≥ 0
// and 0 ≤ rank < size.
Range state_range(int64_t elements, int rank, int size);
inline constexpr int64_t kStateAlignment = 64;

}  // namespace lace::distributed
