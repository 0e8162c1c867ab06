#include "train/resume.h"

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "core/format.h"
#include "train/checkpoint.h"
#include "train/data_fingerprint.h"

namespace lace::train {
namespace {

void load(Trainer& trainer, const std::string& path, bool accept_changed_data, const Note& note) {
  try {
    for (const std::string& text : trainer.load(path, accept_changed_data)) note(text);
  } catch (const DataChanged& error) {
    throw DataChanged(
        concat(error.what(), "; to go on with them all the same: --accept-changed-data"));
  }
}

// So that the next checkpoint does not push out the one that is sound.
void set_aside_last(const RunFiles& files, const Note& note) {
  const std::string last = files.checkpoint("last"), kept = files.checkpoint("damaged");
  for (const auto& [from, to] : {std::pair(last, kept), {json_path(last), json_path(kept)}}) {
    if (std::filesystem::exists(from)) std::filesystem::rename(from, to);
  }
  if (std::filesystem::exists(kept)) note("the damaged checkpoint is kept as " + kept);
}

}  // namespace

void resume(const RunFiles& files, Trainer& trainer, bool accept_changed_data, const Note& note) {
  std::vector<std::string> names;  // the newest first
  for (const char* name : {"last", "previous"})
    if (files.has(name)) names.emplace_back(name);
  for (const int64_t step : files.kept_steps()) names.push_back(RunFiles::kept(step));
  if (names.empty()) {
    note("there is no checkpoint yet: the run begins anew");
    std::filesystem::remove(files.checkpoint("best"));
    return;
  }
  std::vector<std::string> errors;
  if (!files.has("last")) errors.push_back("[train] " + files.checkpoint("last") + " is missing");
  for (const std::string& name : names) {
    try {
      load(trainer, files.checkpoint(name), accept_changed_data, note);
    } catch (const DataChanged&) {
      throw;
    } catch (const Error& error) {
      errors.emplace_back(error.what());
      continue;
    }
    for (const std::string& error : errors) note(error);
    if (!errors.empty()) set_aside_last(files, note);
    note(concat("goes on after step ", format_count(trainer.step())));
    return;
  }
  std::string all = errors.front();
  for (size_t i = 1; i < errors.size(); ++i) all += "; and the checkpoint before it: " + errors[i];
  throw Error(names.size() > 1 ? all : all + "; there is no checkpoint before it");
}

std::optional<double> best_score(const RunFiles& files, const Note& note) {
  if (!files.has("best")) return std::nullopt;
  try {
    CheckpointFile file(files.checkpoint("best"));
    const double score = CheckpointState(file).number("validation_bits_per_byte");
    file.verify();
    return score;
  } catch (const Error& error) {
    note(concat(error.what(), "; the next validation takes its place"));
    return std::nullopt;
  }
}

}  // namespace lace::train
