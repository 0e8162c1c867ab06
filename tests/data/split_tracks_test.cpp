#include "data/split_tracks.h"

#include <algorithm>
#include <numeric>

#include <gtest/gtest.h>

#include "data/random.h"

namespace lace {
namespace {

std::vector<Track> random_tracks(int64_t count, uint64_t seed) {
  std::vector<Track> tracks;
  for (int64_t i = 0; i < count; ++i) {
    const auto n = static_cast<uint64_t>(i);
    tracks.push_back(
        {"track" + std::to_string(i), 1 + random_below(random_bits(seed, 0, n), 5000)});
  }
  return tracks;
}

int64_t samples_of(const std::vector<Track>& tracks, const std::vector<Split>& splits,
                   Split which) {
  int64_t sum = 0;
  for (size_t i = 0; i < tracks.size(); ++i) sum += splits[i] == which ? tracks[i].samples : 0;
  return sum;
}

TEST(SplitTracks, ManyTracksComeNearTheFractionsAndNotAbove) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const auto tracks = random_tracks(400, seed);
    const auto splits = split_tracks(tracks, {0.05, 0.1});
    int64_t total = 0;
    for (const Track& track : tracks) total += track.samples;
    for (const auto& [which, fraction] :
         {std::pair(Split::kValidation, 0.05), {Split::kTest, 0.1}}) {
      const auto share = static_cast<double>(samples_of(tracks, splits, which)) / total;
      EXPECT_LE(share, fraction);
      EXPECT_GT(share, fraction - 0.003);
    }
  }
}

TEST(SplitTracks, EverySplitGetsATrackHoweverFewThereAre) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    for (int64_t count = 3; count < 12; ++count) {
      const auto tracks = random_tracks(count, seed);
      for (const SplitFractions& fractions :
           {SplitFractions{0.05, 0.05}, {0.9, 0.05}, {0.05, 0.9}, {0.49, 0.5}}) {
        const auto splits = split_tracks(tracks, fractions);
        for (const Split which : {Split::kTrain, Split::kValidation, Split::kTest}) {
          EXPECT_GE(std::count(splits.begin(), splits.end(), which), 1) << count;
        }
      }
    }
  }
  EXPECT_EQ(split_tracks({{"a", 1}, {"b", 1}}, {0, 0}), (std::vector(2, Split::kTrain)));
  const auto two = split_tracks({{"a", 10}, {"b", 1}}, {0, 0.05});
  EXPECT_EQ(two, (std::vector{Split::kTrain, Split::kTest}));  // the shortest
}

TEST(SplitTracks, IsAFunctionOfNamesAndLengthsWhateverTheirOrder) {
  const auto tracks = random_tracks(50, 7);
  const auto splits = split_tracks(tracks, {0.1, 0.1});
  std::vector<Track> turned(tracks.rbegin(), tracks.rend());
  auto of_turned = split_tracks(turned, {0.1, 0.1});
  std::reverse(of_turned.begin(), of_turned.end());
  EXPECT_EQ(splits, of_turned);
  // Neighbours are not dealt together: tracks of one split lie far apart.
  std::vector<size_t> places;
  for (size_t i = 0; i < splits.size(); ++i) {
    if (splits[i] == Split::kValidation) places.push_back(i);
  }
  ASSERT_GE(places.size(), 3u);
  EXPECT_GT(places.back() - places.front(), places.size() + 5);
}

}  // namespace
}  // namespace lace
