#pragma once

#include <functional>
#include <optional>
#include <string>

#include "lace/train.h"

#include "train/run_folder.h"

namespace lace::train {

using Note = std::function<void(const std::string&)>;

// Takes `trainer` to where the run of a folder stands: to its last checkpoint, or, where that is
// missing or damaged, the newest before it that is sound; a damaged `last` is then set aside. Where
// there is none the run begins anew. `note` gets a line for each thing that the user should know.
// Throws lace::Error, DataChanged among them, where no checkpoint can be gone on from.
void resume(const RunFiles& files, Trainer& trainer, bool accept_changed_data, const Note& note);

// What the next validation has to beat: the score of the weights in best.safetensors. Nothing if
// there are none, or, with a note, if they cannot be read.
std::optional<double> best_score(const RunFiles& files, const Note& note);

}  // namespace lace::train
