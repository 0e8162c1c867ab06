#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lace {

struct Track {
  std::string name;     // of its file, without folders
  int64_t samples = 0;  // at least 1
};

struct SplitFractions {
  double validation = 0, test = 0;
  // How many splits get something; train always does.
  size_t splits() const { return 1 + (validation > 0 ? 1 : 0) + (test > 0 ? 1 : 0); }
};

enum class Split { kTrain, kValidation, kTest };

// Deals tracks to splits, each whole. Tracks are gone through in an order that hashes of their
// names and lengths give, so that neighbours of one album are not dealt together, and another
// machine or folder deals the same. First validation, then test takes every track that is not dealt
// yet and fits into what is left of its fraction of all samples; one that got none, the shortest.
// The rest is train's. Needs at least as many tracks as there are splits.
std::vector<Split> split_tracks(const std::vector<Track>& tracks, const SplitFractions& fractions);

}  // namespace lace
