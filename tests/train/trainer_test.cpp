#include <cmath>
#include <limits>

#include <nlohmann/json.hpp>
#include <torch/torch.h>

#include "train/adam.h"
#include "train/edit_checkpoint.h"
#include "train/silent_group.h"

namespace lace {
namespace {

namespace fs = std::filesystem;

class TrainerTest : public FolderTest {};

TEST_F(TrainerTest, ResumesBitForBit) {
  for (const Precision precision : {Precision::kFloat32, Precision::kBFloat16}) {
    Recipe recipe = small_recipe();
    recipe.model.dropout = 0.2;
    recipe.model.precision = precision;
    recipe.optimizer.ema = 0.9;
    Trainer whole(recipe, small_data()), first(recipe, small_data());
    std::vector<double> expected;
    while (!whole.done()) expected.push_back(whole.take_step().loss);
    ASSERT_EQ(expected.size(), 6u);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(first.take_step().loss, expected[static_cast<size_t>(i)]);
    EXPECT_FALSE(same_weights(whole.model(), first.model()));
    first.save(path("x.safetensors"));

    recipe.model.seed = 99;  // what is loaded must not depend on the start values …
    Trainer unlike(recipe, small_data());
    recipe.model.seed = 1;  // … but dropout masks depend on the seed
    Trainer second(recipe, small_data());
    unlike.load(path("x.safetensors"));
    EXPECT_TRUE(same_weights(unlike.model(), first.model()));
    second.load(path("x.safetensors"));
    EXPECT_EQ(second.step(), 3);
    for (size_t i = 3; i < 6; ++i) EXPECT_EQ(second.take_step().loss, expected[i]);
    EXPECT_TRUE(second.done());
    EXPECT_TRUE(same_weights(whole.model(), second.model()));
    EXPECT_EQ(whole.validate(), second.validate());
  }
}

TEST_F(TrainerTest, LossFalls) {
  Recipe recipe = small_recipe();
  recipe.train.steps = 60;
  recipe.optimizer.learning_rate = 1e-2;
  Trainer trainer(recipe, small_data());
  const double before = *trainer.validate();
  EXPECT_NEAR(before, 8, 1e-3);  // W_out starts at 0
  TrainProgress last;
  while (!trainer.done()) last = trainer.take_step();
  EXPECT_EQ(last.step, 60);
  EXPECT_EQ(last.fraction, 1);
  EXPECT_LT(last.bits_per_byte, 4);
  EXPECT_LT(*trainer.validate(), 4);
}

TEST_F(TrainerTest, MicroBatchesAddUp) {
  Recipe recipe = small_recipe();
  Trainer accumulated(recipe, small_data());
  recipe.train.batch = 4;
  recipe.train.accumulate = 1;
  Trainer whole(recipe, small_data());
  for (int i = 0; i < 3; ++i) {
    const TrainProgress a = accumulated.take_step(), b = whole.take_step();
    EXPECT_NEAR(a.loss, b.loss, 1e-5);
    EXPECT_NEAR(a.gradient_norm, b.gradient_norm, 1e-4 * b.gradient_norm);
  }
}

TEST_F(TrainerTest, AStepThatFailsChangesNothing) {
  Trainer whole(small_recipe(), small_data()), other(small_recipe(), small_data());
  std::vector<double> losses;
  for (int i = 0; i < 3; ++i) losses.push_back(whole.take_step().loss);
  other.take_step();
  other.save(path("x.safetensors"));

  const at::Tensor weight = other.model().parameters().front().tensor.detach();
  const at::Tensor sound = weight.clone();
  const auto fail = [&] {
    weight.fill_(std::numeric_limits<float>::quiet_NaN());
    const int64_t step = other.step();
    EXPECT_HAS(error_of([&] { other.take_step(); }), "the gradients' norm is");
    const double elapsed = other.elapsed_s();
    EXPECT_HAS(error_of([&] { other.take_step(); }), "the gradients' norm is");
    EXPECT_EQ(other.elapsed_s(), elapsed);  // the time of such steps does not count
    EXPECT_EQ(other.step(), step);
  };
  fail();
  weight.copy_(sound);
  EXPECT_EQ(other.take_step().loss, losses[1]);
  EXPECT_EQ(other.take_step().loss, losses[2]);
  EXPECT_TRUE(same_weights(whole.model(), other.model()));

  // Nor does anything of it outlive load().
  fail();
  other.load(path("x.safetensors"));
  EXPECT_EQ(other.take_step().loss, losses[1]);
  EXPECT_EQ(other.take_step().loss, losses[2]);
  EXPECT_TRUE(same_weights(whole.model(), other.model()));
}

TEST_F(TrainerTest, OverflowsInHalfPrecisionAreTakenAsTheHeadersSay) {
  Recipe recipe = small_recipe();
  recipe.model.precision = Precision::kFloat16;
  Trainer trainer(recipe, small_data());
  const auto state = [&] {
    trainer.save(path("x.safetensors"));
    return nlohmann::json::parse(file_text(path("x.json")));
  };
  trainer.take_step();
  const at::Tensor weight = trainer.model().parameters().front().tensor.detach();
  weight.fill_(std::numeric_limits<float>::quiet_NaN());
  const double scale = state().at("loss_scale");
  const TrainProgress progress = trainer.take_step();
  EXPECT_EQ(progress.step, 2);
  EXPECT_TRUE(std::isfinite(progress.gradient_norm));
  EXPECT_EQ(state().at("optimizer_steps"), 2);
  EXPECT_EQ(state().at("loss_scale"), scale / 2);
  EXPECT_GT(scale, train::kLossScaleStart);  // the first step was good
}

TEST_F(TrainerTest, NanNeverIsTheBestValidation) {
  Trainer trainer(small_recipe(), small_data());
  const at::Tensor weight = trainer.model().parameters().front().tensor.detach();
  const at::Tensor sound = weight.clone();
  const auto poison = [&] { weight.fill_(std::numeric_limits<float>::quiet_NaN()); };
  poison();
  EXPECT_TRUE(std::isnan(*trainer.validate()));
  EXPECT_FALSE(trainer.best_validation());
  weight.copy_(sound);
  const double bits = *trainer.validate();
  EXPECT_EQ(trainer.best_validation(), bits);
  poison();
  EXPECT_TRUE(std::isnan(*trainer.validate()));
  EXPECT_EQ(trainer.best_validation(), bits);
  trainer.save(path("x.safetensors"));
  EXPECT_EQ(file_text(path("x.json")).find("null"), std::string::npos);
  Trainer other(small_recipe(), small_data());
  other.load(path("x.safetensors"));
  EXPECT_EQ(other.best_validation(), bits);
}

TEST_F(TrainerTest, WhatRanksDivideIsSharedBetweenALoadAndTheNextStep) {
  Recipe recipe = small_recipe();
  Trainer alone(recipe, small_data());
  alone.take_step();
  alone.save(path("x.safetensors"));
  EXPECT_FALSE(alone.divides_state());
  recipe.train.shard_optimizer = true;
  SilentGroup group(0, 2);
  Trainer first_of_two(recipe, small_data(), at::kCPU, &group);
  EXPECT_TRUE(first_of_two.divides_state());
  first_of_two.load(path("x.safetensors"));
  EXPECT_HAS(error_of([&] { first_of_two.take_step(); }), "[train] ranks that divide");
  EXPECT_EQ(first_of_two.step(), 1);
  first_of_two.share_start();
  EXPECT_EQ(first_of_two.take_step().step, 2);
  recipe.train.shard_optimizer = false;
  EXPECT_FALSE(Trainer(recipe, small_data(), at::kCPU, &group).divides_state());
}

TEST_F(TrainerTest, ALoadThatFailsChangesNothing) {
  Trainer trainer(small_recipe(), small_data()), same(small_recipe(), small_data());
  const std::string file = path("x.safetensors");
  trainer.take_step();
  trainer.save(file);
  trainer.take_step();
  same.take_step();
  same.take_step();
  flip_bit(file, byte_of(file, "adam.v.out.weight"), 5);
  EXPECT_HAS(error_of([&] { trainer.load(file); }), "adam.v.out.weight of " + file + " is damaged");
  Dataset other = small_data();
  other.validation = small_text(401);
  trainer.save(file);
  Trainer elsewhere(small_recipe(), other);
  const std::string error = error_of([&] { elsewhere.load(file); });
  EXPECT_HAS(error, "validation has 401 bytes, had 400");
  EXPECT_EQ(elsewhere.step(), 0);
  EXPECT_EQ(elsewhere.load(file, true).size(), 1u);
  EXPECT_EQ(elsewhere.step(), 2);
  EXPECT_EQ(trainer.step(), 2);
  EXPECT_TRUE(same_weights(trainer.model(), same.model()));
  EXPECT_EQ(trainer.take_step().loss, same.take_step().loss);
}

TEST_F(TrainerTest, CheckpointsOfOlderVersionsLoad) {
  const std::string file = path("x.safetensors");
  Trainer trainer(small_recipe(), small_data()), other(small_recipe(), small_data());
  trainer.take_step();
  trainer.save(file);
  EXPECT_TRUE(other.load(file).empty());
  make_format_1(file);
  const std::vector<std::string> notes = other.load(file);
  ASSERT_EQ(notes.size(), 2u);
  EXPECT_HAS(notes[0], "no checksums");
  EXPECT_HAS(notes[1], "data");
  EXPECT_EQ(other.take_step().loss, trainer.take_step().loss);
}

TEST_F(TrainerTest, RunFolderHoldsWhatItSays) {
  const Recipe recipe = recipe_with_file();
  const std::string run = path("run");
  std::vector<int64_t> seen;
  const RunResult result = train_run(recipe, {.folder = run, .on_step = [&](const auto& p) {
                                                seen.push_back(p.step);
                                                return true;
                                              }});
  EXPECT_TRUE(result.finished);
  EXPECT_EQ(result.steps, 6);
  EXPECT_EQ(result.tokens, 6 * 2 * 2 * 64);
  EXPECT_EQ(seen, (std::vector<int64_t>{1, 2, 3, 4, 5, 6}));
  for (const char* name : {"recipe.toml", "run.json", "metrics.jsonl", "last.safetensors",
                           "last.json", "best.safetensors", "best.json"})
    EXPECT_TRUE(fs::exists(run + "/" + name)) << name;
  std::ifstream metrics(run + "/metrics.jsonl");
  int64_t lines = 0;
  for (std::string line; std::getline(metrics, line);) {
    const auto entry = nlohmann::json::parse(line);
    EXPECT_EQ(entry.at("step"), ++lines);
    EXPECT_EQ(entry.contains("validation_bits_per_byte"), lines % 3 == 0);
  }
  EXPECT_EQ(lines, 6);
  const auto description = nlohmann::json::parse(std::ifstream(run + "/run.json"));
  for (const char* key : {"version", "commit", "machine", "seed", "parameters", "bytes"})
    EXPECT_TRUE(description.contains(key)) << key;
  const LoadedRun loaded = load_run(run);
  EXPECT_EQ(loaded.checkpoint, "best");
  EXPECT_EQ(to_toml(loaded.recipe), to_toml(recipe));
  EXPECT_HAS(error_of([&] { train_run(recipe, {.folder = run}); }), "already holds a run");
  Recipe other = recipe;
  other.optimizer.learning_rate = 1;
  EXPECT_THROW(train_run(other, {.folder = run, .resume = true}), Error);
  EXPECT_THROW(load_run(path("nothing")), Error);
}

TEST_F(TrainerTest, StoppedRunGoesOnAsIfItHadNot) {
  const Recipe recipe = recipe_with_file();
  train_run(recipe, {.folder = path("whole")});
  const RunResult stopped = train_run(
      recipe, {.folder = path("parts"), .on_step = [](const auto& p) { return p.step < 4; }});
  EXPECT_FALSE(stopped.finished);
  EXPECT_EQ(stopped.steps, 4);
  // A line of a step that no checkpoint holds, as a crash leaves it.
  std::ofstream(path("parts/metrics.jsonl"), std::ios::app) << "{\"step\":5,\"loss\":7}\n";
  const RunResult resumed = train_run(recipe, {.folder = path("parts"), .resume = true});
  EXPECT_TRUE(resumed.finished);
  for (const char* checkpoint : {"last", "best"}) {
    const LoadedRun whole = load_run(path("whole"), checkpoint);
    const LoadedRun parts = load_run(path("parts"), checkpoint);
    EXPECT_EQ(whole.step, parts.step);
    EXPECT_TRUE(same_weights(*whole.model, *parts.model)) << checkpoint;
  }
  std::vector<double> losses[2];
  for (int i = 0; i < 2; ++i) {
    std::ifstream metrics(path(i ? "parts" : "whole") + "/metrics.jsonl");
    for (std::string line; std::getline(metrics, line);)
      losses[i].push_back(nlohmann::json::parse(line).at("loss"));
  }
  EXPECT_EQ(losses[0], losses[1]);
}

TEST_F(TrainerTest, TimeEndsARun) {
  Recipe recipe = small_recipe();
  recipe.train.steps = 0;
  recipe.train.max_minutes = 0.3 / 60;
  Trainer trainer(recipe, small_data());
  TrainProgress last;
  while (!trainer.done()) last = trainer.take_step();
  EXPECT_GE(last.step, 1);
  EXPECT_LT(last.elapsed_s, 60);  // of a busy machine
}

TEST_F(TrainerTest, RefusesOtherCheckpointsAndMissingData) {
  Trainer trainer(small_recipe(), small_data());
  trainer.save(path("x.safetensors"));
  Recipe wider = small_recipe();
  wider.model.d_model = 64;
  Trainer other(wider, small_data());
  EXPECT_THROW(other.load(path("x.safetensors")), Error);
  EXPECT_THROW(load_data(small_recipe()), Error);
  Dataset tiny;
  tiny.train = small_text(10);
  EXPECT_THROW(Trainer(small_recipe(), tiny), Error);
}

TEST_F(TrainerTest, EstimateCountsAndTimes) {
  Recipe recipe = small_recipe();
  const TrainEstimate estimate = estimate_training(recipe);
  EXPECT_EQ(estimate.parameters, parameter_count(recipe.model));
  EXPECT_EQ(estimate.tokens_per_step, 2 * 2 * 64);
  EXPECT_EQ(estimate.steps, 6);
  EXPECT_GT(estimate.step_seconds, 0);
  EXPECT_GT(estimate.memory_bytes, 16.0 * static_cast<double>(estimate.parameters));
  recipe.train.max_minutes = 0.5;
  recipe.train.steps = 0;
  const TrainEstimate timed = estimate_training(recipe);
  EXPECT_LE(timed.seconds, 30.0);
}

}  // namespace
}  // namespace lace
