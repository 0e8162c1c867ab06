// Attention on tensors: one call with a pattern instead of a mask, its gradients, its log-sum-exp.

#include "lace/attention.h"

#include <iostream>

#include <torch/torch.h>

int main() {
  torch::manual_seed(0);
  const int64_t batch = 1, heads = 4, seq_len = 1024, head_dim = 32;

  // A layer's fused projection, [batch, seq_len, 3, heads, head_dim]: its parts go in as they lie.
  const auto fused = torch::randn({batch, seq_len, 3, heads, head_dim}).requires_grad_();
  const auto parts = fused.unbind(2);
  const auto q = parts[0].transpose(1, 2);  // [batch, heads, seq_len, head_dim]
  const auto k = parts[1].transpose(1, 2);
  const auto v = parts[2].transpose(1, 2);

  // Each query sees the 32 keys before it and every 32nd key further back.
  const auto pattern = lace::local(32) | lace::strided(32);
  const auto [out, lse] = lace::attention_with_lse(q, k, v, pattern);
  out.square().mean().backward();

  // The same by PyTorch, with a mask of seq_len × seq_len.
  const auto i = torch::arange(seq_len).unsqueeze(1), j = torch::arange(seq_len).unsqueeze(0);
  const auto mask = (j <= i) & ((i - j < 32) | ((i - j) % 32 == 0));
  const auto expected = torch::scaled_dot_product_attention(q, k, v, mask);

  std::cout << "pattern            " << pattern.to_string() << "\n"
            << "kernel             " << lace::attention_kernel(q, k, v) << "\n"
            << "out                " << out.sizes() << "\n"
            << "lse of the last    " << lse[0][0][seq_len - 1].item<float>() << "\n"
            << "gradient's norm    " << fused.grad().norm().item<float>() << "\n"
            << "error to PyTorch's " << (out - expected).abs().max().item<float>() << "\n";
  return (out - expected).abs().max().item<float>() < 1e-4 ? 0 : 1;
}
