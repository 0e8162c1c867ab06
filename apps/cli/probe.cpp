// lace probe: what runs use of their context.

#include "lace/probe.h"

#include <filesystem>
#include <iostream>
#include <memory>

#include <nlohmann/json.hpp>

#include "lace/device.h"
#include "lace/train.h"

#include "arguments.h"
#include "commands.h"
#include "data_paths.h"
#include "eval_output.h"
#include "load_checked.h"
#include "notes.h"
#include "output.h"
#include "probe_print.h"
#include "terminal.h"

namespace lace::cli {

namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::vector<std::string> runs;
  ProbeOptions probe;
  std::string checkpoint, device = "cpu", out;
  bool random = false, json = false;
};

std::string details(const LoadedRun& run) {
  std::string patterns;
  for (const std::string& pattern : run.recipe.model.patterns)
    patterns += (patterns.empty() ? "" : ", ") + pattern;
  return concat(patterns, ", seq_len ", format_count(run.recipe.model.seq_len), ", checkpoint ",
                run.checkpoint, " of step ", format_count(run.step));
}

ProbedRun probe_run(const std::string& folder, const Options& options) {
  const LoadedRun run = load_checked(folder, options.checkpoint, find_device(options.device));
  Dataset data;
  if (!options.random && !run.recipe.data.paths.empty()) {
    check_data_paths(run.recipe.data, "--random needs none");
    data = load_data(run.recipe, cache_beside(folder));
    print_notes(data);
  }
  ProbeOptions own = options.probe;
  own.batch = run.recipe.eval.batch;
  own.aligned = data.record_bytes > 0;
  ProgressBar bar("probe " + path_text(folder), 1000);
  return {path_text(folder), details(run),
          probe(*run.model, data.validation, own,
                [&](int64_t done, int64_t total) { bar.update(1000 * done / total); })};
}

Json estimate_json(const Estimate& estimate) {
  return {{"bits_per_byte", estimate.mean},
          {"interval_95", interval_json(estimate.mean, estimate.half_width)}};
}

Json to_json(const ProbedRun& run, uint64_t seed) {
  const ProbeResult& result = run.result;
  Json json = {{"run", run.name},
               {"details", run.details},
               {"seq_len", result.seq_len},
               {"filler", result.random_filler ? "random" : "validation"},
               {"trials", result.trials},
               {"seed", seed},
               {"copying", Json::array()},
               {"positions", Json::array()},
               {"position_windows", result.position_windows},
               {"elapsed_s", result.elapsed_s}};
  for (const CopyCell& cell : result.cells) {
    json["copying"].push_back({{"length", cell.length},
                               {"depth", cell.depth},
                               {"distance", cell.distance},
                               {"copied", estimate_json(cell.copied)},
                               {"fresh", estimate_json(cell.fresh)},
                               {"gain", estimate_json(cell.gain)},
                               {"saved_share", saved_share(cell)}});
  }
  for (const PositionBin& bin : result.positions) {
    Json row = {{"begin", bin.begin}, {"end", bin.end}, {"bytes", bin.bytes}};
    row.update(estimate_json(bin.bits_per_byte));
    json["positions"].push_back(row);
  }
  return json;
}

void run_probe(const Options& options) {
  std::vector<ProbedRun> runs;
  for (const std::string& folder : options.runs) {
    runs.push_back(probe_run(folder, options));
    if (!options.json)
      std::cout << (runs.size() > 1 ? "\n" : "") << probe_text(runs.back()) << std::flush;
  }
  if (!options.out.empty()) write_file("probe", options.out, probe_page(runs));
  if (options.json) {
    Json json = {{"runs", Json::array()}};
    for (const ProbedRun& run : runs) json["runs"].push_back(to_json(run, options.probe.seed));
    print_json(json);
  } else if (!options.out.empty()) {
    std::cout << "\npage in " << path_text(options.out) << "\n";
  }
}

void add_probe(CLI::App& app) {
  auto options = std::make_shared<Options>();
  ProbeOptions& probe = options->probe;
  CLI::App* command = app.add_subcommand(
      "probe", "Shows what runs use of their context: copying by depth, loss by position");
  command->add_option("run", options->runs, "Folders of runs, shown one below the other")
      ->required()
      ->transform(path())
      ->check(CLI::ExistingDirectory);
  command
      ->add_option("--lengths", probe.lengths,
                   "Bytes of the planted strings; default: those of 8, 32, 128 that fit four times")
      ->delimiter(',')
      ->transform(whole_number(1));
  command
      ->add_option("--depths", probe.depths,
                   "Where they are planted: 0 is the window's beginning, 1 right before the repeat")
      ->delimiter(',')
      ->transform(number(0, 1))
      ->capture_default_str();
  command->add_option("--trials", probe.trials, "Windows of a length and depth, and as many fresh")
      ->transform(whole_number(1, 1'000'000))
      ->capture_default_str();
  command
      ->add_option("--windows", probe.windows,
                   "Windows for the loss by position, at most; 0: leave it out")
      ->transform(whole_number(0))
      ->capture_default_str();
  command->add_option("--seed", probe.seed, "Of the filler's places and the strings")
      ->transform(whole_number(0))
      ->capture_default_str();
  command->add_flag("--random", options->random,
                    "Filler and strings of random bytes, not from the run's validation data");
  command->add_option("--out", options->out, "Also write an HTML page")
      ->transform(path())
      ->check([](const std::string& out) {  // before minutes of work
        return std::filesystem::is_directory(out) ? path_text(out) + " is a folder" : "";
      });
  add_checkpoint(*command, options->checkpoint);
  command->add_flag("--json", options->json, "Print JSON");
  add_device(*command, options->device, "Where to compute");
  add_threads(*command);
  command->footer(
      examples({"lace probe runs/demo", "lace probe runs/demo runs/mine --out probe.html",
                "lace probe runs/demo --lengths 16,64 --depths 0,0.5,1 --trials 32 "
                "--json"}));
  command->callback([options] { run_probe(*options); });
}

const Command kProbe(Order::kProbe, add_probe);

}  // namespace

}  // namespace lace::cli
