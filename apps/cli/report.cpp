// lace report: a run's page; and what keeps it while a run trains.

#include "report.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <memory>

#include <fcntl.h>
#include <unistd.h>

#include "lace/error.h"

#include "arguments.h"
#include "commands.h"
#include "core/safe_text.h"
#include "output.h"

namespace lace::cli {

void write_report(report::Report& report, const std::string& out) {
  write_file("report", out, report.html());
}

void renew_report(const std::string& run) {
  const std::string page = run + "/report.html";
  if (!std::filesystem::exists(page)) return;
  report::Report report(run);
  write_report(report, page);
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
    // Under a name that the next one takes too: a process that is killed leaves one file, not many.
    const std::string temporary = path_ + ".tmp", html = report_.html();
    const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    int error = fd < 0 ? errno : write_all(fd, html);
    if (fd >= 0 && ::close(fd) != 0 && error == 0) error = errno;
    if (error == 0 && ::rename(temporary.c_str(), path_.c_str()) != 0) error = errno;
    if (error != 0) ::unlink(temporary.c_str());
    LACE_CHECK(error == 0, "[report] cannot write ", path_, ": ", std::strerror(error));
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
