#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "lace/distributed.h"
#include "lace/model.h"
#include "lace/recipe.h"

#include "distributed/shares.h"

namespace lace::train {

// What a rank tells the others about a step; what all have told.
struct StepReport {
  double loss = 0;       // its part of the step's mean; their sum
  bool stop = false;     // it was asked to stop; one was
  double elapsed_s = 0;  // of training; rank 0's
};

// The processes that train together, as the trainer of one of them needs them. Without a group: one
// process, for which nothing is exchanged. Otherwise sum and all that stands below it are
// collectives.
class Ranks {
 public:
  Ranks(Group* group, const TrainConfig& config)
      : group_(group),
        shares_(config.batch, config.accumulate, rank(), size()),
        divides_state_(config.shard_optimizer && size() > 1) {}

  int rank() const { return group_ ? group_->rank() : 0; }
  int size() const { return group_ ? group_->size() : 1; }
  const distributed::StepShares& shares() const { return shares_; }
  // Throws lace::Error if a rank has failed.
  void check() const {
    if (group_) group_->check();
  }
  // Is the `index`-th of some equal pieces of work this rank's?
  bool has(int64_t index) const { return index % size() == rank(); }

  // A report as numbers whose sums over all ranks are what all have told.
  enum ReportNumber { kLoss, kStop, kElapsed, kReportNumbers };
  using ReportNumbers = std::array<double, kReportNumbers>;
  ReportNumbers report_numbers(const StepReport& own) const {
    return {own.loss, own.stop ? 1.0 : 0.0, rank() == 0 ? own.elapsed_s : 0.0};
  }
  static StepReport to_report(const ReportNumbers& sums) {
    return {sums[kLoss], sums[kStop] > 0, sums[kElapsed]};
  }

  // tensor = the sum of all ranks'. On a GPU enqueues.
  void sum(const at::Tensor& tensor) const {
    if (group_) group_->all_reduce_sum(tensor);
  }

  // Numbers of which each rank has those that has() says and 0 for the others: all of them,
  // exactly.
  std::vector<double> join(const std::vector<double>& own) const;

  // tensors and numbers = rank 0's.
  void share(const std::vector<NamedParameter>& tensors, std::vector<double>& numbers) const;

  // Whether of each of the optimiser's arrays, a number an element of the model's arena of n, a
  // rank keeps its share alone; else all of it.
  bool divides_state() const { return divides_state_; }
  distributed::Range state_share(int64_t n) const { return state_share(n, rank()); }
  // Where the state is divided, else these do nothing, or are not called. On a GPU they enqueue.
  // whole [n]: each rank's share of it = that rank's.
  void gather(const at::Tensor& whole) const;
  // Rank 0's result: elements `range` of the array of n of which each rank has `share`. The others'
  // can be anything.
  at::Tensor collect(const at::Tensor& share, int64_t n, const distributed::Range& range) const;
  // The way back: `share` = this rank's part of elements `range`, which are rank 0's `values`.
  void deal(const at::Tensor& values, const at::Tensor& share, int64_t n,
            const distributed::Range& range) const;
  // Waits until `tensor` is there. Throws lace::Error if a rank has failed.
  void wait(const at::Tensor& tensor) const;

  // Throws lace::Error on all ranks unless `text` is the same on all.
  void check_same(const std::string& what, const std::string& text) const {
    if (group_) group_->check_same(what, text);
  }

 private:
  distributed::Range state_share(int64_t n, int rank) const {
    return divides_state_ ? distributed::state_range(n, rank, size()) : distributed::Range{0, n};
  }

  Group* group_;
  distributed::StepShares shares_;
  bool divides_state_;
};

}  // namespace lace::train
