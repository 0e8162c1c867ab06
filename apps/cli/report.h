#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "report/report.h"

namespace lace::cli {

// Writes a run's report.html, or `out`: either what was there stays, or all of the new stands.
// Throws lace::Error.
void write_report(report::Report& report, const std::string& out);

// Renews a run's report.html if there is one.
void renew_report(const std::string& run);

// Keeps report.html of a run that this process trains: renewed now and then, and a failure is told
// once and does not end the run.
class LiveReport {
 public:
  LiveReport(std::string folder, std::function<void(const std::string&)> on_note);

  // After a step. worth: something has happened that people look for, such as a validation. The
  // report is made at once unless that has taken more than a hundredth of the time so far; without,
  // once a minute.
  void update(bool worth);
  // Writes the last one, once nothing more will be added.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  void write();

  report::Report report_;
  std::string path_;
  std::function<void(const std::string&)> on_note_;
  Clock::time_point written_{};  // the first one is due at once
  Clock::duration took_{};
  bool told_ = false;
};

}  // namespace lace::cli
