// lace bench step: times the training step of a recipe.

#include "bench_step.h"

#include <iostream>
#include <memory>
#include <random>
#include <vector>

#include <ATen/Parallel.h>
#include <nlohmann/json.hpp>

#include "lace/device.h"
#include "lace/train.h"

#include "arguments.h"
#include "bench_rounds.h"
#include "commands.h"
#include "output.h"
#include "terminal.h"

namespace lace::cli {

namespace {

using Json = nlohmann::ordered_json;

struct StepOptions {
  std::string recipe, device = "cpu";
  std::vector<std::string> overrides;
  int steps = 20;
  bool json = false;
};

// Random bytes: the time of a step does not depend on what it learns.
TextData random_data(const Recipe& recipe) {
  std::mt19937 generator(1);
  const int64_t windows = recipe.train.batch * recipe.train.accumulate + 1;
  std::vector<uint8_t> bytes(static_cast<size_t>(windows * recipe.model.seq_len));
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(generator());
  TextData data;
  data.train = ByteStream(std::move(bytes));
  return data;
}

Json model_json(const ModelConfig& model) {
  return {{"vocab", model.vocab},
          {"seq_len", model.seq_len},
          {"layers", model.layers},
          {"d_model", model.d_model},
          {"heads", model.heads},
          {"qk_dim", model.qk_dim_or_default()},
          {"v_dim", model.v_dim_or_default()},
          {"ff_multiple", model.ff_multiple},
          {"patterns", model.patterns},
          {"position_stride", model.position_stride_or_default()},
          {"precision", name(model.precision)}};
}

void bench_step(const StepOptions& options) {
  Recipe recipe = load_recipe(options.recipe, options.overrides);
  recipe.train.steps = 0;
  recipe.train.max_minutes = 60;  // a schedule is asked for; the run ends by --steps
  Trainer trainer(recipe, random_data(recipe), find_device(options.device));
  constexpr int kWarmUp = 3;
  std::vector<double> times_ms;
  const int64_t tokens = recipe.train.batch * recipe.train.accumulate * recipe.model.seq_len;
  for (int step = -kWarmUp; step < options.steps; ++step) {
    const double time_ms = 1e3 * static_cast<double>(tokens) / trainer.take_step().tokens_per_s;
    if (step >= 0) times_ms.push_back(time_ms);
  }
  const double time_ms = median(times_ms);
  if (options.json) {
    std::cout << Json{{"benchmark", "step"},
                      {"recipe", options.recipe},
                      {"model", model_json(recipe.model)},
                      {"parameters", parameter_count(recipe.model)},
                      {"batch", recipe.train.batch * recipe.train.accumulate},
                      {"threads", at::get_num_threads()},
                      {"device", trainer.model().device().str()},
                      {"time_ms", time_ms},
                      {"spread_ms", spread(times_ms)},
                      {"tokens_per_s", 1e3 * static_cast<double>(tokens) / time_ms},
                      {"times_ms", times_ms}}
                     .dump(2)
              << "\n";
    return;
  }
  std::cout << format_number(time_ms) << " ms a step (± " << format_number(spread(times_ms))
            << "), " << format_number(1e3 * static_cast<double>(tokens) / time_ms)
            << " tokens/s: " << parameter_count(recipe.model) << " parameters, "
            << name(recipe.model.precision) << ", " << at::get_num_threads() << " threads\n";
}

}  // namespace

void add_bench_step(CLI::App& bench) {
  auto options = std::make_shared<StepOptions>();
  CLI::App* step = bench.add_subcommand("step", "The training step of a recipe, on random bytes");
  step->add_option("recipe", options->recipe, "A recipe's file")
      ->required()
      ->transform(path())
      ->check(CLI::ExistingFile);
  step->add_option("--set", options->overrides, "section.key=value, as in lace train")
      ->type_name("KEY=VALUE");
  step->add_option("--steps", options->steps, "Timed steps")
      ->capture_default_str()
      ->transform(whole_number(1, 100000));
  step->add_flag("--json", options->json, "Print JSON");
  add_device(*step, options->device, "Where to train");
  add_threads(*step, 2);
  step->footer(examples({
      "lace bench step recipes/demo.toml",
      "lace bench step recipes/demo.toml --set model.precision=fp32 --json",
  }));
  step->callback([options] { bench_step(*options); });
}

}  // namespace lace::cli
