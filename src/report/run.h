#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "report/history.h"
#include "report/recipe_text.h"

namespace lace::report {

enum class State { kTraining, kFinished, kStopped };
std::string_view name(State state);  // "training", "finished", "stopped"

enum class DataKind { kText, kImages, kAudio };

// One sample of samples.jsonl.
struct Sample {
  int64_t step = 0, prompt_bytes = 0;
  std::string bytes;  // the prompt and what followed it, cut to what a report shows
  int64_t whole_bytes = 0;
  std::optional<double> temperature;
};

// What a run's folder tells, as far as it can be read.
struct Run {
  std::string folder, name;
  State state = State::kStopped;
  RecipeText recipe;
  // Objects; empty ones where there is no such file or it holds none.
  nlohmann::json description, last, best, baselines, attention;
  History history;
  std::vector<Sample> samples;     // by step, of at most kMostSampledSteps steps
  std::vector<std::string> notes;  // what could not be read, a line each

  static constexpr size_t kMostSampledSteps = 12, kMostSamplesOfStep = 16;  // of text and audio 4

  std::vector<std::string> patterns() const;  // the cycle's texts, of layers that there are
  std::string pattern() const;                // the same as one text
  std::optional<int64_t> parameters() const;
  // Of a step, all ranks together; nothing if neither a checkpoint nor the recipe tells.
  std::optional<double> bytes_of_step() const;
  std::optional<int64_t> total_steps() const;  // that the recipe asks for
  std::optional<double> total_s() const;       // that it allows
  // Of training: up to its last step, and where a checkpoint of that step has been saved with what
  // came between (a validation, samples), so that all commands tell the same time.
  double elapsed_s() const;
  double fraction() const;  // done, in [0, 1]; 0 where nothing tells
  std::optional<double> remaining_s() const;
  DataKind kind() const;
  double sample_rate() const;  // of audio, in Hz
};

// Follows a run's folder.
class RunReader {
 public:
  explicit RunReader(std::string folder);

  // Reads what is new. Never fails for what a file holds (Run::notes tells); throws lace::Error if
  // there is no such folder, or neither a recipe nor metrics in it.
  const Run& update();

 private:
  MetricsFile metrics_;
  Run run_;
};

// A number, a text, an object, that may stand in a document under these keys, one in the other.
std::optional<double> number_at(const nlohmann::json& json,
                                std::initializer_list<const char*> keys);
std::string text_at(const nlohmann::json& json, std::initializer_list<const char*> keys);
const nlohmann::json& value_at(const nlohmann::json& json, std::initializer_list<const char*> keys);

}  // namespace lace::report
