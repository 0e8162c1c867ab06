// Trains a given model on given tokens and writes what became of it: the C++ side of
// golden_model.py, which describes the files.
//
//   golden_driver FOLDER [DEVICE]
//
// FOLDER/recipe.toml holds the model and the optimiser; FOLDER/parameters.bin the start values of
// all parameters, in the order of FOLDER/names.txt; FOLDER/tokens.bin bytes [steps, batch,
// seq_len]. Writes FOLDER/losses.bin (float64 [steps]) and FOLDER/trained.bin (as parameters.bin).
//
//   golden_driver --logits RUN TOKENS OUT
//
// Writes the logits (float64 [batch, seq_len, vocab]) of a run's last checkpoint for the bytes
// [batch, seq_len] in the file TOKENS.

#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>

#include "lace/device.h"
#include "lace/model.h"
#include "lace/recipe.h"
#include "lace/train.h"

#include "train/adam.h"
#include "train/schedule.h"

namespace {

std::vector<char> read(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  LACE_CHECK(in.good(), "[golden] cannot read ", file);
  return {std::istreambuf_iterator<char>(in), {}};
}

size_t bytes_of(const at::Tensor& tensor) { return tensor.numel() * tensor.element_size(); }

void load_parameters(const lace::SparseTransformer& model, const std::string& folder) {
  const std::vector<char> bytes = read(folder + "/parameters.bin");
  std::ifstream names(folder + "/names.txt");
  size_t offset = 0;
  c10::NoGradGuard no_grad;
  for (const auto& [name, tensor] : model.parameters()) {
    std::string expected;
    LACE_CHECK(std::getline(names, expected) && expected == name, "[golden] parameter ", name,
               " stands where ", expected, " was expected");
    LACE_CHECK(offset + bytes_of(tensor) <= bytes.size(), "[golden] no values for ", name);
    tensor.copy_(at::from_blob(const_cast<char*>(bytes.data()) + offset, tensor.sizes(),
                               at::TensorOptions().dtype(tensor.scalar_type())));
    offset += bytes_of(tensor);
  }
  LACE_CHECK(offset == bytes.size(), "[golden] ", bytes.size() - offset, " bytes left over");
}

void run(const std::string& folder, at::Device device) {
  const lace::Recipe recipe = lace::load_recipe(folder + "/recipe.toml");
  const lace::SparseTransformer model(recipe.model, device);
  load_parameters(model, folder);
  std::vector<char> tokens = read(folder + "/tokens.bin");
  const int64_t batch = recipe.train.batch, n = recipe.model.seq_len;
  const int64_t steps = static_cast<int64_t>(tokens.size()) / (batch * n);

  auto& arena = model.impl()->arena;
  lace::train::Adam adam(recipe.optimizer, arena, recipe.model.precision);
  std::ofstream losses(folder + "/losses.bin", std::ios::binary);
  for (int64_t step = 0; step < steps; ++step) {
    const at::Tensor window =
        at::from_blob(tokens.data() + step * batch * n, {batch, n}, at::kByte).to(device);
    const at::Tensor loss = model.loss(window, {true, step, 0});
    loss.backward();
    const double rate = lace::train::learning_rate(recipe, {step, 0});
    c10::NoGradGuard no_grad;
    for (size_t i = 0; i < arena.parameters().size(); ++i) {
      const at::Tensor& parameter = arena.parameter(i);
      arena.view(adam.gradients(), i).copy_(parameter.grad());
      parameter.mutable_grad().reset();
    }
    adam.rate().fill_(adam.next_rate(rate));
    adam.run();
    adam.advance();
    const auto value = loss.item<double>();
    losses.write(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  std::ofstream trained(folder + "/trained.bin", std::ios::binary);
  for (const auto& [name, tensor] : model.parameters()) {
    const at::Tensor values = tensor.detach().cpu();
    trained.write(static_cast<const char*>(values.const_data_ptr()),
                  static_cast<std::streamsize>(bytes_of(values)));
  }
}

void write_logits(const std::string& folder, const std::string& tokens_file,
                  const std::string& out_file) {
  const lace::LoadedRun run = lace::load_run(folder, "last");
  std::vector<char> bytes = read(tokens_file);
  const at::Tensor tokens =
      at::from_blob(bytes.data(), {static_cast<int64_t>(bytes.size())}, at::kByte)
          .view({-1, run.recipe.model.seq_len});
  const at::Tensor logits = run.model->forward(tokens).detach().to(at::kDouble).contiguous();
  std::ofstream(out_file, std::ios::binary)
      .write(static_cast<const char*>(logits.const_data_ptr()),
             static_cast<std::streamsize>(bytes_of(logits)));
}

}  // namespace

int main(int argc, char** argv) {
  const bool logits = argc == 5 && std::string_view(argv[1]) == "--logits";
  if (!logits && argc != 2 && argc != 3) {
    std::cerr << "usage: golden_driver FOLDER [DEVICE] | --logits RUN TOKENS OUT\n";
    return 2;
  }
  try {
    if (logits) {
      write_logits(argv[2], argv[3], argv[4]);
    } else {
      run(argv[1], lace::find_device(argc == 3 ? argv[2] : "cpu"));
    }
  } catch (const std::exception& error) {
    std::cerr << "golden_driver: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
