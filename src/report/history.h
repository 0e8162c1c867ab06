#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lace::report {

// What fell into a stretch of steps: how often, the sum, the least and the largest.
struct Spread {
  int64_t count = 0;
  double sum = 0;
  double least = std::numeric_limits<double>::infinity();
  double most = -std::numeric_limits<double>::infinity();

  void add(double value);
  void add(const Spread& other);
  double mean() const;  // NaN of nothing
};

// What a line of metrics.jsonl may tell of a step, each once.
enum class Figure {
  kBits,          // of training, bits a byte
  kLearningRate,  // as the step took it
  kGradientNorm,  // before clipping
  kTokensPerS,    //
  kMemoryBytes,   //
  kShareOfPeak,   // in [0, 1]
  kValidation,    // bits a byte
  kFigures        // how many there are
};
constexpr size_t kFigures = static_cast<size_t>(Figure::kFigures);

// Steps side by side.
struct Bucket {
  int64_t first_step = 0, last_step = 0;
  double elapsed_s = 0;  // when the last one ended, all sittings together
  std::array<Spread, kFigures> figures;

  const Spread& of(Figure figure) const { return figures[static_cast<size_t>(figure)]; }
  Spread& of(Figure figure) { return figures[static_cast<size_t>(figure)]; }
  void add(const Bucket& later);
};

// Buckets of one width in steps that is doubled, and pairs of them joined, whenever there would be
// more than kMost: a run of any length takes the same room. Every least and largest value survives.
class Buckets {
 public:
  static constexpr size_t kMost = 512;

  void add(Bucket step);  // whose first_step, at least 1, is past all before
  const std::vector<Bucket>& all() const { return buckets_; }

 private:
  int64_t width_ = 1;
  std::vector<Bucket> buckets_;
};

struct Validation {
  int64_t step = 0;
  double elapsed_s = 0, bits_per_byte = 0;
};

// A step whose loss leapt.
struct Spike {
  int64_t step = 0;
  double elapsed_s = 0, bits_per_byte = 0;
  std::vector<int64_t> windows;  // first bytes of its windows in the training bytes, at most 64
};

// What metrics.jsonl tells (docs/json.md), in room that does not grow with the run.
class History {
 public:
  static constexpr size_t kMostSpikes = 200, kMostParts = 12;

  History() { last_.fill(std::numeric_limits<double>::quiet_NaN()); }

  // One line. What is no line of metrics, or of no later step than the one before, is counted in
  // skipped(); keys that are missing, null or of another type are figures that were not taken.
  void add(std::string_view line);

  int64_t lines() const { return lines_; }
  int64_t skipped() const { return skipped_; }
  int64_t step() const { return step_; }
  double elapsed_s() const { return elapsed_s_; }
  const std::vector<Bucket>& steps() const { return steps_.all(); }
  // Those that ended in a validation, in buckets of their own.
  const std::vector<Bucket>& validations() const { return validations_.all(); }
  std::optional<Validation> last_validation() const { return last_validation_; }
  std::optional<Validation> best_validation() const { return best_validation_; }
  int64_t validations_since_best() const { return since_best_; }
  const std::vector<Spike>& spikes() const { return spikes_; }  // the last ones
  int64_t spike_count() const { return spike_count_; }
  // Seconds of all steps by part.
  const std::map<std::string, double>& parts_s() const { return parts_s_; }
  // The last value of a figure; NaN if there is none.
  double last(Figure figure) const { return last_[static_cast<size_t>(figure)]; }
  // Mean over about the last 50 steps, as far as buckets allow; NaN if there is none.
  double recent(Figure figure) const;

 private:
  int64_t lines_ = 0, skipped_ = 0, step_ = 0;
  double elapsed_s_ = 0;
  Buckets steps_, validations_;
  std::optional<Validation> last_validation_, best_validation_;
  std::vector<Spike> spikes_;
  int64_t spike_count_ = 0, since_best_ = 0;
  std::map<std::string, double> parts_s_;
  std::array<double, kFigures> last_;
};

// Follows a metrics.jsonl that a run adds to.
class MetricsFile {
 public:
  explicit MetricsFile(std::string path) : path_(std::move(path)) {}

  // Reads the whole lines that are new; all of them again where the file is another than before, or
  // shorter, as when a run has been resumed. A file that is not there is a history of nothing.
  // Throws lace::Error if it cannot be read.
  const History& update();

 private:
  std::string path_;
  History history_;
  int64_t offset_ = 0;  // past the last whole line
  std::string seen_;    // the last bytes before it
  uint64_t device_ = 0, inode_ = 0;
};

}  // namespace lace::report
