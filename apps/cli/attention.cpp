// lace attention: what a run's heads attend to, for its report.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>

#include <nlohmann/json.hpp>

#include "lace/attention_maps.h"
#include "lace/device.h"
#include "lace/train.h"

#include "arguments.h"
#include "commands.h"
#include "data_paths.h"
#include "load_checked.h"
#include "notes.h"
#include "output.h"
#include "report.h"
#include "terminal.h"

namespace lace::cli {

namespace {

using Json = nlohmann::ordered_json;

// What a report reads and shows of attention.json.
constexpr size_t kMostMaps = 32, kMostBytes = size_t{16} << 20;
constexpr int64_t kMostSide = 2048, kMostKeys = int64_t{1} << 20;
constexpr int64_t kMostQueriedByDefault = 65536;

struct Options {
  std::string run, out, checkpoint, device = "cpu";
  AttentionMapOptions maps;
  bool json = false;
};

// The period of the pattern's first atom that has one; 0: none has.
int64_t period_of(const Expr& expr) {
  if (expr.op != Expr::Op::kAtom) {
    for (const Expr& operand : expr.operands)
      if (const int64_t period = period_of(operand); period > 0) return period;
    return 0;
  }
  switch (expr.atom.kind) {
    case AtomKind::kBlock:
    case AtomKind::kStrided:
    case AtomKind::kSummary:
      return expr.atom.args[0];
    default:
      return 0;
  }
}

// Keys that a query's map shows in a row: an image's row, the pattern's period, or about the root
// of the length; so that neither side of the picture is too long.
int64_t row_length(const ModelConfig& model, const std::string& pattern) {
  int64_t length = model.image_width * model.image_channels;
  if (model.positions != PositionKind::kImage)
    length = period_of(Pattern::parse(pattern).entries().front().expr);
  if (length < 1 || length > kMostSide) length = model.position_stride_or_default();
  while (length * kMostSide < model.seq_len) length *= 2;
  return std::min(length, kMostSide);
}

// Of three digits: files stay small.
Json rounded(double weight) {
  if (std::isnan(weight)) return nullptr;
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", weight);
  return std::strtod(text, nullptr);
}

Json to_json(const AttentionMaps& maps, const LoadedRun& run) {
  Json json = {{"step", run.step},
               {"checkpoint", run.checkpoint},
               {"window", maps.window},
               {"windows", maps.windows},
               {"maps", Json::array()}};
  for (const AttentionMap& map : maps.maps) {
    Json entry = {{"layer", map.layer}, {"head", map.head}, {"pattern", map.pattern}};
    if (map.query < 0) {
      entry.update({{"kind", "matrix"}, {"rows", map.rows}, {"columns", map.columns}});
    } else {
      entry.update({{"kind", "query"},
                    {"query", map.query},
                    {"row_length", row_length(run.recipe.model, map.pattern)}});
    }
    Json weights = Json::array();
    for (const double weight : map.weights) weights.push_back(rounded(weight));
    entry["weights"] = std::move(weights);
    json["maps"].push_back(std::move(entry));
  }
  return json;
}

// Where no query is named: one in the middle of a row, behind five eighths of the window.
void choose_query(AttentionMapOptions& options, const ModelConfig& model, int64_t window) {
  if (!options.queries.empty() || window > kMostQueriedByDefault) return;
  const int64_t row = row_length(model, Pattern::parse(model.patterns.front()).to_string());
  options.queries = {std::min(window - 1, window * 5 / 8 / row * row + row / 2)};
}

void map_attention(const Options& options) {
  const LoadedRun run = load_checked(options.run, options.checkpoint, find_device(options.device));
  check_data_paths(run.recipe.data, "");
  const Dataset data = load_data(run.recipe, cache_beside(options.run));
  print_notes(data);
  AttentionMapOptions own = options.maps;
  own.batch = run.recipe.eval.batch;
  choose_query(own, run.recipe.model, map_window(run.recipe.model.seq_len, data.validation));
  for (const int64_t query : own.queries)
    LACE_CHECK(query < kMostKeys, "[attention] --query must be below ", kMostKeys, ", got ", query);
  AttentionMaps maps;
  {
    ProgressBar bar("attention " + path_text(options.run), 1000);
    maps = attention_maps(*run.model, data.validation, own,
                          [&](int64_t done, int64_t total) { bar.update(1000 * done / total); });
  }
  LACE_CHECK(maps.maps.size() <= kMostMaps, "[attention] a report shows at most ", kMostMaps,
             " maps, these are ", maps.maps.size(), ": choose fewer --layers, --heads or --query");
  const Json json = to_json(maps, run);
  const std::string text = json.dump() + "\n";
  LACE_CHECK(text.size() <= kMostBytes, "[attention] the maps must take at most ", kMostBytes,
             " bytes, they take ", text.size(), ": choose fewer, or a smaller --size");
  const std::string path = options.out.empty() ? options.run + "/attention.json" : options.out;
  write_file("attention", path, text);
  if (options.out.empty()) renew_report(options.run);
  if (options.json) return print_json(json);
  std::cout << format_count(static_cast<int64_t>(maps.maps.size())) << " maps, means over "
            << format_count(maps.windows) << " windows, in " << path_text(path) << "\n";
  if (options.out.empty()) std::cout << "report: " << path_text(options.run) << "/report.html\n";
}

void add_attention(CLI::App& app) {
  auto options = std::make_shared<Options>();
  AttentionMapOptions& maps = options->maps;
  CLI::App* command = app.add_subcommand(
      "attention", "Maps what a run's heads attend to, on its validation data, for its report");
  command->add_option("run", options->run, "The run's folder")
      ->required()
      ->transform(path())
      ->check(CLI::ExistingDirectory);
  command->add_option("--layers", maps.layers, "Layers, from 0; default: four from first to last")
      ->delimiter(',')
      ->transform(whole_number(0));
  command->add_option("--heads", maps.heads, "Heads of each, from 0; default: the first four")
      ->delimiter(',')
      ->transform(whole_number(0));
  command
      ->add_option("--size", maps.size,
                   "Rows and columns of a matrix of all queries and keys, at most; 0: none")
      ->transform(whole_number(0, 512))
      ->capture_default_str();
  command
      ->add_option("--query", maps.queries,
                   "Positions whose keys are shown, as the paper's figure 2; default: one, up to "
                   "65,536 bytes of context")
      ->delimiter(',')
      ->transform(whole_number(0));
  command->add_option("--windows", maps.windows, "Windows of validation data to average over")
      ->transform(whole_number(1))
      ->capture_default_str();
  command->add_option("--out", options->out, "The file; default RUN/attention.json")
      ->transform(path());
  add_checkpoint(*command, options->checkpoint);
  command->add_flag("--json", options->json, "Also print it");
  add_device(*command, options->device, "Where to compute");
  add_threads(*command);
  command->footer(examples({"lace attention runs/demo",
                            "lace attention runs/demo --layers 0,2 --heads 0 --windows 32",
                            "lace attention runs/demo --size 0 --query 100,500"}));
  command->callback([options] { map_attention(*options); });
}

const Command kAttention(Order::kAttention, add_attention);

}  // namespace

}  // namespace lace::cli
