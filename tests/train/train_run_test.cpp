// Run folders under what happens to them: faults, changed data, two processes, full disks.

#include <limits>

#include <unistd.h>

#include <torch/torch.h>

#include "train/edit_checkpoint.h"
#include "train/file_size_limit.h"

namespace lace {
namespace {

namespace fs = std::filesystem;

class TrainRunTest : public FolderTest {
 protected:
  // Trains up to `stop` steps into folder `name`; notes go to notes_.
  RunResult train(const Recipe& recipe, const std::string& name, bool resume = false,
                  int64_t stop = 1000, bool accept_changed_data = false) {
    notes_.clear();
    return train_run(recipe, {.folder = path(name),
                              .resume = resume,
                              .on_step = [=](const auto& p) { return p.step < stop; },
                              .accept_changed_data = accept_changed_data,
                              .on_note = [&](const std::string& text) { notes_ += text + "\n"; }});
  }
  std::string train_error(const Recipe& recipe, const std::string& name, bool resume = false) {
    return error_of([&] { train(recipe, name, resume); });
  }
  // A folder's files, sorted.
  std::vector<std::string> names(const std::string& folder) const {
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(path(folder)))
      found.push_back(entry.path().filename().native());
    std::sort(found.begin(), found.end());
    return found;
  }
  void copy(const std::string& from, const std::string& to) const {
    fs::remove_all(path(to));
    fs::copy(path(from), path(to), fs::copy_options::recursive);
  }

