#pragma once

#include <string>

#include "lace/train.h"

namespace lace::cli {

// load_run, and a warning on stderr if weights of the checkpoint are not finite.
LoadedRun load_checked(const std::string& run, const std::string& checkpoint, at::Device device);

}  // namespace lace::cli
