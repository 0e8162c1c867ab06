#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/executor.h"

namespace lace::cli {

// One of the things that a benchmark compares. `run` does the work once.
struct Contender {
  std::string name;
  std::function<void()> run;
  std::vector<double> samples_ms;  // one a round, of one call of `run`
};

// A short fixed computation on all threads, which takes longer when something else runs on the
// machine: a sample between two quiet probes was not disturbed.
class QuietProbe {
 public:
  explicit QuietProbe(const Executor& executor);
  // Whether the probe took no more than 12% longer than the fastest so far.
  bool quiet();

 private:
  double time_ms() const;
  const Executor& executor_;
  double fastest_ms_;
};

struct RoundsReport {
  int rounds = 0;
  int repeated = 0;      // samples thrown away because a probe before or after contradicted them
  int contradicted = 0;  // samples kept although one did, after kMaxAttempts
};

// After a warm-up of each, `rounds` rounds of all contenders in turn. A sample calls `run` as often
// as fills 10 ms. progress(done, total, name) comes before each sample.
RoundsReport run_rounds(
    std::vector<Contender>& contenders, int rounds, QuietProbe& probe,
    const std::function<void(int64_t done, int64_t total, const std::string& name)>& progress);

// Whether --rows, some texts or none, asks for a row of this name.
bool asks_for(const std::vector<std::string>& rows, const std::string& name);

double median(std::vector<double> samples);
// The distance of the quartiles.
double spread(std::vector<double> samples);
// One digit more than a reader needs, so that files stay small and readable.
double rounded(double value);

}  // namespace lace::cli
