// lace report: a run's page; and what keeps it while a run trains.

#include "report.h"

#include <iostream>
#include <memory>

#include "lace/error.h"

#include "arguments.h"
#include "commands.h"
#include "core/safe_text.h"
#include "output.h"

namespace lace::cli {

void write_report(report::Report& report, const std::string& out) {
  write_file("report", out, report.html());
}

LiveReport::LiveReport(std::string folder, std::function<void(const std::string&)> on_note)
    : report_(folder), path_(folder + "/report.html"), on_note_(std::move(on_note)) {}

void LiveReport::update(bool worth) {
  const Clock::duration since = Clock::now() - written_;
  if (since < 100 * took_ || (!worth && since < std::chrono::minutes(1))) return;
  write();
}

void LiveReport::finish() { write(); }

void LiveReport::write() {
  const Clock::time_point start = Clock::now();
  try {
    write_report(report_, path_);
  } catch (const std::exception& error) {
    if (!told_) on_note_(concat("no report is written: ", error.what()));
    told_ = true;
  }
  written_ = Clock::now();
  took_ = written_ - start;
}

namespace {

struct Options {
  std::string run, out;
};

void make_report(const Options& options) {
  const std::string out = options.out.empty() ? options.run + "/report.html" : options.out;
  report::Report report(options.run);
  write_report(report, out);
  std::cout << printable(out) << "\n";
}

void add_report(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "report", "Writes a run's page: curves, samples, pictures, settings; lace train renews it");
  command->add_option("run", options->run, "The run's folder")
      ->required()
      ->transform(path())
      ->check(CLI::ExistingDirectory);
  command->add_option("--out", options->out, "The page; default RUN/report.html")
      ->transform(path());
  command->footer(examples({"lace report runs/demo", "lace report runs/demo --out demo.html"}));
  command->callback([options] { make_report(*options); });
}

const Command kReport(Order::kReport, add_report);

}  // namespace

}  // namespace lace::cli