  std::string notes_;
};

void fill_with_nan(const SparseTransformer& model) {
  model.parameters().front().tensor.detach().fill_(std::numeric_limits<float>::quiet_NaN());
}

TEST_F(TrainRunTest, DamagedCheckpointsGiveWayToTheOneBefore) {
  Recipe recipe = recipe_with_file();
  recipe.train.checkpoint_every = 2;
  train(recipe, "whole");
  train(recipe, "parts", false, 5);
  EXPECT_EQ(load_run(path("parts"), "last").step, 5);
  EXPECT_EQ(load_run(path("parts"), "previous").step, 4);

  const std::string last = path("parts/last.safetensors");
  const std::string text = file_text(last);
  const size_t data = 8 + header_bytes(text);
  const std::vector<std::pair<const char*, size_t>> places = {
      {"length", 1},
      {"header", data / 2},
      {"metadata", text.find("optimizer_steps") + 3},
      {"digits", text.find("\"xxh3\":\"") + 9},
      {"weights", byte_of(last, "model.blocks.1.qkv.weight")},
      {"optimizer", byte_of(last, "adam.m.out.weight")},
      {"the end", text.size() - 1}};
  for (const auto& [what, place] : places) {
    copy("parts", "hurt");
    flip_bit(path("hurt/last.safetensors"), place, 4);
    const RunResult result = train(recipe, "hurt", true);
    EXPECT_TRUE(result.finished) << what;
    EXPECT_HAS(notes_, path("hurt/last.safetensors")) << what;
    EXPECT_HAS(notes_, "goes on after step 4") << what;
    EXPECT_TRUE(fs::exists(path("hurt/damaged.safetensors"))) << what;
    for (const char* checkpoint : {"last", "best"})
      EXPECT_TRUE(same_weights(*load_run(path("hurt"), checkpoint).model,
                               *load_run(path("whole"), checkpoint).model))
          << what << " " << checkpoint;
    // The sound one was not pushed out by the damaged one.
    EXPECT_EQ(load_run(path("hurt"), "previous").step, 4) << what;
  }
  fs::resize_file(last, text.size() / 2);
  EXPECT_TRUE(train(recipe, "parts", true).finished);
}

TEST_F(TrainRunTest, WithoutASoundCheckpointNothingIsTrained) {
  Recipe recipe = recipe_with_file();
  recipe.train.checkpoint_every = 2;
  train(recipe, "run", false, 5);
  const std::string last = path("run/last.safetensors"),
                    previous = path("run/previous.safetensors");
  flip_bit(last, byte_of(last, "adam.m.tok"));
  flip_bit(previous, byte_of(previous, "model.tok"));
  const std::string both = train_error(recipe, "run", true);
  EXPECT_HAS(both, "adam.m.tok of " + last + " is damaged");
  EXPECT_HAS(both, "model.tok of " + previous + " is damaged");
  fs::remove(previous);
  EXPECT_HAS(train_error(recipe, "run", true), "there is no checkpoint before it");
  EXPECT_TRUE(fs::exists(last));
}

TEST_F(TrainRunTest, LoadingNamesTheDamageAndWhatElseThereIs) {
  Recipe recipe = recipe_with_file();
  recipe.train.checkpoint_every = 2;
  train(recipe, "run", false, 5);
  const std::string best = path("run/best.safetensors");
  flip_bit(best, byte_of(best, "model.tok"));
  const std::string error = error_of([&] { load_run(path("run")); });
  EXPECT_HAS(error, "model.tok of " + best + " is damaged");
  EXPECT_HAS(error, "there is also last and previous");
  EXPECT_EQ(load_run(path("run"), "last").step, 5);
  // A run that goes on says so and writes it anew.
  train(recipe, "run", true);
  EXPECT_HAS(notes_, best);
  EXPECT_EQ(load_run(path("run"), "best").step, 6);
}

TEST_F(TrainRunTest, NanNeverIsTheBest) {
  // Half precision goes on over gradients that are not finite.
  Recipe recipe = recipe_with_file();
  recipe.model.precision = Precision::kFloat16;
  const double best = *train(recipe, "run", false, 4).best_validation_bits_per_byte;
  Trainer trainer(recipe, load_data(recipe));
  const std::string last = path("run/last.safetensors");
  trainer.load(last);
  const at::Tensor sound = trainer.model().parameters().front().tensor.detach().clone();
  fill_with_nan(trainer.model());
  trainer.save(last);
  recipe.train.steps = 8;
  const RunResult poisoned = train(recipe, "run", true, 7);
  EXPECT_TRUE(std::isnan(*poisoned.validation_bits_per_byte));
  EXPECT_EQ(poisoned.best_validation_bits_per_byte, best);
  EXPECT_HAS(notes_, "step 6: the validation is not a number");
  EXPECT_EQ(load_run(path("run"), "best").step, 3);
  EXPECT_EQ(file_text(path("run/best.json")).find("null"), std::string::npos);
  EXPECT_TRUE(load_run(path("run"), "best").not_finite.empty());
  EXPECT_EQ(load_run(path("run"), "last").not_finite.size(), 1u);
  EXPECT_TRUE(train(recipe, "run", true).finished);

  // NaN from the start, then numbers.
  recipe.train.steps = 1000;
  train(recipe, "first", false, 2);
  const std::string first = path("first/last.safetensors");
  Trainer other(recipe, load_data(recipe));
  other.load(first);
  fill_with_nan(other.model());
  other.save(first);
  EXPECT_FALSE(train(recipe, "first", true, 4).best_validation_bits_per_byte);
  EXPECT_FALSE(fs::exists(path("first/best.safetensors")));
  EXPECT_EQ(load_run(path("first")).checkpoint, "last");
  other.load(first);
  other.model().parameters().front().tensor.detach().copy_(sound);
  other.save(first);
  const RunResult mended = train(recipe, "first", true, 7);
  EXPECT_TRUE(std::isfinite(mended.best_validation_bits_per_byte.value()));
  EXPECT_EQ(load_run(path("first")).checkpoint, "best");
}

TEST_F(TrainRunTest, SummariesThatCannotBeReadDoNotStopARun) {
  const Recipe recipe = recipe_with_file();
  train(recipe, "whole");
  const double best = *train(recipe, "run", false, 4).best_validation_bits_per_byte;
  write_text(path("run/last.json"), "{\"step\": null");
  write_text(path("run/best.json"), "null");
  copy("run", "old");
  EXPECT_TRUE(train(recipe, "run", true).finished);
  EXPECT_TRUE(same_weights(*load_run(path("run")).model, *load_run(path("whole")).model));

  // What lace wrote after a validation that was not finite, when it still did.
  const std::string file = path("old/best.safetensors");
  make_format_1(file, [](auto& state) { state["validation_bits_per_byte"] = nullptr; });
  const RunResult result = train(recipe, "old", true);
  EXPECT_TRUE(result.finished);
  EXPECT_HAS(notes_, "validation_bits_per_byte of " + file + " must be a number, got null");
  EXPECT_LE(result.best_validation_bits_per_byte.value(), best);
  EXPECT_EQ(load_run(path("old")).step, 6);  // written anew
}

TEST_F(TrainRunTest, ChangedDataAreAnErrorThatSaysWhat) {
  Recipe recipe = recipe_with_file();
  const std::string text = file_text(path("text"));
  train(recipe, "run", false, 4);
  const std::string before = file_text(path("run/last.safetensors"));

  write_text(path("text"), text + std::string(400, 'x'));
  const std::string sizes = train_error(recipe, "run", true);
  EXPECT_HAS(sizes, "train has 3960 bytes, had 3600");
  EXPECT_HAS(sizes, "test has 220 bytes, had 200");
  EXPECT_HAS(sizes, "--accept-changed-data");
  std::string other = text;
  other[100] ^= 1;
  write_text(path("text"), other);
  EXPECT_HAS(train_error(recipe, "run", true), "train has as many bytes, but others");
  EXPECT_EQ(file_text(path("run/last.safetensors")), before);
  EXPECT_TRUE(train(recipe, "run", true, 5, true).steps == 5);
  EXPECT_HAS(notes_, "train has as many bytes, but others");
  EXPECT_TRUE(train(recipe, "run", true).finished);  // the changed data are the run's now
  EXPECT_EQ(notes_.find("bytes"), std::string::npos) << notes_;

  make_format_1(path("run/last.safetensors"));
  write_text(path("text"), text);
  recipe.train.steps = 7;
  EXPECT_TRUE(train(recipe, "run", true).finished);
  EXPECT_HAS(notes_, "they are not compared");
}

TEST_F(TrainRunTest, AStartThatFailsLeavesNoRun) {
  const Recipe sound = recipe_with_file();
  const auto fails = [&](const Recipe& recipe) {
    EXPECT_NE(train_error(recipe, "runs/deep/run"), "");
    EXPECT_FALSE(fs::exists(path("runs")));
    fs::create_directories(path("there"));
    write_text(path("there/mine"), "x");
    EXPECT_NE(train_error(recipe, "there"), "");
    EXPECT_EQ(names("there"), (std::vector<std::string>{"mine"}));
  };
  Recipe recipe = sound;
  recipe.data.paths = {path("absent")};
  fails(recipe);
  recipe.data.paths = {};
  fails(recipe);
  write_text(path("short"), "abc");
  recipe.data.paths = {path("short")};
  fails(recipe);
  write_text(path("empty"), "");
  recipe.data.paths = {path("empty")};
  fails(recipe);
  recipe = sound;
  recipe.optimizer.epsilon = 0;
  fails(recipe);
  {
    const FileSizeLimit limit(100);  // the description does not fit
    fails(sound);
  }
  EXPECT_TRUE(train(sound, "there").finished);
  EXPECT_HAS(train_error(sound, "there"), "already holds a run");

  // What a start left that was killed before its first step is no run, a recipe of one's own stays.
  fs::create_directories(path("killed"));
  write_text(path("killed/recipe.toml"), to_toml(sound));
  write_text(path("killed/metrics.jsonl"), "");
  EXPECT_TRUE(train(sound, "killed").finished);
  fs::create_directories(path("own"));
  write_text(path("own/recipe.toml"), "# mine\n");
  EXPECT_HAS(train_error(sound, "own"), "no run wrote it");
  EXPECT_EQ(file_text(path("own/recipe.toml")), "# mine\n");
}

TEST_F(TrainRunTest, ARunWithoutItsRecipeIsNotOverwritten) {
  const Recipe recipe = recipe_with_file();
  train(recipe, "run", false, 4);
  fs::remove(path("run/recipe.toml"));
  EXPECT_HAS(train_error(recipe, "run"), "already holds a run");
  EXPECT_HAS(train_error(recipe, "run", true), "recipe.toml is missing");
  write_text(path("run/recipe.toml"), to_toml(recipe));
  EXPECT_TRUE(train(recipe, "run", true).finished);
}

TEST_F(TrainRunTest, OneTrainsInAFolderAtATime) {
  Recipe recipe = recipe_with_file();
  recipe.train.checkpoint_every = 1;
  int tried = 0;
  const RunResult result =
      train_run(recipe, {.folder = path("run"), .on_step = [&](const TrainProgress& p) {
                           if (p.step != 3) return true;
                           for (const bool resume : {false, true}) {
                             const std::string error = train_error(recipe, "run", resume);
                             EXPECT_HAS(error, path("run") + " is being trained in by process " +
                                                   std::to_string(::getpid()));
                             ++tried;
                           }
                           // Reading is free. The checkpoint of step 2 may be being written.
                           EXPECT_GE(load_run(path("run"), "last").step, 1);
                           return true;
                         }});
  EXPECT_EQ(tried, 2);
  EXPECT_TRUE(result.finished);
  EXPECT_FALSE(fs::exists(path("run/train.lock")));
  std::istringstream metrics(file_text(path("run/metrics.jsonl")));
  int64_t lines = 0;
  for (std::string line; std::getline(metrics, line);)
    EXPECT_EQ(nlohmann::json::parse(line).at("step"), ++lines);
  EXPECT_EQ(lines, 6);
  // The file that a killed process leaves holds nobody off.
  write_text(path("run/train.lock"), "1\n");
  recipe.train.steps = 7;
  EXPECT_TRUE(train(recipe, "run", true).finished);
}

TEST_F(TrainRunTest, LostMetricsEndTheRunAfterItsStepsAreSaved) {
  Recipe recipe = recipe_with_file();
  recipe.train.validate_every = 0;  // nothing else is written
  const auto run = [&](const std::string& name, const std::function<void()>& at_step_2) {
    return error_of([&] {
      train_run(recipe, {.folder = path(name), .on_step = [&](const TrainProgress& p) {
                           if (p.step == 2) at_step_2();
                           return true;
                         }});
    });
  };
  EXPECT_HAS(run("gone", [&] { fs::remove(path("gone/metrics.jsonl")); }),
             path("gone/metrics.jsonl") + " is gone");
  EXPECT_EQ(load_run(path("gone"), "last").step, 3);
  EXPECT_TRUE(train(recipe, "gone", true).finished);

  std::string error = run("moved", [&] { fs::rename(path("moved"), path("away")); });
  EXPECT_HAS(error, path("moved/metrics.jsonl") + " is gone");
  EXPECT_HAS(error, path("moved/last.safetensors"));

  // A full disk: the checkpoint does not fit either.
  std::optional<FileSizeLimit> limit;
  error = run("full", [&] { limit.emplace(fs::file_size(path("full/metrics.jsonl")) + 10); });
  limit.reset();
  EXPECT_HAS(error, "cannot write " + path("full/metrics.jsonl"));
  EXPECT_HAS(error, "the steps since 0 are lost");
  EXPECT_FALSE(fs::exists(path("full/last.safetensors")));
}

TEST_F(TrainRunTest, OtherFailuresSaveTheStepsToo) {
  const Recipe recipe = recipe_with_file();
  EXPECT_THROW(train_run(recipe, {.folder = path("run"),
                                  .on_step = [](const TrainProgress& p) -> bool {
                                    if (p.step == 2) throw std::runtime_error("mine");
                                    return true;
                                  }}),
               std::runtime_error);
  EXPECT_EQ(load_run(path("run"), "last").step, 2);
}

TEST_F(TrainRunTest, AFullDiskKeepsTheOldCheckpoint) {
  Recipe recipe = recipe_with_file();
  train(recipe, "run", false, 4);
  const std::string before = file_text(path("run/last.safetensors"));
  recipe.train.validate_every = 0;
  recipe.train.checkpoint_every = 5;
  const FileSizeLimit limit(before.size() / 2);
  EXPECT_HAS(train_error(recipe, "run", true), "cannot write " + path("run/last.safetensors"));
  EXPECT_EQ(file_text(path("run/last.safetensors")), before);
  EXPECT_FALSE(fs::exists(path("run/previous.safetensors")));
}

}  // namespace
}  // namespace lace
