// What a run does beside its steps: checkpoints that are written meanwhile and kept, early stop,
// spikes, samples, events.

#include <algorithm>

#include <torch/torch.h>

#include "train/edit_checkpoint.h"
#include "train/file_size_limit.h"
#include "train/snapshot.h"

namespace lace {
namespace {

namespace fs = std::filesystem;

class SittingTest : public FolderTest {
 protected:
  RunOptions options(const std::string& name, bool resume = false) {
    RunOptions options;
    options.folder = path(name);
    options.resume = resume;
    options.on_note = [this](const std::string& text) { notes_ += text + "\n"; };
    return options;
  }
  RunResult train(const Recipe& recipe, const std::string& name, bool resume = false,
                  int64_t stop = 1000) {
    RunOptions how = options(name, resume);
    how.on_step = [=](const TrainProgress& p) { return p.step < stop; };
    return train_run(recipe, how);
  }
  std::vector<nlohmann::json> lines(const std::string& file) const {
    std::vector<nlohmann::json> found;
    std::istringstream text(file_text(path(file)));
    for (std::string line; std::getline(text, line);) found.push_back(nlohmann::json::parse(line));
    return found;
  }
  std::vector<std::string> checkpoints(const std::string& run) const {
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(path(run)))
      if (entry.path().extension() == ".safetensors") found.push_back(entry.path().stem());
    std::sort(found.begin(), found.end());
    return found;
  }

