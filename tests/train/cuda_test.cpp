// The model, its training and its sampling on a GPU, beside the same on the CPU.

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "lace/attention_maps.h"
#include "lace/generate.h"

#include "model/small_model.h"
#include "ops/device_profile.h"
#include "train/small_recipe.h"
#include "train/snapshot.h"
#include "train/step_parts.h"

namespace lace {
namespace {

class CudaTraining : public testing::Test {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "no GPU";
  }
};

Recipe gpu_recipe(Precision precision = Precision::kBFloat16) {
  Recipe recipe = small_recipe();
  recipe.model.precision = precision;
  recipe.model.dropout = 0.2;
  recipe.model.deterministic = true;
  recipe.optimizer.ema = 0.9;
  return recipe;
}

TEST_F(CudaTraining, LossAndGradientsAgreeWithTheCpu) {
  ModelConfig config = small_config();
  config.precision = Precision::kBFloat16;
  config.dropout = 0.3;
  for (const auto& [recompute, residual] : {std::pair(false, ResidualType::kWide),
                                            {true, ResidualType::kWide},
                                            {false, ResidualType::kCompute}}) {
    config.recompute = recompute;
    config.residual = residual;
    const SparseTransformer cpu(config), gpu(config, at::kCUDA);
    randomize_output(cpu);
    randomize_output(gpu);
    const PassMode mode{.training = true, .step = 3, .micro_batch = 1};
    const at::Tensor tokens = random_tokens(3, config.seq_len);
    const at::Tensor on_gpu = tokens.to(at::kCUDA);
    EXPECT_EQ(gpu.device().type(), at::kCUDA);
    // Other dropout masks would show: they change the loss by a few percent.
    EXPECT_NEAR(gpu.loss(on_gpu, mode).item<double>(), cpu.loss(tokens, mode).item<double>(), 5e-3);
    const auto got = gradients(gpu, on_gpu, mode), want = gradients(cpu, tokens, mode);
    for (size_t i = 0; i < want.size(); ++i) {
      EXPECT_TRUE(got[i].is_cuda());
      // The bias of k has no gradient but rounding's.
      EXPECT_LT((got[i].cpu() - want[i]).norm().item<double>(),
                4e-2 * want[i].norm().item<double>() + 1e-4)
          << cpu.parameters()[i].name;
    }
  }
}

TEST_F(CudaTraining, AttentionMapsAgreeWithTheCpu) {
  ModelConfig config = small_config();
  config.precision = Precision::kBFloat16;
  config.linear_gain = 2;
  const SparseTransformer cpu(config), gpu(config, at::kCUDA);
  const DataSplit split = small_data().train;
  const AttentionMapOptions how = {.size = 16, .queries = {37}, .windows = 3, .batch = 2};
  const AttentionMaps want = attention_maps(cpu, split, how), got = attention_maps(gpu, split, how);
  ASSERT_EQ(got.maps.size(), want.maps.size());
  for (size_t m = 0; m < got.maps.size(); ++m) {
    const AttentionMap& map = got.maps[m];
    double sum = 0;
    for (size_t i = 0; i < map.weights.size(); ++i) {
      const double weight = map.weights[i], other = want.maps[m].weights[i];
      ASSERT_EQ(std::isnan(weight), std::isnan(other)) << "map " << m << ", weight " << i;
      if (std::isnan(weight)) continue;
      EXPECT_NEAR(weight, other, 2e-2) << "map " << m << ", weight " << i;
      sum += weight;
    }
    // By the GPU's own log-sum-exp, rows sum to 1 nearer than bfloat16 numbers agree.
    EXPECT_NEAR(sum, map.query < 0 ? 16 : 1, map.query < 0 ? 3e-2 : 2e-3);
  }
}

TEST_F(CudaTraining, ProfilesShowAllPartsOfAStep) {
  using train::StepPart;
  for (const bool graphs : {false, true}) {
    Recipe recipe = gpu_recipe();
    recipe.train.graphs = graphs;
    Trainer trainer(recipe, small_data(), at::kCUDA);
    for (int step = 0; step < 3; ++step) trainer.take_step();
    const train::StepTimes times =
        train::step_times(ops::profile_device([&] { trainer.take_step(); }));
    for (const StepPart part :
         {StepPart::kProducts, StepPart::kAttentionForward, StepPart::kAttentionBackward,
          StepPart::kElementwise, StepPart::kOptimizer}) {
      EXPECT_GT(times.of(part), 0) << name(part) << (graphs ? ", in a graph" : "");
    }
    EXPECT_LE(times.busy_ms, times.extent_ms);
  }
}

TEST_F(CudaTraining, RefusesWhatItDoesNotCompute) {
  ModelConfig config = small_config();
  try {
    const SparseTransformer model(config, at::kCUDA);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "[model] precision must be bf16 or fp16 on a GPU, got fp32");
  }
  config.precision = Precision::kBFloat16;
  config.qk_dim = config.heads * 264;
  try {
    const SparseTransformer model(config, at::kCUDA);
    FAIL() << "no error";
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("head_dim 264 is more than 256"), std::string::npos) << text;
  }
}

