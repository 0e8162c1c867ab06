// lace train: trains a recipe into a run folder.

#include "lace/train.h"

#include <atomic>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <memory>
#include <numbers>
#include <optional>
#include <sstream>

#include <unistd.h>

#include <c10/util/Logging.h>
#include <nlohmann/json.hpp>

#include "lace/device.h"
#include "lace/distributed.h"
#include "lace/generate.h"

#include "arguments.h"
#include "bench_peak.h"
#include "bench_step_run.h"
#include "commands.h"
#include "core/home.h"
#include "core/large_memory.h"
#include "data_paths.h"
#include "notes.h"
#include "output.h"
#include "report.h"
#include "terminal.h"

namespace lace::cli {

namespace {

struct Options {
  std::string recipe, run, device = "cpu";
  std::vector<std::string> overrides;
  bool resume = false, accept_changed_data = false, dry_run = false, json = false;
};

std::atomic<bool> interrupted{false};

// While a run trains: the first Ctrl-C, or SIGTERM, asks for a checkpoint; the second of either
// ends the program at once. The same signal twice within half a second is one: programs that stop
// others often send it to the process and then to its group.
class SignalHandler {
 public:
  SignalHandler() {
    struct sigaction action {};
    action.sa_handler = [](int signal) {
      // Signal and time in one number: two threads may be in here at once.
      static std::atomic<int64_t> first{0};
      constexpr int64_t kSignals = 128, kOneMs = 500;
      timespec time{};
      clock_gettime(CLOCK_MONOTONIC, &time);
      const int64_t now_ms = int64_t{time.tv_sec} * 1000 + time.tv_nsec / 1'000'000;
      int64_t before = 0;
      if (first.compare_exchange_strong(before, now_ms * kSignals + signal)) {
        interrupted = true;
        return;
      }
      if (before % kSignals == signal && now_ms - before / kSignals < kOneMs) return;
      std::signal(signal, SIG_DFL);
      std::raise(signal);  // comes when this handler returns
    };
    sigaction(SIGINT, &action, &old_int_);
    sigaction(SIGTERM, &action, &old_term_);
  }
  ~SignalHandler() {
    sigaction(SIGINT, &old_int_, nullptr);
    sigaction(SIGTERM, &old_term_, nullptr);
  }
  SignalHandler(const SignalHandler&) = delete;
  SignalHandler& operator=(const SignalHandler&) = delete;

 private:
  struct sigaction old_int_ {
  }, old_term_{};
};

std::string fixed(double value, int digits) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(digits) << value;
  return out.str();
}

// Shows a run's steps: a bar on a terminal, else a line every few seconds.
class ProgressView {
 public:
  ProgressView() : bar_("train", kBarSteps), terminal_(is_terminal(stderr)) {}

  void show(const TrainProgress& p) {
    loss_ =
        p.step == 1 || loss_ == 0 || !std::isfinite(loss_) ? p.loss : 0.95 * loss_ + 0.05 * p.loss;
    speed_ = speed_ == 0 ? p.tokens_per_s : 0.9 * speed_ + 0.1 * p.tokens_per_s;
    if (p.validation_bits_per_byte) {
      validation_ = p.validation_bits_per_byte;
      validation_step_ = p.step;
    }
    std::string text = "loss " + fixed(loss_, 3) + " · " + fixed(loss_ / std::numbers::ln2, 3) +
                       " bits/byte · " + format_count(std::llround(speed_)) + " tokens/s";
    if (validation_) text += " · validation " + fixed(*validation_, 3);
    if (validation_ && validation_step_ < p.step)
      text += " at step " + format_count(validation_step_);
    if (terminal_) {
      // The bar reckons the time left from its own start: a resumed run begins at 0 there too.
      if (first_fraction_ < 0) first_fraction_ = p.step == 1 ? 0 : p.fraction;
      const double left = 1 - first_fraction_;
      const double share = left > 0 ? (p.fraction - first_fraction_) / left : 1;
      bar_.update(static_cast<int64_t>(share * kBarSteps), text);
      return;
    }
    const auto now = std::chrono::steady_clock::now();
    if (p.step > 1 && now - shown_ < std::chrono::seconds(10) && !p.validation_bits_per_byte)
      return;
    shown_ = now;
    std::cerr << "step " << format_count(p.step) << " · " << fixed(100 * p.fraction, 1) << "% · "
              << format_time_left(p.remaining_s) << " · " << text << std::endl;
  }