  std::string notes_;
};

TEST_F(SittingTest, ASnapshotIsOfItsMomentWhateverFollows) {
  Recipe recipe = small_recipe();
  recipe.optimizer.ema = 0.9;
  recipe.train.steps = 9;
  Trainer trainer(recipe, small_data());
  for (int i = 0; i < 3; ++i) trainer.take_step();
  trainer.save(path("now.safetensors"));
  const auto first = trainer.snapshot();
  trainer.take_step();
  trainer.save(path("four.safetensors"));  // takes memory of its own: the first still lives
  trainer.take_step();
  first->write(path("later.safetensors"));
  first->write_validated(path("best.safetensors"), 1.5);
  const auto tensors = [&](const char* name) {
    const std::string file = file_text(path(name));
    return file.substr(8 + header_bytes(file));
  };
  EXPECT_EQ(tensors("now.safetensors"), tensors("later.safetensors"));
  EXPECT_NE(tensors("now.safetensors"), tensors("four.safetensors"));
  // The weights that were scored: the mean.
  Trainer other(recipe, small_data());
  other.load(path("later.safetensors"));
  other.with_validated_weights([&](const SparseTransformer& model) {
    std::string mean;
    for (const NamedParameter& p : model.parameters()) {
      const at::Tensor tensor = p.tensor.detach().contiguous();
      mean.append(static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes());
    }
    EXPECT_EQ(mean, tensors("best.safetensors"));
  });
  EXPECT_EQ(other.take_step().step, 4);
  trainer.start_step();
  EXPECT_HAS(error_of([&] { trainer.snapshot(); }), "must be finished");
}

// What fails behind a step does not undo it: its numbers are there where its state is.
TEST_F(SittingTest, AStepThatIsSavedHasItsMetrics) {
  Recipe recipe = recipe_with_file();
  recipe.train.steps = 8;
  recipe.train.sample_every = 3;
  RunOptions how = options("run");
  how.draw = [](const SparseTransformer&, int64_t, uint64_t) -> std::optional<DrawnSample> {
    throw Error("from a sample");
  };
  EXPECT_HAS(error_of([&] { train_run(recipe, how); }), "from a sample");
  EXPECT_EQ(load_run(path("run"), "last").step, 3);
  EXPECT_EQ(lines("run/metrics.jsonl").size(), 3u);
}

TEST_F(SittingTest, KeepsTheLastCheckpoints) {
  Recipe recipe = recipe_with_file();
  recipe.train.steps = 8;
  recipe.train.checkpoint_every = 1;
  recipe.train.keep_checkpoints = 2;
  train(recipe, "run");
  EXPECT_EQ(checkpoints("run"),
            (std::vector<std::string>{"best", "last", "previous", "step-5", "step-6"}));
  EXPECT_TRUE(fs::exists(path("run/step-5.json")));
  EXPECT_FALSE(fs::exists(path("run/step-4.json")));
  EXPECT_EQ(load_run(path("run"), "step-5").step, 5);
  EXPECT_HAS(error_of([&] { load_run(path("run"), "step-3"); }), "there is also best and last");
  EXPECT_HAS(error_of([&] { load_run(path("run"), "step-05"); }), "[run] a checkpoint is");
  // A run goes on from an old one where those after it are damaged or gone, and takes the same
  // steps.
  fs::remove(path("run/previous.safetensors"));
  for (const char* name : {"last", "step-6"}) {
    const std::string file = path("run") + "/" + name + ".safetensors";
    flip_bit(file, byte_of(file, "adam.m.tok"));
  }
  train(recipe, "run", true);
  EXPECT_HAS(notes_, "step-6.safetensors is damaged");
  EXPECT_HAS(notes_, "goes on after step 5");
  train(recipe, "whole");
  EXPECT_TRUE(
      same_weights(*load_run(path("run"), "last").model, *load_run(path("whole"), "last").model));
  EXPECT_EQ(lines("run/metrics.jsonl").size(), 8u);
  // Without the key what was kept stays.
  recipe.train.keep_checkpoints = 0;
  recipe.train.steps = 9;
  const auto kept = checkpoints("run");
  train(recipe, "run", true);
  EXPECT_EQ(checkpoints("run"), kept);
}

TEST_F(SittingTest, WhatTheWriterMeetsIsAnErrorOfTheRun) {
  Recipe recipe = recipe_with_file();
  recipe.train.steps = 1000;
  recipe.train.validate_every = 0;
  recipe.train.checkpoint_every = 2;
  std::optional<FileSizeLimit> limit;
  std::string before;
  RunOptions how = options("run");
  how.on_step = [&](const TrainProgress& p) {
    if (p.step != 5) return true;
    while (file_text(path("run/last.json")).find("\"step\": 4") == std::string::npos) continue;
    before = file_text(path("run/previous.safetensors"));
    limit.emplace(before.size() / 2);
    return true;
  };
  const std::string error = error_of([&] { train_run(recipe, how); });
  limit.reset();
  EXPECT_HAS(error, "cannot write " + path("run/last.safetensors"));
  EXPECT_HAS(error, "the steps since 4 are lost");
  EXPECT_EQ(load_run(path("run"), "last").step, 4);
  EXPECT_EQ(file_text(path("run/previous.safetensors")), before);
  EXPECT_FALSE(fs::exists(path("run/last.safetensors.tmp")));
  recipe.train.steps = 8;
  EXPECT_TRUE(train(recipe, "run", true).finished);
  EXPECT_EQ(lines("run/metrics.jsonl").size(), 8u);
}

TEST_F(SittingTest, StopsEarlyWhereValidationsGetNoBetter) {
  Recipe recipe = recipe_with_file();
  recipe.optimizer.learning_rate = 0;  // the second validation is as good as the first
  recipe.train.steps = 50;
  recipe.train.validate_every = 2;
  recipe.train.early_stop = 3;
  const RunResult whole = train(recipe, "whole");
  EXPECT_TRUE(whole.finished);
  EXPECT_TRUE(whole.stopped_early);
  EXPECT_EQ(whole.steps, 8);
  EXPECT_HAS(notes_, "step 8: the last 3 validations");
  EXPECT_EQ(load_run(path("whole"), "best").step, 2);
  // Counted over sittings.
  EXPECT_FALSE(train(recipe, "parts", false, 5).stopped_early);
  EXPECT_EQ(train(recipe, "parts", true).steps, 8);
  // One that has ended so takes no step; with more patience it goes on.
  EXPECT_EQ(train(recipe, "parts", true).steps, 8);
  recipe.train.early_stop = 4;
  EXPECT_EQ(train(recipe, "parts", true).steps, 10);
  recipe.train.early_stop = 0;
  EXPECT_EQ(train(recipe, "parts", true, 12).steps, 12);
}

TEST_F(SittingTest, SpikesAreToldOfWithTheirPlaceInTheData) {
  Recipe recipe = small_recipe();
  recipe.train.steps = 60;
  recipe.train.spike = 1.5;
  Trainer trainer(recipe, small_data());
  for (int i = 0; i < 25; ++i) EXPECT_FALSE(trainer.take_step().spike);
  for (const NamedParameter& p : trainer.model().parameters())
    if (p.name == "out.weight") p.tensor.detach().mul_(-20);
  const TrainProgress progress = trainer.take_step();
  EXPECT_TRUE(progress.spike) << progress.loss << " " << progress.mean_loss;
  const WindowSampler sampler(small_data().train, 64, recipe.train.seed);
  ASSERT_EQ(progress.windows.size(), 4u);
  for (int64_t i = 0; i < 4; ++i)
    EXPECT_EQ(progress.windows[static_cast<size_t>(i)], sampler.begin(25 * 4 + i));
}

TEST_F(SittingTest, ARunsSpikesAreInItsMetrics) {
  Recipe recipe = recipe_with_file();
  recipe.train.steps = 27;
  recipe.train.validate_every = 0;
  train(recipe, "run", false, 25);
  const std::string last = path("run/last.safetensors");
  {
    Trainer trainer(recipe, load_data(recipe));
    trainer.load(last);
    for (const NamedParameter& p : trainer.model().parameters())
      if (p.name == "out.weight") p.tensor.detach().mul_(-20);
    trainer.save(last);
  }
  notes_.clear();
  train(recipe, "run", true);  // the mean of 25 losses comes from the checkpoint
  const auto metrics = lines("run/metrics.jsonl");
  ASSERT_EQ(metrics.size(), 27u);
  for (const auto& line : metrics) {
    EXPECT_EQ(line.contains("spike"), line.at("step") >= 26) << line;
    EXPECT_EQ(line.contains("windows"), line.contains("spike"));
  }
  EXPECT_EQ(metrics[25].at("windows").size(), 4u);
  EXPECT_HAS(notes_, "step 26: the loss is ");
  EXPECT_HAS(notes_, concat("from byte ", metrics[25].at("windows")[0].get<int64_t>(), ", "));
}

TEST_F(SittingTest, SamplesAreKeptAndChangeNothing) {
  Recipe recipe = recipe_with_file();
  recipe.optimizer.ema = 0.5;
  train(recipe, "without");
  recipe.train.sample_every = 2;
  recipe.train.sample_bytes = 5;
  recipe.train.sample_count = 2;
  int drawn = 0;
  const auto sampling = [&](const std::string& name, bool resume, int64_t stop) {
    RunOptions how = options(name, resume);
    how.on_step = [=](const TrainProgress& p) { return p.step < stop; };
    how.draw = [&](const SparseTransformer& model, int64_t bytes, uint64_t seed) {
      model.nats(at::zeros({1, 8}, at::kByte));
      ++drawn;
      DrawnSample sample;
      sample.bytes.assign(static_cast<size_t>(bytes), static_cast<uint8_t>('a' + seed));
      return std::optional(sample);
    };
    train_run(recipe, how);
  };
  sampling("run", false, 5);
  EXPECT_EQ(drawn, 4);
  // What a crash leaves: a sample of a step that no checkpoint holds.
  std::ofstream(path("run/samples.jsonl"), std::ios::app) << "{\"step\":6,\"file\":\"x\"}\n";
  sampling("run", true, 1000);
  std::vector<std::pair<int64_t, std::string>> found;
  for (const auto& line : lines("run/samples.jsonl"))
    found.emplace_back(line.at("step").get<int64_t>(), line.at("file").get<std::string>());
  EXPECT_EQ(found, (std::vector<std::pair<int64_t, std::string>>{{2, "samples/2-0.bin"},
                                                                 {2, "samples/2-1.bin"},
                                                                 {4, "samples/4-0.bin"},
                                                                 {4, "samples/4-1.bin"},
                                                                 {6, "samples/6-0.bin"},
                                                                 {6, "samples/6-1.bin"}}));
  EXPECT_EQ(file_text(path("run/samples/6-1.bin")), "ccccc");
  EXPECT_TRUE(
      same_weights(*load_run(path("run"), "last").model, *load_run(path("without"), "last").model));
  EXPECT_TRUE(lines("run/metrics.jsonl")[1].at("parts_s").contains("sample"));
}

TEST_F(SittingTest, MetricsSayWhereTheTimeWentAndWhatItTook) {
  Recipe recipe = recipe_with_file();
  recipe.train.checkpoint_every = 2;
  RunOptions how = options("run");
  how.step_operations = 1e6;
  // A machine that was busy as the run began, and once later: what is highest counts, from the
  // first validation on.
  std::vector<double> peaks = {1e12, 4e12, 2e12};
  how.measure_peak = [&, next = size_t{0}]() mutable {
    return peaks[std::min(next++, peaks.size() - 1)];
  };
  train_run(recipe, how);
  for (const auto& line : lines("run/metrics.jsonl")) {
    const int64_t step = line.at("step");
    const auto& parts = line.at("parts_s");
    EXPECT_GT(parts.at("step").get<double>(), 0);
    EXPECT_EQ(parts.contains("validation"), step % 3 == 0);
    EXPECT_EQ(parts.contains("checkpoint"), step >= 3 && step <= 5);  // of the step before
    EXPECT_GT(line.at("memory_bytes").get<int64_t>(), 1 << 20);
    const double share = (step < 3 ? 1 : 0.25) * 1e-6 / parts.at("step").get<double>();
    EXPECT_NEAR(line.at("share_of_peak").get<double>(), share, 1e-3 * share);
  }
  const auto about = nlohmann::json::parse(file_text(path("run/run.json")));
  EXPECT_EQ(about.at("step_operations"), 1e6);
  EXPECT_EQ(about.at("peak_operations_per_s"), 4e12);
}

}  // namespace
}  // namespace lace
