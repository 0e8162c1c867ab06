// A tiny Sparse Transformer, trained through the API on lines that repeat, then continued.

#include "lace/model.h"

#include <iostream>
#include <string>

#include <torch/torch.h>

int main() {
  const std::string line = "sparse attention reads far and pays little. ";
  const int64_t seq_len = 128, batch = 8;
  std::string text;
  while (text.size() < 4096) text += line;
  const auto bytes = torch::from_blob(text.data(), {static_cast<int64_t>(text.size())}, at::kByte);

  lace::ModelConfig config;
  config.seq_len = seq_len;
  config.layers = 2;
  config.d_model = 64;
  config.heads = 2;
  config.patterns = {"local(16) | strided(16)"};
  config.embedding_gain = 4;
  const lace::SparseTransformer model(config);

  std::vector<at::Tensor> parameters;
  for (const auto& parameter : model.parameters()) parameters.push_back(parameter.tensor);
  torch::optim::Adam adam(parameters, torch::optim::AdamOptions(3e-3));
  double nats = 0;
  for (int step = 0; step < 100; ++step) {
    std::vector<at::Tensor> windows;
    for (int64_t b = 0; b < batch; ++b) {
      windows.push_back(bytes.narrow(0, (step * batch + b) * 37 % (4096 - seq_len), seq_len));
    }
    const auto loss = model.loss(torch::stack(windows), {.training = true, .step = step});
    adam.zero_grad();
    loss.backward();
    adam.step();
    nats = loss.item<double>();
    if (step % 20 == 0) std::cout << "step " << step << ": " << nats / std::log(2) << " bits\n";
  }

  // Continue the line greedily, one byte at a time, from a key/value cache.
  torch::NoGradGuard no_grad;
  const auto state = model.start_decoding(1);
  auto next = model.decode(*state, bytes.narrow(0, 0, 44).unsqueeze(0)).argmax(-1, true);
  std::cout << line << "| ";
  for (int i = 0; i < 44; ++i) {
    std::cout << static_cast<char>(next.item<int64_t>());
    next = model.decode(*state, next).argmax(-1, true);
  }
  std::cout << "\n";
  return nats / std::log(2) < 2.5 ? 0 : 1;
}
