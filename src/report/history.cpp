#include "report/history.h"

#include <algorithm>
#include <cmath>

#include <nlohmann/json.hpp>

#include "lace/error.h"

#include "core/bounded_json.h"
#include "core/regular_file.h"

namespace lace::report {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxLine = size_t{1} << 20;
constexpr int64_t kChunk = int64_t{1} << 20;
constexpr size_t kSeen = 64;
constexpr double kMaxSeconds = 1e12;
constexpr size_t kMaxWindows = 64, kMaxName = 40;

std::optional<double> number(const Json& entry, const char* key) {
  const auto found = entry.find(key);
  if (found == entry.end() || !found->is_number()) return std::nullopt;
  const double value = found->get<double>();
  return std::isfinite(value) ? std::optional(value) : std::nullopt;
}

// The step that a line tells of, or nothing if it is no line of metrics.
std::optional<Json> parse_entry(std::string_view line) try {
  Json entry = parse_json(line, "a line", {.bytes = kMaxLine, .depth = 4});
  const auto step = entry.is_object() ? entry.find("step") : entry.end();
  const bool is_step = step != entry.end() && step->is_number_unsigned() &&
                       step->get<uint64_t>() >= 1 && step->get<uint64_t>() <= uint64_t{1} << 60;
  return is_step ? std::optional(std::move(entry)) : std::nullopt;
} catch (const Error&) {
  return std::nullopt;
}

Spike make_spike(const Json& entry, const Bucket& bucket) {
  Spike spike{bucket.last_step, bucket.elapsed_s, bucket.of(Figure::kBits).mean(), {}};
  const auto windows = entry.find("windows");
  if (windows == entry.end() || !windows->is_array()) return spike;
  for (const Json& window : *windows) {
    if (spike.windows.size() == kMaxWindows) break;
    const bool is_place = window.is_number_unsigned() &&
                          window.get<uint64_t>() <= std::numeric_limits<int64_t>::max();
    if (is_place) spike.windows.push_back(window.get<int64_t>());
  }
  return spike;
}

}  // namespace

void Spread::add(double value) {
  ++count;
  sum += value;
  least = std::min(least, value);
  most = std::max(most, value);
}

void Spread::add(const Spread& other) {
  count += other.count;
  sum += other.sum;
  least = std::min(least, other.least);
  most = std::max(most, other.most);
}

double Spread::mean() const {
  return count > 0 ? sum / static_cast<double>(count) : std::numeric_limits<double>::quiet_NaN();
}

void Bucket::add(const Bucket& later) {
  last_step = later.last_step;
  elapsed_s = later.elapsed_s;
  for (size_t i = 0; i < kFigures; ++i) figures[i].add(later.figures[i]);
}

void Buckets::add(Bucket step) {
  const auto place = [&](const Bucket& bucket) { return (bucket.first_step - 1) / width_; };
  while (true) {
    if (!buckets_.empty() && place(buckets_.back()) == place(step)) {
      return buckets_.back().add(step);
    }
    if (buckets_.size() < kMost) return buckets_.push_back(std::move(step));
    width_ *= 2;
    std::vector<Bucket> joined;
    for (Bucket& bucket : buckets_) {
      if (!joined.empty() && place(joined.back()) == place(bucket)) {
        joined.back().add(bucket);
      } else {
        joined.push_back(std::move(bucket));
      }
    }
    buckets_ = std::move(joined);
  }
}