TEST_F(CudaTraining, LearnsAndResumesBitForBit) {
  for (const Precision precision : {Precision::kBFloat16, Precision::kFloat16}) {
    const Recipe recipe = gpu_recipe(precision);
    const std::string file = (std::filesystem::temp_directory_path() /
                              ("lace_cuda_test_" + std::string(name(precision)) + ".safetensors"))
                                 .string();
    Trainer whole(recipe, small_data(), at::kCUDA);
    std::vector<double> losses;
    for (int step = 0; step < 6; ++step) {
      losses.push_back(whole.take_step().loss);
      if (step == 2) whole.save(file);
    }
    EXPECT_LT(losses.back(), losses.front());
    Trainer resumed(recipe, small_data(), at::kCUDA);
    resumed.load(file);
    for (int step = 3; step < 6; ++step) {
      EXPECT_EQ(resumed.take_step().loss, losses[static_cast<size_t>(step)]) << step;
    }
    EXPECT_TRUE(std::isfinite(*resumed.validate()));
    std::filesystem::remove(file);
    std::filesystem::remove(std::filesystem::path(file).replace_extension(".json"));
  }
}

// What is copied for a checkpoint while the GPU goes on is of the moment when it was asked for:
// steps that are started at once, and a validation, which puts the mean into the weights, wait.
TEST_F(CudaTraining, ASnapshotIsOfItsMomentWhateverFollows) {
  const auto folder = std::filesystem::temp_directory_path() / "lace_cuda_snapshot";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  const auto file = [&](const std::string& name) { return (folder / name).string(); };
  const auto tensors = [&](const std::string& name) {
    std::ifstream stream(file(name), std::ios::binary);
    const std::string text(std::istreambuf_iterator<char>(stream), {});
    uint64_t header = 0;
    std::memcpy(&header, text.data(), sizeof(header));
    return text.substr(sizeof(header) + header);
  };
  Recipe recipe = gpu_recipe();
  recipe.model.d_model = 256;  // large enough that the copy takes longer than asking for it
  recipe.train.steps = 20;
  Trainer trainer(recipe, small_data(), at::kCUDA), quiet(recipe, small_data(), at::kCUDA);
  for (int round = 0; round < 4; ++round) {
    trainer.take_step();
    quiet.take_step();
    const auto snapshot = trainer.snapshot();
    if (round % 2 == 0) {
      trainer.start_step();
      trainer.start_step();
      trainer.finish_step();
      trainer.finish_step();
    } else {
      trainer.validate();
    }
    snapshot->write(file("beside.safetensors"));
    quiet.save(file("alone.safetensors"));
    EXPECT_EQ(tensors("beside.safetensors"), tensors("alone.safetensors")) << round;
    while (quiet.step() < trainer.step()) quiet.take_step();
  }
  std::filesystem::remove_all(folder);
}

