#include "report/run.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <set>

#include "lace/error.h"

#include "core/bounded_json.h"
#include "core/regular_file.h"
#include "core/safe_text.h"

namespace lace::report {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr int64_t kMostRecipe = int64_t{1} << 20;
constexpr int64_t kMostSampleList = int64_t{64} << 20;  // bytes of samples.jsonl that are read
constexpr int64_t kMostText = 4000, kMostImage = 1 << 16, kMostAudio = 12 * 12000;
constexpr int64_t kMostBytes = 600000;  // of all samples, so that a page stays small

// The object in a file of the run; an empty one, and a note, if it cannot be read.
Json read_object(const std::string& path, std::vector<std::string>& notes) {
  std::error_code failure;
  if (!fs::exists(path, failure)) return Json::object();
  try {
    Json json = read_json(path, "report");
    LACE_CHECK(json.is_object(), "[report] ", printable(path), " must be an object of JSON");
    return json;
  } catch (const Error& error) {
    notes.emplace_back(error.what());
    return Json::object();
  }
}

std::string read_text(const RegularFile& file, int64_t offset, int64_t most) {
  std::string text(static_cast<size_t>(std::clamp<int64_t>(file.bytes() - offset, 0, most)), '\0');
  file.read(offset, text.data(), static_cast<int64_t>(text.size()));
  return text;
}

RecipeText read_recipe(const std::string& path, std::vector<std::string>& notes) try {
  std::error_code failure;
  if (!fs::exists(path, failure)) return {};
  return RecipeText(read_text(RegularFile(path, "report"), 0, kMostRecipe));
} catch (const Error& error) {
  notes.emplace_back(error.what());
  return {};
}

// Does a process of this machine hold the lock of train.lock, which names it? The list of locks is
// looked at, for to try the lock would be to hold it. Where there is no such list, the process
// alone is looked for.
bool is_training(const std::string& folder) {
  const std::string path = folder + "/train.lock";
  const std::optional<FileIdentity> identity = identity_of(path);
  int64_t process = 0;
  if (!identity || !(std::ifstream(path) >> process) || process <= 0) return false;
  std::ifstream locks("/proc/locks");
  if (!locks) return ::kill(static_cast<pid_t>(process), 0) == 0 || errno == EPERM;
  const std::string inode = concat(":", identity->inode, " "), holder = concat(" ", process, " ");
  for (std::string line; std::getline(locks, line);) {
    if (line.find("FLOCK") != std::string::npos && line.find(inode) != std::string::npos &&
        line.find(holder) != std::string::npos)
      return true;
  }
  return false;
}

// A name below samples/ without folders of its own: nothing else of the disk is shown.
bool is_sample_name(const std::string& file) {
  constexpr std::string_view kFolder = "samples/";
  if (!file.starts_with(kFolder) || file.size() > 200) return false;
  const std::string_view name = std::string_view(file).substr(kFolder.size());
  return !name.empty() && name[0] != '.' &&
         name.find_first_not_of(
             "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
             std::string_view::npos;
}

struct Listed {
  int64_t step = 0, prompt_bytes = 0;
  std::string file;
  std::optional<double> temperature;
};

std::optional<Listed> parse_sample(const std::string& line) try {
  const Json entry = parse_json(line, "a line", {.bytes = 1 << 16, .depth = 4});
  const std::optional<double> step = number_at(entry, {"step"});
  Listed listed;
  listed.file = text_at(entry, {"file"});
  if (!step || *step < 0 || *step > 1e15 || !is_sample_name(listed.file)) return std::nullopt;
  listed.step = static_cast<int64_t>(*step);
  listed.prompt_bytes =
      static_cast<int64_t>(std::clamp(number_at(entry, {"prompt_bytes"}).value_or(0), 0.0, 1e15));
  listed.temperature = number_at(entry, {"temperature"});
  return listed;
} catch (const Error&) {
  return std::nullopt;
}

// Of more steps than kMostSampledSteps the first, the last, and some evenly between.
std::set<int64_t> shown_steps(const std::vector<Listed>& listed) {
  std::vector<int64_t> steps;
  for (const Listed& sample : listed) steps.push_back(sample.step);
  std::sort(steps.begin(), steps.end());
  steps.erase(std::unique(steps.begin(), steps.end()), steps.end());
  const size_t most = Run::kMostSampledSteps;
  if (steps.size() <= most) return {steps.begin(), steps.end()};
  std::set<int64_t> shown;
  for (size_t i = 0; i < most; ++i) shown.insert(steps[i * (steps.size() - 1) / (most - 1)]);
  return shown;
}

std::vector<Listed> read_sample_list(const std::string& path) {
  std::vector<Listed> listed;
  const RegularFile file(path, "report");
  // Of a list too long the end, past a first line that may be cut.
  const int64_t begin = std::max<int64_t>(0, file.bytes() - kMostSampleList);
  const std::string text = read_text(file, begin, kMostSampleList);
  size_t at = begin > 0 ? std::min(text.find('\n'), text.size()) : 0;
  for (size_t end; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
    if (std::optional<Listed> sample = parse_sample(text.substr(at, end - at)))
      listed.push_back(std::move(*sample));
  }
  return listed;
}

std::vector<Sample> read_samples(const Run& run, std::vector<std::string>& notes) {
  std::vector<Sample> samples;
  const std::string path = run.folder + "/samples.jsonl";
  std::error_code failure;
  if (!fs::exists(path, failure)) return samples;
  const int64_t most = run.kind() == DataKind::kText     ? kMostText
                       : run.kind() == DataKind::kImages ? kMostImage
                                                         : kMostAudio;
  try {
    std::vector<Listed> listed = read_sample_list(path);
    const std::set<int64_t> shown = shown_steps(listed);
    std::stable_sort(listed.begin(), listed.end(),
                     [](const Listed& a, const Listed& b) { return a.step < b.step; });
    const bool images = run.kind() == DataKind::kImages;
    const size_t most_of_step = images ? Run::kMostSamplesOfStep : 4;
    size_t of_step = 0;
    int64_t missing = 0, step = -1, room = kMostBytes;
    // The newest first: what there is no room for in a page are the oldest.
    for (size_t i = listed.size(); i-- > 0;) {
      const Listed& sample = listed[i];
      if (!shown.contains(sample.step)) continue;
      of_step = sample.step == step ? of_step + 1 : 0;
      step = sample.step;
      if (of_step >= most_of_step || room <= 0) continue;
      const std::string file = run.folder + "/" + sample.file;
      if (!fs::is_regular_file(fs::symlink_status(file, failure))) {  // a link may lead anywhere
        ++missing;
        continue;
      }
      const RegularFile bytes(file, "report");
      samples.push_back({sample.step, sample.prompt_bytes, read_text(bytes, 0, most), bytes.bytes(),
                         sample.temperature});
      room -= static_cast<int64_t>(samples.back().bytes.size());
    }
    std::reverse(samples.begin(), samples.end());
    if (missing > 0) notes.push_back(concat(missing, " files of samples are missing"));
  } catch (const Error& error) {
    notes.emplace_back(error.what());
  }
  return samples;
}

State state_of(const Run& run) {
  if (is_training(run.folder)) return State::kTraining;
  // A run of so many minutes ends before the first step that would pass them.
  const auto early_stop = run.recipe.integer("train", "early_stop").value_or(0);
  const bool ended = run.fraction() >= (run.total_s() ? 0.99 : 1) ||
                     (early_stop > 0 && run.history.validations_since_best() >= early_stop);
  return ended ? State::kFinished : State::kStopped;
}

}  // namespace

std::string_view name(State state) {
  switch (state) {
    case State::kTraining:
      return "training";
    case State::kFinished:
      return "finished";
    case State::kStopped:
      break;
  }
  return "stopped";
}

const Json& value_at(const Json& json, std::initializer_list<const char*> keys) {
  static const Json null;
  const Json* at = &json;
  for (const char* key : keys) {
    if (!at->is_object()) return null;
    const auto found = at->find(key);
    if (found == at->end()) return null;
    at = &*found;
  }
  return *at;
}

std::optional<double> number_at(const Json& json, std::initializer_list<const char*> keys) {
  const Json& value = value_at(json, keys);
  if (!value.is_number()) return std::nullopt;
  const double number = value.get<double>();
  return std::isfinite(number) ? std::optional(number) : std::nullopt;
}

std::string text_at(const Json& json, std::initializer_list<const char*> keys) {
  const Json& value = value_at(json, keys);
  return value.is_string() ? value.get<std::string>() : "";
}

std::vector<std::string> Run::patterns() const {
  std::vector<std::string> patterns = recipe.strings("model", "patterns");
  const int64_t layers = recipe.integer("model", "layers").value_or(INT64_MAX);
  if (layers >= 0 && static_cast<int64_t>(patterns.size()) > layers) {
    patterns.resize(static_cast<size_t>(layers));
  }
  return patterns;
}

std::string Run::pattern() const {
  std::string text;
  for (const std::string& pattern : patterns()) text += (text.empty() ? "" : ", ") + pattern;
  return text;
}

std::optional<int64_t> Run::parameters() const {
  const std::optional<double> count = number_at(description, {"parameters"});
  return count && *count >= 0 && *count < 1e18 ? std::optional(static_cast<int64_t>(*count))
                                               : std::nullopt;
}

std::optional<double> Run::bytes_of_step() const {
  const std::optional<double> step = number_at(last, {"step"}),
                              bytes = number_at(last, {"bytes_trained"});
  if (step && bytes && *step >= 1 && *bytes > 0) return *bytes / *step;
  const std::optional<double> batch = recipe.number("train", "batch"),
                              seq_len = recipe.number("model", "seq_len");
  if (!batch || !seq_len || *batch <= 0 || *seq_len <= 0) return std::nullopt;
  return *batch * *seq_len * std::max(1.0, recipe.number("train", "accumulate").value_or(1)) *
         std::max(1.0, number_at(description, {"ranks"}).value_or(1));
}

std::optional<int64_t> Run::total_steps() const {
  const std::optional<int64_t> steps = recipe.integer("train", "steps");
  return steps && *steps > 0 ? steps : std::nullopt;
}

std::optional<double> Run::total_s() const {
  const std::optional<double> minutes = recipe.number("train", "max_minutes");
  return minutes && *minutes > 0 ? std::optional(60 * *minutes) : std::nullopt;
}

double Run::elapsed_s() const {
  const double of_steps = history.elapsed_s();
  if (number_at(last, {"step"}) != static_cast<double>(history.step())) return of_steps;
  return std::max(of_steps, number_at(last, {"elapsed_s"}).value_or(0));
}

double Run::fraction() const {
  double done = 0;
  if (const auto steps = total_steps())
    done = static_cast<double>(history.step()) / static_cast<double>(*steps);
  if (const auto seconds = total_s()) done = std::max(done, history.elapsed_s() / *seconds);
  return std::clamp(done, 0.0, 1.0);
}

std::optional<double> Run::remaining_s() const {
  const double done = fraction();
  if (done <= 0) return std::nullopt;
  return history.elapsed_s() / done * (1 - done);
}

DataKind Run::kind() const {
  const std::string kind = recipe.string("data", "kind");
  if (kind == "images") return DataKind::kImages;
  if (kind == "audio") return DataKind::kAudio;
  const bool pictures = kind.empty() && recipe.string("model", "positions") == "image";
  return pictures ? DataKind::kImages : DataKind::kText;
}

double Run::sample_rate() const {
  const double rate = recipe.number("data", "sample_rate").value_or(0);
  return rate >= 1000 && rate <= 192000 ? rate : 12000;
}

RunReader::RunReader(std::string folder) : metrics_(folder + "/metrics.jsonl") {
  run_.folder = std::move(folder);
}

const Run& RunReader::update() {
  std::error_code failure;
  const fs::path path(run_.folder);
  LACE_CHECK(fs::is_directory(path, failure), "[report] no such folder: ", printable(run_.folder));
  const auto has = [&](const char* file) { return fs::exists(path / file, failure); };
  LACE_CHECK(has("recipe.toml") || has("metrics.jsonl"), "[report] ", printable(run_.folder),
             " holds no run: neither recipe.toml nor metrics.jsonl is there");
  run_.notes.clear();
  run_.name = fs::absolute(path / "").lexically_normal().parent_path().filename().string();
  run_.recipe = read_recipe(run_.folder + "/recipe.toml", run_.notes);
  const auto object = [&](const char* file) {
    return read_object(run_.folder + "/" + file, run_.notes);
  };
  run_.description = object("run.json");
  run_.last = object("last.json");
  run_.best = object("best.json");
  run_.baselines = object("baselines.json");
  run_.attention = object("attention.json");
  try {
    run_.history = metrics_.update();
  } catch (const Error& error) {
    run_.notes.emplace_back(error.what());
  }
  if (run_.history.skipped() > 0)
    run_.notes.push_back(
        concat(run_.history.skipped(), " lines of metrics.jsonl are no metrics of a later step"));
  run_.samples = read_samples(run_, run_.notes);
  run_.state = state_of(run_);
  return run_;
}

}  // namespace lace::report