void History::add(std::string_view line) {
  const std::optional<Json> parsed = parse_entry(line);
  if (!parsed || (*parsed)["step"].get<int64_t>() <= step_) {
    ++skipped_;
    return;
  }
  const Json& entry = *parsed;
  ++lines_;
  step_ = entry["step"].get<int64_t>();
  const double elapsed = number(entry, "elapsed_s").value_or(elapsed_s_);
  elapsed_s_ = std::clamp(elapsed, elapsed_s_, kMaxSeconds);  // time does not go back

  Bucket bucket{step_, step_, elapsed_s_, {}};
  const auto take = [&](const char* key, Figure figure) {
    const std::optional<double> value = number(entry, key);
    if (!value) return;
    bucket.of(figure).add(*value);
    last_[static_cast<size_t>(figure)] = *value;
  };
  take("bits_per_byte", Figure::kBits);
  take("learning_rate", Figure::kLearningRate);
  take("gradient_norm", Figure::kGradientNorm);
  take("tokens_per_s", Figure::kTokensPerS);
  take("memory_bytes", Figure::kMemoryBytes);
  take("share_of_peak", Figure::kShareOfPeak);
  take("validation_bits_per_byte", Figure::kValidation);

  if (const auto parts = entry.find("parts_s"); parts != entry.end() && parts->is_object()) {
    for (const auto& [name, seconds] : parts->items()) {
      const bool known = parts_s_.contains(name);
      if (!seconds.is_number() || name.size() > kMaxName) continue;
      if (!known && parts_s_.size() == kMostParts) continue;
      const double value = seconds.get<double>();
      if (value >= 0 && value <= kMaxSeconds) parts_s_[name] += value;
    }
  }
  if (const auto spike = entry.find("spike"); spike != entry.end() && *spike == true) {
    ++spike_count_;
    if (spikes_.size() == kMostSpikes) spikes_.erase(spikes_.begin());
    spikes_.push_back(make_spike(entry, bucket));
  }
  if (const Spread& validation = bucket.of(Figure::kValidation); validation.count > 0) {
    last_validation_ = Validation{step_, elapsed_s_, validation.sum};
    ++since_best_;
    if (!best_validation_ || validation.sum < best_validation_->bits_per_byte) {
      best_validation_ = last_validation_;
      since_best_ = 0;
    }
    validations_.add(bucket);
  }
  steps_.add(std::move(bucket));
}

double History::recent(Figure figure) const {
  Spread spread;
  const std::vector<Bucket>& all = steps_.all();
  for (size_t i = all.size(); i-- > 0 && spread.count < 50;) spread.add(all[i].of(figure));
  return spread.mean();
}

const History& MetricsFile::update() {
  const std::optional<FileIdentity> identity = identity_of(path_);
  if (!identity) {
    history_ = {};
    offset_ = 0;
    seen_.clear();
    return history_;
  }
  const RegularFile file(path_, "report");
  const auto read = [&](int64_t offset, int64_t count) {
    std::string text(static_cast<size_t>(count), '\0');
    file.read(offset, text.data(), count);
    return text;
  };
  const bool same = file.identity().inode == inode_ && file.identity().device == device_ &&
                    file.bytes() >= offset_ &&
                    read(offset_ - static_cast<int64_t>(seen_.size()),
                         static_cast<int64_t>(seen_.size())) == seen_;
  if (!same) {
    history_ = {};
    offset_ = 0;
    seen_.clear();
  }
  inode_ = file.identity().inode;
  device_ = file.identity().device;
  std::string rest;  // the beginning of a line
  bool too_long = false;
  for (int64_t at = offset_; at < file.bytes();) {
    const std::string chunk = read(at, std::min(kChunk, file.bytes() - at));
    at += static_cast<int64_t>(chunk.size());
    size_t begin = 0;
    for (size_t end; (end = chunk.find('\n', begin)) != std::string::npos; begin = end + 1) {
      rest.append(chunk, begin, end - begin);
      history_.add(too_long ? std::string_view() : std::string_view(rest));
      rest.clear();
      too_long = false;
    }
    if (begin > 0) {
      offset_ = at - static_cast<int64_t>(chunk.size() - begin);
      seen_ = chunk.substr(begin - std::min(begin, kSeen), std::min(begin, kSeen));
    }
    rest.append(chunk, begin);
    if (rest.size() > kMaxLine) {
      too_long = true;
      rest.clear();
    }
  }
  return history_;
}

}  // namespace lace::report
