#pragma once

#include <cstdint>
#include <vector>

#include "lace/model.h"
#include "lace/recipe.h"

namespace lace::train {

// Adam as the Sparse Transformer's authors have it. With g the gradient, clipped to a global norm
// of clip_norm, t counted from 1:
//   m ← β₁ m + (1 − β₁) g,  v ← β₂ v + (1 − β₂) g²
//   lr_t = lr · √(1 − β₂ᵗ) / (1 − β₁ᵗ)
//   p ← p − lr_t · (m / (√v + ε) + wd · p),  wd for tensors of rank 2 and more only
//   ema ← decay · ema + (1 − decay) · p, where asked for
// All in the parameters' dtype (float32, or float64), in place. On a CPU: two reads of the
// gradients and one pass over everything else; threads share fixed chunks, so results do not depend
// on their number. On a GPU: libtorch's operations on lists of tensors.
class Adam {
 public:
  // The parameters must be contiguous float32 or float64 tensors on one device.
  Adam(const OptimizerConfig& config, std::vector<NamedParameter> parameters);

  // √Σ g² / scale over all gradients; not finite if any element is not. Every parameter must have
  // a gradient.
  double gradient_norm(double scale = 1) const;

  // One update from the gradients divided by `scale`, whose norm is gradient_norm(scale); then
  // the gradients are dropped.
  void step(double learning_rate, double norm, double scale = 1);

  // Sets the elements of the gradients that are not finite to 0.
  void zero_non_finite();

  // State to be saved: "m.<parameter>", "v.<parameter>", and "ema.<parameter>" where kept. The
  // tensors share memory with this object.
  std::vector<NamedParameter> state() const;

  const std::vector<at::Tensor>& ema() const { return ema_; }  // empty where not kept

  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }

 private:
  struct Chunk {
    size_t tensor;
    int64_t begin, end;
  };

  std::vector<at::Tensor> contiguous_gradients() const;
  // The learning rate with the corrections of both means' start.
  double corrected(double learning_rate) const;
  template <typename Scalar>
  void update(double learning_rate, double gradient_factor);

  OptimizerConfig config_;
  std::vector<NamedParameter> parameters_;
  std::vector<at::Tensor> m_, v_, ema_;
  std::vector<Chunk> chunks_;
  int64_t steps_ = 0;
};

}  // namespace lace::train
