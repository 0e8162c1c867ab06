#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "lace/model.h"
#include "lace/recipe.h"

#include "ops/device_queue.h"
#include "train/adam.h"
#include "train/gradient_buckets.h"
#include "train/ranks.h"

namespace lace::train {

// What a step found.
struct StepNumbers {
  StepReport report;  // its loss: mean nats a symbol
  StepState state;
};

// Gives a device its training steps: forward and backward passes over the micro-batches, then the
// optimiser. On a GPU the host runs ahead: steps are asked for before the numbers of the one before
// are known, the bytes of the next step are copied while it computes, and from the second step on
// all of a step's work is a replay of recorded graphs.
class StepRunner {
 public:
  // Puts the bytes of a step, this rank's, where they belong: [accumulate, batch, seq_len].
  using ReadStep = std::function<void(int64_t step, std::span<uint8_t> bytes)>;

  // `model`, `adam` and `ranks` must outlive this object.
  StepRunner(const Recipe& recipe, const SparseTransformer& model, Adam& adam, const Ranks& ranks,
             ReadStep read);

  // Asks for one step. Throws before anything has changed where its bytes cannot be read or are
  // not symbols of the model. `report` is what this rank has to say, but for the loss.
  void start(int64_t step, double learning_rate, const StepReport& report);
  // Waits for the oldest step whose numbers have not been given yet, and gives them. Throws if a
  // rank has failed: on a GPU the weights may then be anything.
  StepNumbers finish();
  // Reads the bytes of the step after the newest in flight, if there is one, while it computes; at
  // most one step may be in flight. What goes wrong is left for start() to meet again.
  void prepare_next();

  // Forgets what was prepared, and the numbers of steps in flight, once the device is done with
  // them.
  void reset();

  // While the result lives, work of this thread stands in the queue of the steps, behind copies to
  // the host: it may change weights.
  std::shared_ptr<void> enter() {
    auto scope = queue_->enter();
    queue_->hold_for_downloads();
    return scope;
  }

  // Memory of the host for download(), of the dtype and length of `array`.
  at::Tensor host_array(const at::Tensor& array);
  // to ← from for each pair, as the steps that were started so far leave `from`, which only
  // optimiser steps may change: those that come later wait for it, while the passes before them do
  // not. The result's wait() says when `to` is there, to any thread.
  struct Copy {
    at::Tensor to, from;
  };
  std::unique_ptr<ops::DeviceQueue::Mark> download(const std::vector<Copy>& copies);

 private:
  // What goes to the device with a step, and comes back: [tokens | keys] and [given | numbers].
  struct Slot {
    at::Tensor host, device;      // uint8: tokens, then keys, of all micro-batches
    at::Tensor given;             // of the host, the bytes of the rate and of a report
    at::Tensor numbers;           // of the host, the bytes of a StepState and of a report
    std::optional<int64_t> step;  // whose bytes it holds
    std::unique_ptr<ops::DeviceQueue::Mark> done;
  };

  Slot& slot(int64_t step) { return slots_[static_cast<size_t>(step) % slots_.size()]; }
  void prepare(int64_t step);
  // Sends the rate and what this rank has to say to the device.
  void give(Slot& slot, double rate, const Ranks::ReportNumbers& given);
  // Has what the step found brought back, and marks its end.
  void take_numbers(Slot& slot);
  void run_micro_batch(int64_t index);
  // Of this rank's micro-batches the last: while it goes backwards the gradients are added up.
  bool is_exchanged(int64_t index) const;
  void exchange(const std::vector<distributed::Range>& ranges);
  void run_or_record(int kind, FunctionRef<void()> work);

  const Recipe& recipe_;
  const SparseTransformer& model_;
  Adam& adam_;
  const Ranks& ranks_;
  ReadStep read_;
  const GradientBuckets buckets_;
  std::unique_ptr<ops::DeviceQueue> queue_;
  std::array<Slot, 2> slots_;
  at::Tensor tokens_, keys_;  // where the graphs look for them: uint8, int64
  at::Tensor report_;         // the same: float64, a StepReport as report_numbers() has it
  std::map<int, std::unique_ptr<ops::DeviceQueue::Graph>> graphs_;
  int64_t runs_ = 0;  // steps started
  std::deque<int64_t> in_flight_;
};

}  // namespace lace::train
