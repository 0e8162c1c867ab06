// lace compare: runs side by side, as a table and a chart.

#include "report/compare.h"

#include <cmath>
#include <iostream>
#include <memory>

#include "lace/error.h"

#include "arguments.h"
#include "commands.h"
#include "core/safe_text.h"
#include "output.h"
#include "terminal.h"

namespace lace::cli {

namespace {

struct Options {
  std::vector<std::string> runs;
  std::string svg, html;
  bool json = false;
};

std::string bits(const std::optional<double>& value) {
  if (!value) return "–";
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.3f", *value);
  return buffer;
}

// "−0.012", less than the first; "" where one of the two is not known.
std::string over(const std::optional<double>& value, const std::optional<double>& first) {
  if (!value || !first) return "–";
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%+.3f", *value - *first);
  return buffer;
}

// " (as far as NAME got)"; "" where all runs got as far.
std::string as_far_as(const std::string& name) {
  return name.empty() ? "" : concat(" (as far as ", name, " got)");
}

void print_table(const report::Comparison& comparison) {
  const report::ComparedRun& first = comparison.rows.front();
  Table runs({"run", "parameters", "steps", "bytes", "time", "tokens/s", "pattern"});
  Table scores({"validation, bits/byte", "best", "to the first", "last"});
  Table equal({"run", "equal steps", "to the first", "equal time", "to the first"});
  for (const report::ComparedRun& row : comparison.rows) {
    runs.add({row.name, row.parameters ? format_count(*row.parameters) : "–",
              format_count(row.steps), row.bytes ? format_bytes(*row.bytes) : "–",
              format_duration(row.elapsed_s),
              row.tokens_per_s ? format_count(std::llround(*row.tokens_per_s)) : "–", row.pattern});
    const bool is_first = &row == &first;
    scores.add(
        {row.name, bits(row.best), is_first ? "–" : over(row.best, first.best), bits(row.last)});
    equal.add({row.name, bits(row.at_step), is_first ? "–" : over(row.at_step, first.at_step),
               bits(row.at_time), is_first ? "–" : over(row.at_time, first.at_time)});
  }
  std::cout << runs.to_string() << "\n" << scores.to_string();
  if (comparison.step > 0)
    std::cout << "\nall at step " << format_count(std::llround(comparison.step))
              << as_far_as(comparison.step_of) << ", and after "
              << format_duration(comparison.elapsed_s) << " of training"
              << as_far_as(comparison.elapsed_of) << "\n"
              << equal.to_string();
  if (!comparison.settings.empty()) {
    std::vector<std::string> header{"setting"};
    for (const report::ComparedRun& row : comparison.rows) header.push_back(row.name);
    Table settings(header);
    for (const auto& [key, values] : comparison.settings) {
      std::vector<std::string> cells{key};
      for (const std::string& value : values) cells.push_back(printable(value, 40));
      settings.add(cells);
    }
    std::cout << "\n" << settings.to_string();
  }
  for (const std::string& note : comparison.notes) std::cout << "\nnote: " << note;
  if (!comparison.notes.empty()) std::cout << "\n";
}

void compare(const Options& options) {
  std::vector<report::Run> runs;
  for (const std::string& folder : options.runs) runs.push_back(report::RunReader(folder).update());
  const report::Comparison comparison = report::compare(runs);
  if (!options.svg.empty()) write_file("compare", options.svg, report::comparison_svg(runs));
  if (!options.html.empty())
    write_file("compare", options.html, report::comparison_html(runs, comparison));
  if (options.json) return print_json(report::comparison_json(comparison));
  print_table(comparison);
}

void add_compare(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("compare", "Runs side by side: bits a byte against steps, bytes and time");
  command->add_option("runs", options->runs, "The runs' folders; differences are to the first")
      ->required()
      ->transform(path())
      ->check(CLI::ExistingDirectory);
  command->add_option("--svg", options->svg, "Draw the curves into this file")->transform(path());
  command->add_option("--html", options->html, "Write a page with table and curves")
      ->transform(path());
  command->add_flag("--json", options->json, "Print JSON");
  command->footer(examples({"lace compare runs/demo runs/mine",
                            "lace compare runs/demo runs/mine --html compared.html",
                            "lace compare runs/* --json"}));
  command->callback([options] { compare(*options); });
}

const Command kCompare(Order::kCompare, add_compare);

}  // namespace

}  // namespace lace::cli
