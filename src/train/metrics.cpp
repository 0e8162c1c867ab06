#include "train/metrics.h"

#include <cmath>

#include <nlohmann/json.hpp>

#include "train/run_folder.h"

namespace lace::train {
namespace {

// Seconds of a step, by what they were for; a part that there was none of is left out.
std::vector<std::pair<std::string, double>> parts_s(const TrainProgress& p) {
  std::vector<std::pair<std::string, double>> parts = {{"step", p.step_s}};
  for (const auto& [name, seconds] : {std::pair("validation", p.validation_s),
                                      {"checkpoint", p.checkpoint_s},
                                      {"sample", p.sample_s}}) {
    if (seconds > 0) parts.emplace_back(name, seconds);
  }
  return parts;
}

}  // namespace

void JsonMetrics::add(const TrainProgress& p) {
  nlohmann::ordered_json entry = {{"step", p.step},
                                  {"loss", p.loss},
                                  {"bits_per_byte", p.bits_per_byte},
                                  {"learning_rate", p.learning_rate},
                                  {"gradient_norm", p.gradient_norm},
                                  {"tokens_per_s", std::round(p.tokens_per_s)},
                                  {"elapsed_s", p.elapsed_s}};
  if (p.validation_bits_per_byte) entry["validation_bits_per_byte"] = *p.validation_bits_per_byte;
  for (const auto& [name, seconds] : parts_s(p)) entry["parts_s"][name] = seconds;
  if (p.memory_bytes > 0) entry["memory_bytes"] = p.memory_bytes;
  if (p.share_of_peak > 0) entry["share_of_peak"] = p.share_of_peak;
  if (p.spike) {
    entry["spike"] = true;
    entry["windows"] = p.windows;
  }
  lines_.add(entry);
}

void EventMetrics::add(const TrainProgress& p) {
  std::vector<std::pair<std::string, double>> scalars = {{"loss", p.loss},
                                                         {"bits_per_byte", p.bits_per_byte},
                                                         {"learning_rate", p.learning_rate},
                                                         {"gradient_norm", p.gradient_norm},
                                                         {"tokens_per_s", p.tokens_per_s}};
  if (p.validation_bits_per_byte)
    scalars.emplace_back("validation_bits_per_byte", *p.validation_bits_per_byte);
  for (const auto& [name, seconds] : parts_s(p)) scalars.emplace_back("parts_s/" + name, seconds);
  if (p.memory_bytes > 0) scalars.emplace_back("memory_bytes", p.memory_bytes);
  if (p.share_of_peak > 0) scalars.emplace_back("share_of_peak", p.share_of_peak);
  if (p.spike) scalars.emplace_back("spike", 1);
  file_.add(p.step, scalars);
}

Metrics::Metrics(const std::string& folder, int64_t keep_up_to) {
  sinks_.push_back(std::make_unique<JsonMetrics>(RunFiles{folder}.metrics(), keep_up_to));
  sinks_.push_back(std::make_unique<EventMetrics>(folder, keep_up_to));
}

void Metrics::add(const TrainProgress& progress) {
  for (const auto& sink : sinks_) sink->add(progress);
}

void Metrics::sync() {
  for (const auto& sink : sinks_) sink->sync();
}

}  // namespace lace::train
