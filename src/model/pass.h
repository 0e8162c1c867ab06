#pragma once

#include <functional>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/transformer.h"

namespace lace::model {

// Where the gradients of all parameters go, in their order.
struct Gradients {
  std::vector<at::Tensor> tensors;  // wide, shaped as the parameters
  bool add = false;                 // to what is there, instead of in its place
  // Called when a layer's are complete, from the last layer to the first; may be empty.
  std::function<void(int64_t layer)> layer_done = {};

  Into into(size_t index) const { return {tensors[index], add}; }
};

// One pass of a model over a batch and back, written out without autograd. The parameters must stay
// as they are in between.
class Pass {
 public:
  // tokens: int64 [batch, n], checked. keys: int64 [layers, kDropoutBranches], the bits of
  // dropout_keys() on the model's device; undefined: nothing is dropped. `keep`: for a backward.
  Pass(std::shared_ptr<const SparseTransformer::Impl> model, const at::Tensor& tokens,
       const at::Tensor& keys, bool keep);

  // H_N, residual [batch · n, d_model].
  const at::Tensor& hidden() const { return hidden_; }

  // Nats of each symbol: wide [batch · n].
  at::Tensor nats();

  // Gradients of scale · factor · Σ nats(); `factor` as in cross_entropy_grad. Once, after nats().
  void nats_backward(double scale, const at::Tensor& factor, const Gradients& gradients);

  // The same for any function of LN_f(H_N): given its gradient, compute [batch · n, d_model],
  // without that of the output's weight.
  void backward(const at::Tensor& dy, const Gradients& gradients);

 private:
  BlockCall call(int64_t layer) const;

  std::shared_ptr<const SparseTransformer::Impl> model_;
  at::Tensor tokens_, keys_, hidden_;
  std::vector<at::Tensor> inputs_;             // of the blocks
  std::vector<BlockActivations> activations_;  // where blocks are recomputed, of attention alone
  Norm final_norm_;
  at::Tensor logits_, lse_;
};

// The mean of nats() over all symbols, and logits LN(H_N) W_outᵀ in wide [batch · n, vocab], as
// nodes of autograd whose backward throws if a parameter has changed since. Arguments as of Pass.
at::Tensor loss_node(std::shared_ptr<const SparseTransformer::Impl> model, const at::Tensor& tokens,
                     const at::Tensor& keys);
at::Tensor logits_node(std::shared_ptr<const SparseTransformer::Impl> model,
                       const at::Tensor& tokens, const at::Tensor& keys);

}  // namespace lace::model
