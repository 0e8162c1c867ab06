#include "train/resume.h"

#include <filesystem>

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
  const std::string last = files.checkpoint("last"), previous = files.checkpoint("previous");
  if (!files.has("last") && !files.has("previous")) {
    note("there is no checkpoint yet: the run begins anew");
    std::filesystem::remove(files.checkpoint("best"));
    return;
  }
  try {
    LACE_CHECK(files.has("last"), "[train] ", last, " is missing");
    load(trainer, last, accept_changed_data, note);
  } catch (const DataChanged&) {
    throw;
  } catch (const Error& error) {
    LACE_CHECK(files.has("previous"), error.what(), "; there is no checkpoint before it");
    note(error.what());
    try {
      load(trainer, previous, accept_changed_data, note);
    } catch (const DataChanged&) {
      throw;
    } catch (const Error& second) {
      throw Error(concat(error.what(), "; and the checkpoint before it: ", second.what()));
    }
    set_aside_last(files, note);
  }
  note(concat("goes on after step ", trainer.step()));
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
