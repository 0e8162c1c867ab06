// lace model: the layers, shapes and parameter count of a recipe's model, without allocating it.

#include "lace/model.h"

#include <algorithm>
#include <iostream>
#include <memory>
#include <numeric>

#include <nlohmann/json.hpp>

#include "lace/recipe.h"

#include "arguments.h"
#include "commands.h"
#include "output.h"
#include "terminal.h"

namespace lace::cli {

namespace {

struct Options {
  std::string recipe;
  std::vector<std::string> overrides;
  bool json = false;
};

int64_t count(const ParameterInfo& info) {
  return std::accumulate(info.shape.begin(), info.shape.end(), int64_t{1}, std::multiplies<>());
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text;
  for (const int64_t size : shape) text += (text.empty() ? "" : " x ") + std::to_string(size);
  return text;
}

// "59.20M"
std::string millions(int64_t parameters) {
  char text[32];
  std::snprintf(text, sizeof(text), parameters < 100'000'000 ? "%.2fM" : "%.1fM",
                static_cast<double>(parameters) / 1e6);
  return text;
}

nlohmann::json rotary_json(const ModelConfig& c) {
  if (c.positions != PositionKind::kRotary) return nullptr;
  nlohmann::json rotary = {
      {"base", c.rotary_base}, {"scaling", name(c.rotary_scaling)}, {"factor", c.rotary_factor}};
  if (c.rotary_scaling == RotaryScaling::kYarn) {
    rotary["original_length"] = c.rotary_original_length_or_default();
    rotary["beta_fast"] = c.rotary_beta_fast;
    rotary["beta_slow"] = c.rotary_beta_slow;
  }
  return rotary;
}

// "; rotary positions, base 10000, yarn scaling by 4", or nothing
std::string rotary_text(const ModelConfig& c) {
  if (c.positions != PositionKind::kRotary) return "";
  std::string text = concat("; rotary positions, base ", c.rotary_base);
  if (c.rotary_scaling != RotaryScaling::kNone) {
    text += concat(", ", name(c.rotary_scaling), " scaling by ", c.rotary_factor);
  }
  return text;
}

nlohmann::json to_json(const Recipe& recipe) {
  const ModelConfig& c = recipe.model;
  nlohmann::json parameters = nlohmann::json::array();
  for (const ParameterInfo& info : parameter_infos(c)) {
    parameters.push_back({{"name", info.name},
                          {"shape", info.shape},
                          {"parameters", count(info)},
                          {"init_std", info.init_std}});
  }
  return {{"name", recipe.name},
          {"parameters", parameter_count(c)},
          {"seq_len", c.seq_len},
          {"vocab", c.vocab},
          {"layers", c.layers},
          {"d_model", c.d_model},
          {"heads", c.heads},
          {"kv_heads", c.kv_heads_or_default()},
          {"qk_head_dim", c.qk_head_dim()},
          {"v_head_dim", c.v_head_dim()},
          {"ff_width", c.ff_width()},
          {"patterns", c.patterns},
          {"positions", name(c.positions)},
          {"position_rows", c.position_rows()},
          {"rotary", rotary_json(c)},
          {"dropout", c.dropout},
          {"precision", name(c.precision)},
          {"residual", name(c.residual)},
          {"recompute", c.recompute},
          {"tensors", parameters}};
}

// The rows of one block stand for those of all: they differ in the layer's number and pattern only.
void print_table(const Recipe& recipe) {
  const ModelConfig& c = recipe.model;
  Table table({"tensor", "shape", "parameters"});
  int64_t total = 0;
  const std::string first = "blocks.0.";
  for (const ParameterInfo& info : parameter_infos(c)) {
    total += count(info);
    if (!info.name.starts_with("blocks.")) {
      table.add({info.name, shape_text(info.shape), format_count(count(info))});
    } else if (info.name.starts_with(first)) {
      table.add({concat("blocks.0-", c.layers - 1, ".", info.name.substr(first.size())),
                 concat(c.layers, " x (", shape_text(info.shape), ")"),
                 format_count(c.layers * count(info))});
    }
  }
  const size_t used = std::min(c.patterns.size(), static_cast<size_t>(c.layers));
  std::cout << colored(recipe.name, Color::kBold) << ": " << c.layers << " layers, "
            << format_count(c.seq_len) << " symbols of " << c.vocab << "\n"
            << "attention: " << c.heads << " heads";
  if (c.kv_heads_or_default() != c.heads) std::cout << " on " << c.kv_heads << " of keys";
  std::cout << ", q and k of " << c.qk_head_dim() << ", v of " << c.v_head_dim() << "; "
            << (used > 1 ? "patterns in turn: " : "pattern ");
  for (size_t i = 0; i < used; ++i) std::cout << (i ? ", " : "") << c.patterns[i];
  std::cout << rotary_text(c) << "\nfeed-forward: " << c.ff_width() << "; dropout " << c.dropout
            << "; " << name(c.precision) << (c.recompute ? ", blocks recomputed in backward" : "")
            << "\n\n"
            << table.to_string() << "\n"
            << colored(millions(total), Color::kBold) << " parameters (" << format_count(total)
            << ")\n";
}

void run(const Options& options) {
  const Recipe recipe = load_recipe(options.recipe, options.overrides);
  if (options.json) {
    print_json(to_json(recipe));
  } else {
    print_table(recipe);
  }
}

void add_model(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("model", "Shows a recipe's model: layers, shapes, parameters");
  add_recipe(*command, options->recipe, options->overrides);
  command->add_flag("--json", options->json, "Print JSON");
  command->footer(examples({"lace model recipes/enwik8.toml",
                            "lace model recipes/cifar10.toml --set model.layers=64 --json"}));
  command->callback([options] { run(*options); });
}

const Command kModel(Order::kModel, add_model);

}  // namespace

}  // namespace lace::cli
