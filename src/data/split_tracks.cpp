#include "data/split_tracks.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "core/mix64.h"

namespace lace {
namespace {

uint64_t hash(const Track& track) {
  uint64_t state = mix64(static_cast<uint64_t>(track.samples) + kMix64Step);
  for (const char c : track.name) state = mix64(state + kMix64Step + static_cast<uint8_t>(c));
  return state;
}

}  // namespace

std::vector<Split> split_tracks(const std::vector<Track>& tracks, const SplitFractions& fractions) {
  std::vector<size_t> order(tracks.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::vector<uint64_t> hashes;
  for (const Track& track : tracks) hashes.push_back(hash(track));
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return hashes[a] < hashes[b]; });
  int64_t total = 0;
  for (const Track& track : tracks) total += track.samples;

  std::vector<Split> result(tracks.size(), Split::kTrain);
  size_t free = tracks.size(), splits = fractions.splits();
  const auto give = [&](size_t track, Split split) {
    result[track] = split;
    --free;
  };
  for (const auto& [split, fraction] : {std::pair(Split::kValidation, fractions.validation),
                                        std::pair(Split::kTest, fractions.test)}) {
    if (fraction == 0) continue;
    --splits;  // as many tracks must be left for those that follow
    auto left = static_cast<int64_t>(fraction * static_cast<double>(total));
    const size_t before = free;
    size_t shortest = tracks.size();
    for (const size_t i : order) {
      if (result[i] != Split::kTrain) continue;
      if (tracks[i].samples <= left && free > splits) {
        give(i, split);
        left -= tracks[i].samples;
      } else if (shortest == tracks.size() || tracks[i].samples < tracks[shortest].samples) {
        shortest = i;
      }
    }
    if (free == before) give(shortest, split);
  }
  return result;
}

}  // namespace lace
