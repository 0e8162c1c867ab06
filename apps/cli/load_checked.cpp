#include "load_checked.h"

#include <iostream>

#include "lace/data.h"

namespace lace::cli {

LoadedRun load_checked(const std::string& run, const std::string& checkpoint, at::Device device) {
  LoadedRun loaded = load_run(run, checkpoint, device);
  const size_t count = loaded.not_finite.size();
  if (count > 0) {
    std::cerr << "lace: warning: checkpoint " << loaded.checkpoint << " of " << path_text(run)
              << " holds NaN or infinite weights, in " << loaded.not_finite.front();
    if (count > 1) std::cerr << " and " << count - 1 << " more tensors";
    std::cerr << "\n";
  }
  return loaded;
}

}  // namespace lace::cli
