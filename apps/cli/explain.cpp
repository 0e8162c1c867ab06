// lace explain: what a pattern costs, how far it reaches, and what it looks like.

#include "plan/explain.h"

#include <algorithm>
#include <charconv>
#include <iostream>
#include <memory>

#include <nlohmann/json.hpp>

#include "lace/error.h"
#include "lace/pattern.h"

#include "arguments.h"
#include "commands.h"
#include "output.h"
#include "plan/explain_json.h"
#include "plan/explain_svg.h"
#include "terminal.h"

namespace lace::cli {

namespace {

struct Options {
  std::vector<std::string> patterns;
  int64_t seq_len = 0;
  int64_t heads = 0;   // 0: what the patterns ask for
  int64_t layers = 0;  // 0: not given
  std::string tile = "128x128";
  bool json = false;
  std::string svg;
};

// "64x128": queries by keys.
TileShape parse_tile(const std::string& text) {
  TileShape tile;
  const char* end = text.data() + text.size();
  const auto [cross, first_error] = std::from_chars(text.data(), end, tile.owners);
  const bool crossed = first_error == std::errc{} && cross != end && *cross == 'x';
  const auto [stop, error] = std::from_chars(crossed ? cross + 1 : end, end, tile.others);
  const auto fits = [](int32_t size) { return 16 <= size && size <= 256 && size % 16 == 0; };
  if (!crossed || error != std::errc{} || stop != end || !fits(tile.owners) || !fits(tile.others)) {
    throw CLI::ValidationError("--tile must be QUERIESxKEYS, multiples of 16 up to 256, got " +
                               text);
  }
  return tile;
}

std::string percent(double part) { return format_number(100 * part) + "%"; }

std::string order_text(const PassFigures& pass) {
  return pass.period > 0 ? concat(name(pass.order), " mod ", pass.period)
                         : std::string(name(pass.order));
}

// Passes of one order together, however many groups of heads have one.
std::vector<PassFigures> by_order(const std::vector<PassFigures>& passes) {
  std::vector<PassFigures> list;
  for (const PassFigures& pass : passes) {
    const auto same = std::find_if(list.begin(), list.end(), [&pass](const PassFigures& other) {
      return other.order == pass.order && other.period == pass.period;
    });
    if (same == list.end()) {
      list.push_back(pass);
      continue;
    }
    same->heads += pass.heads;
    same->live_pairs += pass.live_pairs;
    same->computed_pairs += pass.computed_pairs;
    same->owner_tiles += pass.owner_tiles;
    same->key_tiles += pass.key_tiles;
  }
  return list;
}

template <typename Figures>
std::vector<std::string> figures_row(std::string plan, std::string heads, std::string pass,
                                     const Figures& figures) {
  return {std::move(plan),
          std::move(heads),
          std::move(pass),
          format_count(figures.live_pairs),
          format_count(figures.computed_pairs),
          format_number(waste(figures.computed_pairs, figures.live_pairs)) + "×",
          format_count(figures.owner_tiles),
          format_count(figures.key_tiles)};
}

void print_passes(const Explanation& all) {
  const bool stack = all.layers.size() > 1;
  std::vector<std::string> header{"plan",     "heads", "pass",        "live pairs",
                                  "computed", "waste", "owner tiles", "key tiles"};
  if (stack) header.insert(header.begin(), "layer");
  Table table(header);
  const auto add = [&](const std::string& layer, std::vector<std::string> row) {
    if (stack) row.insert(row.begin(), layer);
    table.add(std::move(row));
  };
  for (const bool transposed : {false, true}) {
    const std::string plan = transposed ? "backward" : "forward";
    for (size_t layer = 0; layer < all.layers.size(); ++layer) {
      const LayerFigures& figures = all.layers[layer];
      for (const PassFigures& pass :
           by_order((transposed ? figures.transposed : figures.forward).passes)) {
        add(std::to_string(layer),
            figures_row(plan, format_count(pass.heads), order_text(pass), pass));
      }
    }
    add("", figures_row(plan, "", "all", transposed ? all.transposed : all.forward));
  }
  std::cout << table.to_string();
}

std::string count_of(int64_t count, const char* noun) {
  return concat(format_count(count), " ", noun, count == 1 ? "" : "s");
}

std::string plan_text(const PlanFigures& plan) {
  return concat(count_of(plan.runs, "run"), ", ", count_of(plan.masks, "mask"), ", ",
                format_bytes(static_cast<double>(plan.plan_bytes)), ", compiled in ",
                format_number(plan.compile_ms), " ms");
}

std::string reach_text(const Reach& reach, int64_t layers) {
  const std::string how = reach.exact ? "" : " (from sampled queries)";
  if (reach.layers < 0) return "never: some positions stay out of sight" + how;
  return concat("after ", format_count(reach.layers), reach.layers == 1 ? " layer" : " layers",
                reach.at_least ? " or more" : "",
                layers == 0              ? ""
                : reach.layers <= layers ? concat(", of ", format_count(layers))
                                         : concat(", but there are ", format_count(layers)),
                how);
}

void print_figures(const Explanation& all, int64_t layers) {
  const auto line = [](const std::string& key, const std::string& value) {
    std::cout << colored(key, Color::kBold) << std::string(18 - key.size(), ' ') << value << "\n";
  };
  line("keys of a query",
       concat("mean ", format_number(all.mean_keys), ", at most ", format_count(all.max_keys)));
  line("saved of dense",
       concat(percent(saved(all, all.forward.live_pairs)), " of ", format_count(all.dense_pairs),
              " pairs; ", percent(saved(all, all.forward.computed_pairs)), " in whole tiles"));
  line("full reach", reach_text(all.reach, layers));
  if (all.one_draw) {
    line("random heads", "those that differ in draws alone count as the first of them: not exact");
    return;
  }
  line("forward plan", plan_text(all.forward));
  line("backward plan", plan_text(all.transposed));
}

// One head's matrix in text: queries down, keys across, darker where more is live. A character is
// about twice as high as wide, and so is the part of the matrix that it stands for.
std::vector<std::string> draw(const BoundPattern& bound, int64_t head, int64_t begin) {
  constexpr int64_t kRows = 18;
  constexpr const char* kShades[] = {" ", "░", "▒", "▓", "█"};
  const int64_t n = bound.k_len() - begin;
  const bool each_pair = n <= 2 * kRows;  // small enough to show every pair, two characters wide
  const int64_t rows = each_pair ? n : kRows, columns = each_pair ? n : 2 * kRows;
  const Picture grid = picture(bound, head, rows, columns, begin);
  std::vector<std::string> lines;
  for (int64_t row = 0; row < rows; ++row) {
    std::string line;
    for (int64_t column = 0; column < columns; ++column) {
      const double density = grid.at(row, column);
      const int shade = density <= 0      ? 0
                        : density < 0.05  ? 1
                        : density < 0.35  ? 2
                        : density < 0.999 ? 3
                                          : 4;
      const bool hidden = bound.causal() && (column * n / columns > (row + 1) * n / rows - 1);
      const char* cell = shade == 0 && !hidden ? "·" : kShades[shade];
      line += cell;
      if (each_pair) line += cell;
    }
    lines.push_back(line);
  }
  return lines;
}

struct Drawing {
  std::string title;
  std::vector<std::string> lines;
};

// Of the first `most` distinct heads; `heads` becomes how many there are.
std::vector<Drawing> drawings(const Explanation& all, int64_t most, int64_t& heads) {
  std::vector<Drawing> list;
  heads = 0;
  for (size_t layer = 0; layer < all.layers.size(); ++layer) {
    const BoundPattern bound = all.layers[layer].pattern.bind(all.heads, all.seq_len, all.seq_len);
    for (int64_t group = 0; group < bound.groups(); ++group) {
      if (++heads > most) continue;
      const int64_t head = bound.group_head(group);
      const std::string title =
          all.layers.size() > 1 ? concat("layer ", layer, ", head ", head) : concat("head ", head);
      list.push_back({title, draw(bound, head, 0)});
      const int64_t corner = corner_begin(bound.expr(head), all.seq_len);
      if (corner > 0) {
        list.push_back({concat(title, ", the last ", format_count(all.seq_len - corner)),
                        draw(bound, head, corner)});
      }
    }
  }
  return list;
}

std::string padded(std::string text, int width) {
  const int shown = display_width(text);
  if (shown < width) text.append(static_cast<size_t>(width - shown), ' ');
  return text;
}

std::string trimmed(std::string text) {
  text.erase(text.find_last_not_of(' ') + 1);
  return text;
}

void print_pictures(const Explanation& all) {
  constexpr int64_t kMost = 4;
  constexpr int kGap = 4;
  int64_t heads = 0;
  const std::vector<Drawing> list = drawings(all, kMost, heads);
  int width = 0;
  for (const Drawing& drawing : list) {
    width = std::max({width, display_width(drawing.title), display_width(drawing.lines[0])});
  }
  width += kGap;
  const auto across = static_cast<size_t>(std::max(1, (terminal_width(stdout) + kGap) / width));
  for (size_t begin = 0; begin < list.size(); begin += across) {
    const size_t end = std::min(list.size(), begin + across);
    size_t rows = 0;
    std::string titles;
    for (size_t d = begin; d < end; ++d) {
      titles += padded(list[d].title, width);
      rows = std::max(rows, list[d].lines.size());
    }
    std::cout << "\n" << trimmed(titles) << "\n";
    for (size_t row = 0; row < rows; ++row) {
      std::string line;
      for (size_t d = begin; d < end; ++d) {
        line += padded(row < list[d].lines.size() ? list[d].lines[row] : "", width);
      }
      std::cout << trimmed(line) << "\n";
    }
  }
  if (heads > kMost) std::cout << "\n" << format_count(heads - kMost) << " more distinct heads\n";
}

void print(const Explanation& all, int64_t layers) {
  for (size_t layer = 0; layer < all.layers.size(); ++layer) {
    if (all.layers.size() > 1) std::cout << "layer " << layer << "  ";
    std::cout << colored(all.layers[layer].pattern.to_string(), Color::kBold) << "\n";
  }
  std::cout << "seq_len " << format_count(all.seq_len) << ", heads " << format_count(all.heads)
            << ", tiles of " << all.tile.owners << " queries x " << all.tile.others << " keys\n\n";
  print_passes(all);
  std::cout << "\n";
  print_figures(all, layers);
  print_pictures(all);
}

void run_explain(const Options& options) {
  std::vector<Pattern> cycle;
  for (const std::string& text : options.patterns) cycle.push_back(given_pattern(text));
  const TileShape tile = parse_tile(options.tile);
  const int64_t heads = options.heads > 0 ? options.heads : heads_told_apart(cycle);
  const Explanation all = explain(cycle, heads, options.seq_len, tile);
  if (!options.svg.empty()) {
    write_file("explain", options.svg, explain_svg(cycle, heads, options.seq_len));
  }
  if (options.json) {
    print_json(explain_json(all, options.layers));
  } else {
    print(all, options.layers);
  }
}

void add_explain(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("explain", "Shows what a pattern costs, how far it reaches, its picture");
  command->add_option("PATTERN", options->patterns, "A pattern; several: the cycle of a stack")
      ->required();
  command->add_option("--seq-len", options->seq_len, "Positions, queries as many as keys")
      ->required()
      ->transform(whole_number(1, int64_t{1} << 30));
  command
      ->add_option("--heads", options->heads, "Heads; default: as many as the patterns tell apart")
      ->transform(whole_number(1, kMostExplainedHeads));
  command->add_option("--layers", options->layers, "Layers of the stack: does it reach everything?")
      ->transform(whole_number(1, 1'000'000));
  command->add_option("--tile", options->tile, "Tiles: QUERIESxKEYS")->capture_default_str();
  command->add_flag("--json", options->json, "Print JSON");
  command->add_option("--svg", options->svg, "Draw the heads into this file")->transform(path());
  command->footer(
      examples({"lace explain 'local(128) | strided(128)' --seq-len 12288",
                "lace explain 'fixed(128, 32, 4)' --seq-len 12288 --heads 8 --json",
                "lace explain 'heads(1*local(6), 1*strided(6))' --seq-len 36 --svg figure3.svg",
                "lace explain 'strided(96)' 'local(96)' --seq-len 3072 --layers 128"}));
  command->callback([options] { run_explain(*options); });
}

const Command kExplain(Order::kExplain, add_explain);

}  // namespace

}  // namespace lace::cli