// The same steps with recorded graphs and without, some of them run ahead.
TEST_F(CudaTraining, GraphsChangeNoBit) {
  for (const Precision precision : {Precision::kBFloat16, Precision::kFloat16}) {
    for (const bool recompute : {false, true}) {
      Recipe recipe = gpu_recipe(precision);
      recipe.model.recompute = recompute;
      recipe.train.accumulate = 2;
      std::vector<TrainProgress> steps[2];
      std::vector<at::Tensor> weights[2];
      for (const bool graphs : {false, true}) {
        recipe.train.graphs = graphs;
        Trainer trainer(recipe, small_data(), at::kCUDA);
        while (trainer.step() < 8) {
          trainer.start_step();
          if (graphs && trainer.step() % 3 != 0 && trainer.step() < 8) trainer.start_step();
          while (trainer.unfinished_steps() > 0) steps[graphs].push_back(trainer.finish_step());
        }
        trainer.with_validated_weights([&](const SparseTransformer& model) {
          for (const NamedParameter& p : model.parameters())
            weights[graphs].push_back(p.tensor.detach().clone());
        });
      }
      ASSERT_EQ(steps[0].size(), 8u);
      ASSERT_EQ(steps[1].size(), 8u);
      for (size_t i = 0; i < 8; ++i) {
        EXPECT_EQ(steps[0][i].loss, steps[1][i].loss) << i;
        EXPECT_EQ(steps[0][i].gradient_norm, steps[1][i].gradient_norm) << i;
      }
      for (size_t i = 0; i < weights[0].size(); ++i) {
        EXPECT_TRUE(torch::equal(weights[0][i], weights[1][i])) << i;
      }
    }
  }
}

TEST_F(CudaTraining, StepsFollowTheCpu) {
  const Recipe recipe = gpu_recipe();
  Trainer cpu(recipe, small_data()), gpu(recipe, small_data(), at::kCUDA);
  for (int step = 0; step < 6; ++step) {
    const TrainProgress want = cpu.take_step(), got = gpu.take_step();
    EXPECT_NEAR(got.loss, want.loss, 1e-2) << step;
    EXPECT_NEAR(got.gradient_norm, want.gradient_norm, 3e-2 * want.gradient_norm) << step;
  }
  EXPECT_NEAR(*gpu.validate(), *cpu.validate(), 2e-2);
}

TEST_F(CudaTraining, DecodesAndSamples) {
  ModelConfig config = small_config();
  config.precision = Precision::kBFloat16;
  const SparseTransformer model(config, at::kCUDA);
  randomize_output(model);
  const at::Tensor tokens = random_tokens(2, config.seq_len).to(at::kCUDA);
  const at::Tensor logits = model.forward(tokens).detach();
  const auto state = model.start_decoding(2);
  for (int64_t i = 0; i < config.seq_len; i += 7) {
    const at::Tensor fresh = tokens.narrow(1, i == 0 ? 0 : i - 7, i == 0 ? 0 : 7);
    EXPECT_LT(relative_error(model.decode(*state, fresh), logits.select(1, i)), 2e-2) << i;
  }
  const std::vector<uint8_t> prompt = {'a', 'b'};
  SampleOptions options;
  options.length = 80;  // past seq_len
  EXPECT_EQ(lace::sample(model, prompt, options).size(), 80u);
  EXPECT_EQ(lace::sample(model, prompt, options), lace::sample(model, prompt, options));
}

TEST_F(CudaTraining, RunFolderNamesTheGpuAndLoadsAnywhere) {
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / "lace_cuda_run";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  {
    std::ofstream text(folder / "text");
    for (int i = 0; i < 600; ++i) text << "line " << i % 7 << " of the text\n";
  }
  Recipe recipe = gpu_recipe();
  recipe.data.paths = {(folder / "text").string()};
  const std::string run = (folder / "run").string();
  const RunResult result = train_run(recipe, {.folder = run, .device = at::kCUDA});
  EXPECT_TRUE(result.finished);
  std::ifstream file(run + "/run.json");
  const std::string description(std::istreambuf_iterator<char>(file), {});
  EXPECT_NE(description.find("\"device\": \"cuda\""), std::string::npos) << description;
  EXPECT_NE(description.find("\"gpu\": "), std::string::npos) << description;
  const LoadedRun on_cpu = load_run(run), on_gpu = load_run(run, "", at::kCUDA);
  const Dataset data = load_data(recipe);
  EXPECT_NEAR(evaluate(*on_gpu.model, data.test, recipe.eval).bits_per_byte,
              evaluate(*on_cpu.model, data.test, recipe.eval).bits_per_byte, 2e-2);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace lace
