#pragma once

#include <cstdint>
#include <vector>

#include "lace/distributed.h"
#include "lace/model.h"
#include "lace/recipe.h"

#include "distributed/shares.h"

namespace lace::train {

// What the ranks of a run tell each other about a step.
struct StepReport {
  double loss = 0;       // the rank's part of the step's mean
  bool stop = false;     // the rank was asked to stop
  double elapsed_s = 0;  // of training
};

// The processes that train together, as the trainer of one of them needs them. Without a group: one
// process, for which nothing is exchanged. Otherwise all functions but the first five are
// collectives.
class Ranks {
 public:
  Ranks(Group* group, const TrainConfig& config)
      : group_(group), shares_(config.batch, config.accumulate, rank(), size()) {}

  int rank() const { return group_ ? group_->rank() : 0; }
  int size() const { return group_ ? group_->size() : 1; }
  const distributed::StepShares& shares() const { return shares_; }
  // Throws lace::Error if a rank has failed.
  void check() const {
    if (group_) group_->check();
  }
  // Is the `index`-th of some equal pieces of work this rank's?
  bool has(int64_t index) const { return index % size() == rank(); }

  // tensor = the sum of all ranks'.
  void sum(const at::Tensor& tensor) const {
    if (group_) group_->all_reduce_sum(tensor);
  }

  // The sum of the losses, whether any is to stop, and rank 0's time.
  StepReport agree(const StepReport& own) const;

  // Numbers of which each rank has those that has() says and 0 for the others: all of them,
  // exactly.
  std::vector<double> join(const std::vector<double>& own) const;

  // tensors and numbers = rank 0's.
  void share(const std::vector<NamedParameter>& tensors, std::vector<double>& numbers) const;

  // Throws lace::Error on all ranks unless `text` is the same on all.
  void check_same(const std::string& what, const std::string& text) const {
    if (group_) group_->check_same(what, text);
  }

  // Returns when all ranks have called it.
  void barrier() const {
    if (group_) group_->barrier();
  }

 private:
  Group* group_;
  distributed::StepShares shares_;
};

}  // namespace lace::train
