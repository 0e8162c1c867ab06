// lace bench step: times the training step of a recipe, or of a table of the paper's.

#include "bench_step.h"

#include <filesystem>
#include <iostream>
#include <memory>
#include <vector>

#include <ATen/Parallel.h>
#include <nlohmann/json.hpp>
#include <torch/version.h>

#include "lace/device.h"
#include "lace/version.h"

#include "arguments.h"
#include "bench_cuda_time.h"
#include "bench_rounds.h"
#include "bench_step_cases.h"
#include "bench_step_run.h"
#include "commands.h"
#include "output.h"
#include "terminal.h"

namespace lace::cli {

nlohmann::ordered_json model_json(const ModelConfig& model) {
  return {{"vocab", model.vocab},
          {"seq_len", model.seq_len},
          {"layers", model.layers},
          {"d_model", model.d_model},
          {"heads", model.heads},
          {"kv_heads", model.kv_heads_or_default()},
          {"qk_dim", model.qk_dim_or_default()},
          {"v_dim", model.v_dim_or_default()},
          {"ff_multiple", model.ff_multiple},
          {"patterns", model.patterns},
          {"positions", name(model.positions)},
          {"position_stride", model.position_stride_or_default()},
          {"image_height", model.image_height},
          {"image_width", model.image_width},
          {"image_channels", model.image_channels},
          {"dropout", model.dropout},
          {"recompute", model.recompute},
          {"tied", model.tied},
          {"precision", name(model.precision)},
          {"residual", name(model.residual)},
          {"init", name(model.init)},
          {"deterministic", model.deterministic}};
}

namespace {

using Json = nlohmann::ordered_json;
using train::StepPart;

constexpr int kTableSteps = 5;

struct Options {
  std::string recipe, device = "cpu", trace;
  std::vector<std::string> overrides, rows;
  int steps = 0;  // 0: the default
  bool table = false, list = false, no_profile = false, json = false;
};

int64_t tokens_of(const Recipe& recipe) {
  return recipe.train.batch * recipe.train.accumulate * recipe.model.seq_len;
}

double tokens_per_s(const Recipe& recipe, const StepResult& result) {
  return 1e3 * static_cast<double>(tokens_of(recipe)) / result.time_ms();
}

double tflops(const StepResult& result) { return result.operations / result.time_ms() * 1e-9; }

// What there is to say of a GPU's steps. `matmul_tflops`: of the same GPU.
Json gpu_json(const StepResult& result, double matmul_tflops) {
  Json json = {{"operations", result.operations},
               {"tflops", rounded(tflops(result))},
               {"share_of_matmul", rounded(tflops(result) / matmul_tflops)},
               {"memory_bytes", result.memory_bytes},
               {"parts_ms", nullptr},
               {"profiled_ms", nullptr},
               {"kernels", nullptr}};
  if (!result.profile) return json;
  Json parts = Json::object(), kernels = Json::array();
  for (int part = 0; part < train::kStepParts; ++part) {
    parts[std::string(name(static_cast<StepPart>(part)))] =
        rounded(result.profile->times.part_ms[static_cast<size_t>(part)]);
  }
  parts["idle"] = rounded(result.idle_ms());
  for (const KernelTime& kernel : result.profile->kernels) {
    kernels.push_back({{"name", kernel.name.substr(0, 200)},
                       {"part", name(kernel.part)},
                       {"calls", kernel.calls},
                       {"time_ms", rounded(kernel.time_ms)}});
  }
  json["parts_ms"] = parts;
  json["profiled_ms"] = rounded(result.profile->times.extent_ms);
  json["kernels"] = kernels;
  return json;
}

Json step_json(const Recipe& recipe, c10::Device device, const StepResult& result) {
  return {{"model", model_json(recipe.model)},
          {"parameters", parameter_count(recipe.model)},
          {"batch", recipe.train.batch * recipe.train.accumulate},
          {"accumulate", recipe.train.accumulate},
          {"threads", at::get_num_threads()},
          {"device", device.str()},
          {"time_ms", result.time_ms()},
          {"spread_ms", spread(result.times_ms)},
          {"tokens_per_s", tokens_per_s(recipe, result)},
          {"times_ms", result.times_ms}};
}

Json machine_json(c10::Device device, double matmul_tflops) {
  return {{"version", version()},
          {"commit", commit()},
          {"libtorch", TORCH_VERSION},
          {"gpu", gpu_name(device)},
          {"matmul_tflops", rounded(matmul_tflops)}};
}

// ---- one recipe ---------------------------------------------------------------------------------

void print_gpu(const StepResult& result, double matmul_tflops) {
  std::cout << format_number(result.operations * 1e-12)
            << " TFLOP a step, live pairs counted: " << format_number(tflops(result))
            << " TFLOP/s, " << format_number(100 * tflops(result) / matmul_tflops)
            << "% of a matrix product's " << format_number(matmul_tflops) << "; "
            << format_bytes(result.memory_bytes) << " of memory\n";
  if (!result.profile) return;
  Table table({"part", "ms", "of the step"});
  const auto add = [&](std::string_view part, double ms) {
    table.add(
        {std::string(part), format_number(ms), format_number(100 * ms / result.time_ms()) + "%"});
  };
  for (int part = 0; part < train::kStepParts; ++part) {
    add(name(static_cast<StepPart>(part)),
        result.profile->times.part_ms[static_cast<size_t>(part)]);
  }
  add("idle", result.idle_ms());
  std::cout << table.to_string();
}

// What the GPU did in the steps that were looked at, as Chrome's trace format has it.
void write_trace(const std::string& path, const StepProfile& profile) {
  Json events = Json::array();
  for (const ops::DeviceSpan& span : profile.spans) {
    events.push_back({{"name", span.name},
                      {"cat", train::name(train::step_part(span.name))},
                      {"ph", "X"},
                      {"pid", 0},
                      {"tid", 0},
                      {"ts", 1e-3 * static_cast<double>(span.begin_ns)},
                      {"dur", 1e-3 * static_cast<double>(span.end_ns - span.begin_ns)}});
  }
  write_file("the trace", path, Json{{"traceEvents", events}}.dump());
}

void bench_recipe(const Options& options) {
  const Recipe recipe = load_recipe(options.recipe, options.overrides);
  const c10::Device device = find_device(options.device);
  const double matmul = device.is_cpu() ? 0 : gpu_matmul_tflops(device);
  if (!device.is_cpu()) release_gpu_memory();
  StepOptions how;
  if (options.steps > 0) how.steps = options.steps;
  how.profile = !options.no_profile;
  const StepResult result = run_steps(recipe, device, how);
  if (!device.is_cpu() && how.profile && !result.profile) {
    std::cerr << "the driver lets nobody see the GPU's kernels: no parts\n";
  }
  if (!options.trace.empty() && result.profile) write_trace(options.trace, *result.profile);
  if (options.json) {
    Json json = {{"benchmark", "step"}, {"recipe", options.recipe}};
    json.update(step_json(recipe, device, result));
    if (!device.is_cpu()) {
      json.update(machine_json(device, matmul));
      json.update(gpu_json(result, matmul));
    }
    return print_json(json);
  }
  std::cout << format_number(result.time_ms()) << " ms a step (± "
            << format_number(spread(result.times_ms)) << "), "
            << format_count(std::llround(tokens_per_s(recipe, result)))
            << " tokens/s: " << format_count(parameter_count(recipe.model)) << " parameters, "
            << name(recipe.model.precision) << ", "
            << (device.is_cpu() ? std::to_string(at::get_num_threads()) + " threads"
                                : gpu_name(device))
            << "\n";
  if (!device.is_cpu()) print_gpu(result, matmul);
}

// ---- the table ----------------------------------------------------------------------------------

std::vector<StepCase> chosen_cases(const Options& options) {
  std::vector<StepCase> cases = step_table();
  std::erase_if(cases, [&](const StepCase& c) { return !asks_for(options.rows, c.name); });
  if (cases.empty()) throw CLI::ValidationError("--rows", "no row has a name with this text");
  return cases;
}

// A row that fails has null figures and "error".
Json table_row(const StepCase& c, const Options& options, c10::Device device, double matmul) {
  Json json = {{"name", c.name}, {"error", nullptr}};
  try {
    std::vector<std::string> overrides = c.overrides;
    overrides.insert(overrides.end(), options.overrides.begin(), options.overrides.end());
    const Recipe recipe =
        load_recipe((std::filesystem::path(options.recipe) / c.recipe).string(), overrides);
    StepOptions how;
    how.steps = options.steps > 0 ? options.steps : kTableSteps;
    how.profile = !options.no_profile;
    const StepResult result = run_steps(recipe, device, how);
    json.update(step_json(recipe, device, result));
    json.update(gpu_json(result, matmul));
  } catch (const c10::Error& error) {
    json["error"] = error.what_without_backtrace();
  } catch (const std::exception& error) {
    json["error"] = error.what();
  }
  return json;
}

std::string text_of(const Json& row, const char* key, double factor = 1) {
  if (!row.contains(key) || !row[key].is_number()) return "–";
  return format_number(factor * row[key].get<double>());
}

void print_table(const Json& report) {
  std::cout << report["gpu"].get<std::string>() << ": matrix product "
            << text_of(report, "matmul_tflops") << " TFLOP/s bf16\n";
  Table table({"row", "ms", "±", "tokens/s", "products", "attention", "backward", "elementwise",
               "optimizer", "other", "idle", "of matmul", "GB"});
  for (const Json& row : report["rows"]) {
    const Json parts =
        row.contains("parts_ms") && row["parts_ms"].is_object() ? row["parts_ms"] : Json::object();
    table.add({row["name"], text_of(row, "time_ms"), text_of(row, "spread_ms"),
               text_of(row, "tokens_per_s"), text_of(parts, "products"),
               text_of(parts, "attention_forward"), text_of(parts, "attention_backward"),
               text_of(parts, "elementwise"), text_of(parts, "optimizer"), text_of(parts, "other"),
               text_of(parts, "idle"), text_of(row, "share_of_matmul", 100) + "%",
               text_of(row, "memory_bytes", 1e-9)});
  }
  std::cout << table.to_string()
            << "ms of a step; attention: forward; of matmul: the model's operations, live pairs "
               "counted, over the matrix product's rate\n";
}

void bench_table(const Options& options) {
  const std::vector<StepCase> cases = chosen_cases(options);
  if (options.list) {
    for (const StepCase& c : cases) std::cout << c.name << "\n";
    return;
  }
  const c10::Device device = find_device(options.device);
  if (device.is_cpu()) throw CLI::ValidationError("--table", "needs --device cuda");
  const double matmul = gpu_matmul_tflops(device);
  Json report = {{"benchmark", "step_table"}};
  report.update(machine_json(device, matmul));
  report["rows"] = Json::array();
  int failed = 0;
  {
    ProgressBar bar("bench", static_cast<int64_t>(cases.size()));
    for (const StepCase& c : cases) {
      bar.update(static_cast<int64_t>(report["rows"].size()), c.name);
      release_gpu_memory();
      report["rows"].push_back(table_row(c, options, device, matmul));
      if (report["rows"].back()["error"].is_string()) ++failed;
    }
  }
  if (options.json) {
    print_json(report);
  } else {
    print_table(report);
  }
  std::cout << std::flush;
  for (const Json& row : report["rows"]) {
    if (!row["error"].is_string()) continue;
    std::cerr << row["name"].get<std::string>() << ": "
              << safe_lines(row["error"].get<std::string>()) << "\n";
  }
  LACE_CHECK(failed == 0, "[bench] all rows must run, got ", failed, " that did not");
}

void bench_step(Options options) {
  if (!options.table) {
    if (options.recipe.empty()) throw CLI::RequiredError("recipe");
    if (!options.rows.empty() || options.list) {
      throw CLI::ValidationError(options.list ? "--list" : "--rows", "is for --table");
    }
    if (std::filesystem::is_directory(options.recipe)) {
      throw CLI::ValidationError("recipe", options.recipe + " is a folder");
    }
    if (!options.trace.empty() && (options.device == "cpu" || options.no_profile)) {
      throw CLI::ValidationError("--trace", "is for a GPU, and not for --no-profile");
    }
    return bench_recipe(options);
  }
  if (!options.trace.empty()) throw CLI::ValidationError("--trace", "is not for --table");
  if (options.recipe.empty()) options.recipe = "recipes";
  bench_table(options);
}

}  // namespace

void add_bench_step(CLI::App& bench) {
  auto options = std::make_shared<Options>();
  CLI::App* step = bench.add_subcommand(
      "step", "The training step of a recipe, on random bytes, or a table of the paper's models");
  step->add_option("recipe", options->recipe,
                   "A recipe's file; with --table the folder of the paper's (default: recipes)")
      ->transform(path())
      ->check(CLI::ExistingPath);
  add_set(*step, options->overrides);
  step->add_option("--steps", options->steps,
                   "Timed steps (default: 20, of each row of the table 5)")
      ->transform(whole_number(1, 100000));
  step->add_flag("--table", options->table,
                 "On a GPU: the paper's recipes x patterns x dropout x recompute, some minutes");
  step->add_option("--rows", options->rows, "Only rows of the table whose name has this text")
      ->type_name("TEXT");
  step->add_flag("--list", options->list, "Print the names of the rows and stop");
  step->add_flag("--no-profile", options->no_profile,
                 "On a GPU: do not look at two more steps to see where their time goes");
  step->add_option("--trace", options->trace,
                   "On a GPU: write what it did in those two steps, as chrome://tracing and "
                   "Perfetto read it")
      ->transform(path())
      ->type_name("FILE");
  step->add_flag("--json", options->json, "Print JSON");
  add_device(*step, options->device, "Where to train");
  add_threads(*step, 2);
  step->footer(examples({
      "lace bench step recipes/demo.toml",
      "lace bench step recipes/demo.toml --set model.precision=fp32 --json",
      "lace bench step recipes/enwik8.toml --device cuda --trace step.json",
      "lace bench step --device cuda --table --rows enwik8-fixed imagenet64",
  }));
  step->callback([options] { bench_step(*options); });
}

}  // namespace lace::cli
