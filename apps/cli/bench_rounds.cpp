#include "bench_rounds.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "bench_peak.h"

namespace lace::cli {

namespace {

constexpr int kMaxAttempts = 5;
constexpr double kSampleMs = 10;
constexpr double kQuietFactor = 1.12;
constexpr int64_t kProbeSteps = 1'000'000;  // some milliseconds

double elapsed_ms(const std::function<void()>& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  const std::chrono::duration<double, std::milli> elapsed =
      std::chrono::steady_clock::now() - start;
  return elapsed.count();
}

// Linear between the nearest ranks.
double quantile(std::vector<double>& samples, double q) {
  std::sort(samples.begin(), samples.end());
  const double rank = q * static_cast<double>(samples.size() - 1);
  const auto low = static_cast<size_t>(rank);
  const size_t high = std::min(low + 1, samples.size() - 1);
  return samples[low] + (rank - static_cast<double>(low)) * (samples[high] - samples[low]);
}

}  // namespace

QuietProbe::QuietProbe(const Executor& executor) : executor_(executor) {
  constexpr int kCalibrations = 15;
  fastest_ms_ = time_ms();
  for (int i = 1; i < kCalibrations; ++i) fastest_ms_ = std::min(fastest_ms_, time_ms());
}

double QuietProbe::time_ms() const {
  return elapsed_ms([this] { run_peak(Peak::kFp32Fma, executor_, kProbeSteps); });
}

bool QuietProbe::quiet() {
  const double time = time_ms();
  fastest_ms_ = std::min(fastest_ms_, time);
  return time <= fastest_ms_ * kQuietFactor;
}

RoundsReport run_rounds(
    std::vector<Contender>& contenders, int rounds, QuietProbe& probe,
    const std::function<void(int64_t done, int64_t total, const std::string& name)>& progress) {
  RoundsReport report;
  report.rounds = rounds;
  const auto total = static_cast<int64_t>(contenders.size()) * (rounds + 1);
  int64_t done = 0;
  std::vector<int> calls;
  for (Contender& contender : contenders) {
    progress(done++, total, contender.name);
    contender.run();  // compiles plans, grows pools
    const double once_ms = elapsed_ms(contender.run);
    calls.push_back(std::max(1, static_cast<int>(std::ceil(kSampleMs / once_ms))));
  }
  for (int round = 0; round < rounds; ++round) {
    for (size_t c = 0; c < contenders.size(); ++c) {
      progress(done++, total, contenders[c].name);
      for (int attempt = 1;; ++attempt) {
        const bool quiet_before = probe.quiet();
        const double time = elapsed_ms([&] {
          for (int call = 0; call < calls[c]; ++call) contenders[c].run();
        });
        const bool quiet = probe.quiet() && quiet_before;
        if (quiet || attempt == kMaxAttempts) {
          contenders[c].samples_ms.push_back(time / calls[c]);
          if (!quiet) ++report.contradicted;
          break;
        }
        ++report.repeated;
      }
    }
  }
  return report;
}

bool asks_for(const std::vector<std::string>& rows, const std::string& name) {
  return rows.empty() || std::any_of(rows.begin(), rows.end(), [&](const std::string& text) {
           return name.find(text) != std::string::npos;
         });
}

double median(std::vector<double> samples) { return quantile(samples, 0.5); }

double spread(std::vector<double> samples) {
  return quantile(samples, 0.75) - quantile(samples, 0.25);
}

double rounded(double value) { return std::round(value * 1e4) / 1e4; }

}  // namespace lace::cli