 private:
  static constexpr int64_t kBarSteps = 1000;
  ProgressBar bar_;
  bool terminal_;
  double loss_ = 0, speed_ = 0, first_fraction_ = -1;
  std::optional<double> validation_;
  int64_t validation_step_ = 0;  // at which it was measured
  std::chrono::steady_clock::time_point shown_{};
};

void dry_run(const Recipe& recipe, at::Device device, bool json) {
  const TrainEstimate e = estimate_training(recipe, device);
  if (json) {
    return print_json({{"parameters", e.parameters},
                       {"tokens_per_step", e.tokens_per_step},
                       {"steps", e.steps},
                       {"memory_bytes", std::llround(e.memory_bytes)},
                       {"step_s", e.step_seconds},
                       {"total_s", e.seconds}});
  }
  std::cout << "parameters   " << format_count(e.parameters) << "\n"
            << "a step       " << format_count(e.tokens_per_step) << " bytes, about "
            << format_duration(e.step_seconds) << " here\n"
            << "tensors      about " << format_bytes(e.memory_bytes)
            << " of memory: weights, gradients, Adam's means, what forward keeps\n"
            << "the run      about " << format_count(e.steps) << " steps, "
            << format_duration(e.seconds) << "\n";
}

std::string run_folder(const Options& options, const Recipe& recipe) {
  if (!options.run.empty()) return options.run;
  const std::string name =
      recipe.name.empty() ? std::filesystem::path(options.recipe).stem().native() : recipe.name;
  LACE_CHECK(name != "." && name != "..", "[train] ", options.recipe,
             " gives the run no name: set name or --run");
  return "runs/" + name;
}

void print_result(const RunResult& result, const std::string& folder, bool json) {
  if (json) {
    const auto optional = [](const std::optional<double>& value) {
      return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
    };
    return print_json(
        {{"run", path_text(folder)},
         {"finished", result.finished},
         {"stopped_early", result.stopped_early},
         {"steps", result.steps},
         {"bytes_trained", result.tokens},
         {"elapsed_s", result.elapsed_s},
         {"tokens_per_s", result.tokens_per_s},
         {"validation_bits_per_byte", optional(result.validation_bits_per_byte)},
         {"best_validation_bits_per_byte", optional(result.best_validation_bits_per_byte)}});
  }
  std::cout << (result.stopped_early ? "stopped early after "
                : result.finished    ? "trained "
                                     : "stopped after ")
            << format_count(result.steps) << " steps, " << format_count(result.tokens)
            << " bytes in " << format_duration(result.elapsed_s) << " ("
            << format_count(std::llround(result.tokens_per_s)) << " tokens/s)";
  if (const auto& best = result.best_validation_bits_per_byte)
    std::cout << "; best validation " << fixed(*best, 3) << " bits/byte";
  std::cout << "\nrun folder: " << path_text(folder)
            << "\nreport: " << path_text(folder + "/report.html") << "\n";
}

// What a run draws on the way; nothing once it is to end.
std::optional<DrawnSample> draw(const SparseTransformer& model, int64_t bytes, uint64_t seed) {
  SampleOptions how;
  how.length = bytes;
  how.seed = seed;
  DrawnSample sample;
  sample.temperature = how.temperature;
  sample.bytes = lace::sample(model, {}, how, [](uint8_t) { return !interrupted.load(); });
  if (interrupted) return std::nullopt;
  return sample;
}

// Meets the processes that were started together with this one. One that cannot end in time, when
// another has died, is ended.
std::unique_ptr<Group> join(const Environment& environment, at::Device device) {
  // libtorch would tell of each connection that is lost, at length; lace's error names the rank.
  if (environment.size > 1 && std::getenv("TORCH_CPP_LOG_LEVEL") == nullptr)
    FLAGS_caffe2_log_level = c10::GLOG_ERROR;
  return join_group(environment, device, {.on_stuck = [](const std::string& failure) {
                      std::cerr << safe_lines("lace: " + failure) << std::endl;
                      _exit(1);
                    }});
}

// A run that goes on has its recipe in its folder.
std::string recipe_file(const Options& options) {
  if (!options.recipe.empty()) return options.recipe;
  LACE_CHECK(options.resume && !options.run.empty(),
             "[train] without a recipe there must be --run DIR and --resume: it goes on with the "
             "recipe of that run");
  return options.run + "/recipe.toml";
}

void train(const Options& options) {
  Recipe recipe = load_recipe(recipe_file(options), options.overrides);
  recipe.data.change_places(expand_home);
  const Environment environment = find_environment();
  const at::Device device = find_rank_device(options.device, environment);
  const bool first = environment.rank == 0;  // which alone tells of the run
  if (device.is_cpu()) keep_freed_memory();
  if (options.dry_run) {
    if (first) dry_run(recipe, device, options.json);
    return;
  }
  const std::string folder = run_folder(options, recipe);
  const std::unique_ptr<Group> group = join(environment, device);
  if (first)
    std::cerr << format_count(parameter_count(recipe.model)) << " parameters, context "
              << format_count(recipe.model.seq_len) << ", run folder " << path_text(folder) << "\n";
  check_data_paths(recipe.data, "--set data.paths=FILE names others");
  const auto note = [](const std::string& text) {
    std::cerr << safe_lines(concat("lace: ", text)) << std::endl;
  };
  std::optional<LiveReport> report;
  if (first) report.emplace(folder, note);
  RunResult result;
  {
    const SignalHandler handler;
    double peak = 0;  // a GPU is nobody else's: once is enough
    const auto measure_peak = [&] {
      if (peak == 0 || device.is_cpu()) peak = measured_peak(device, recipe.model.precision);
      return peak;
    };
    std::optional<ProgressView> view;
    if (first) view.emplace();
    result =
        train_run(recipe, {.folder = folder,
                           .resume = options.resume,
                           .device = device,
                           .group = environment.size > 1 ? group.get() : nullptr,
                           .on_data = print_notes,
                           .on_step =
                               [&](const TrainProgress& progress) {
                                 if (view) view->show(progress);
                                 if (report)
                                   report->update(progress.validation_bits_per_byte.has_value());
                                 return !interrupted;
                               },
                           .accept_changed_data = options.accept_changed_data,
                           .on_note = note,
                           .draw = draw,
                           .step_operations = first ? step_operations(recipe) : 0,
                           .measure_peak = measure_peak});
  }
  if (report) report->finish();
  if (first) print_result(result, folder, options.json);
  LACE_CHECK(result.finished,
             "[train] interrupted: a checkpoint is saved; go on with: lace train --run ",
             path_text(folder), " --resume");
}

void add_train(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "train",
      "Trains a recipe into a run folder; what torchrun, mpirun or srun start trains one run");
  add_recipe(*command, options->recipe, options->overrides)
      ->required(false)
      ->description("The recipe, a TOML file; with --run and --resume that of the run");
  command->add_option("--run", options->run, "The run's folder; default runs/NAME")
      ->transform(path());
  command->add_flag("--resume", options->resume,
                    "Go on from the folder's last checkpoint (docs/runs.md)");
  command->add_flag("--accept-changed-data", options->accept_changed_data,
                    "With --resume: go on also if the data have changed");
  command->add_flag("--dry-run", options->dry_run,
                    "Only tell parameters, memory and an estimate of the time");
  command->add_flag("--json", options->json, "Print the result as JSON");
  add_device(*command, options->device, "Where to train");
  add_threads(*command);
  command->footer(examples({"lace train recipes/demo.toml --run runs/demo",
                            "lace train recipes/demo.toml --set data.paths=~/src --run runs/mine",
                            "lace train recipes/text-small.toml --set data.paths=~/src",
                            "lace train --run runs/mine --resume",
                            "lace train --run runs/mine --resume --set train.max_minutes=10",
                            "lace train recipes/demo.toml --run runs/other --set "
                            "train.sample_every=500 --set train.early_stop=5 --set "
                            "train.keep_checkpoints=3",
                            "lace train recipes/demo.toml --run runs/gpu --device cuda --set "
                            "model.precision=bf16",
                            "lace train recipes/enwik8.toml --dry-run"}));
  command->callback([options] { train(*options); });
}

const Command kTrain(Order::kTrain, add_train);

}  // namespace

}  // namespace lace::cli
