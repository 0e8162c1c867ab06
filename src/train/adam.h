#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lace/model.h"
#include "lace/recipe.h"

#include "kernels/elementwise/elementwise.h"
#include "model/pass.h"
#include "train/ranks.h"

namespace lace::train {

// The loss scale of fp16 runs, as the paper's authors have it: starts at 2¹⁶, grows by 1.0003466
// (twice in 2000) a good step, halves at a step with gradients that are not finite, never below
// 2¹⁰. Other precisions have none.
constexpr double kLossScaleStart = 65536;
LossScaling loss_scaling(Precision precision);

// Adam as the Sparse Transformer's authors have it, in one pass over an arena of parameters and
// their gradients (kernels/elementwise/elementwise.h has the formulas). With t counted from 1, its
// rate is lr · √(1 − β₂ᵗ) / (1 − β₁ᵗ); tensors of rank 2 and more decay.
//
// Of several ranks that divide its state (ZeRO-1: Rajbhandari et al., arXiv:1910.02054, section
// 5.1) each keeps m, v and the mean of its share of the elements alone, updates that, and gets the
// other values from the others: no bit of them is another.
//
// Nothing that a step calls waits for the device: what a step found is in state(), on the device,
// once it has come there.
class Adam {
 public:
  // `arena` must outlive this object.
  Adam(const OptimizerConfig& config, model::ParameterArena& arena, Precision precision,
       const Ranks& ranks = Ranks(nullptr, {}));

  // Where backward passes put the gradients that run() takes: times loss_scale() if scaled.
  const at::Tensor& gradients() const { return gradients_; }  // wide [arena.size()]
  model::Gradients gradients_into(bool add) const { return {gradient_views_, add, {}}; }
  // What a loss is to be multiplied by before its backward pass: float64 [], on the device.
  const at::Tensor& loss_scale() const { return loss_scale_; }

  // The rate of the next run(): float64 [1] on the device, to be set to next_rate().
  const at::Tensor& rate() const { return rate_; }
  double next_rate(double learning_rate) const;

  // Norm, clipping and update from gradients(). Where they are not finite and there is no loss
  // scaling, this and all later runs change nothing until clear_failure(). A collective where the
  // state is divided.
  void run();
  // Tells the arena and the count of steps that a run was asked for.
  void advance();

  // The bytes of a StepState, on the device.
  const at::Tensor& state() const { return state_; }
  void clear_failure();
  void set_loss_scale(double scale);

  // To be saved: "m.<parameter>", "v.<parameter>", and "ema.<parameter>" where kept. The tensors
  // share memory with this object. Where the state is divided they are names, shapes and dtypes
  // alone (libtorch's meta device), and these are the collectives to have them with, one by one:
  std::vector<NamedParameter> saved() const;
  // Rank 0's result is saved()[index], once the device has it; the others' can be anything.
  at::Tensor collect(size_t index) const;
  // saved()[index] = rank 0's `whole`; the others' is not read.
  void deal(size_t index, const at::Tensor& whole);

  // What is kept of each element, and what its tensors' names begin with: saved() has these of the
  // first parameter, then those of the next.
  struct Array {
    std::string prefix;
    at::Tensor own;  // of the share, in the arena's layout if that is all of it
  };
  std::vector<Array> arrays() const;

  // The mean of the weights, by parameter; empty where not kept. A collective where the state is
  // divided, which waits for the device.
  std::vector<at::Tensor> ema() const;

  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }

 private:
  AdamArgs arguments() const;                        // those that adam_norm takes
  distributed::Range place(size_t parameter) const;  // in the arena

  OptimizerConfig config_;
  model::ParameterArena& arena_;
  const Ranks ranks_;
  const distributed::Range share_;  // of the arena
  LossScaling scaling_;
  at::Tensor gradients_, m_, v_, ema_;  // the first of the whole arena, the others of the share
  std::vector<at::Tensor> gradient_views_;
  at::Tensor rate_, state_, loss_scale_;
  int64_t steps_ = 0;
};

}  // namespace lace::train
