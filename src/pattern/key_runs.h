#pragma once

#include <cstdint>
#include <vector>

namespace lace::pattern {

// Keys first + k · stride + i for 0 <= k < count, 0 <= i < width: `count` stretches of `width` keys
// side by side. width < stride where count > 1; stride is 0 where count is 1.
struct KeyRun {
  int64_t first = 0, width = 0, count = 1, stride = 0;

  int64_t begin(int64_t stretch) const { return first + stretch * stride; }
  int64_t end() const { return begin(count - 1) + width; }
  int64_t keys() const { return width * count; }
  bool operator==(const KeyRun&) const = default;
};

// A set of keys: runs that share none, in any order.
using KeyRuns = std::vector<KeyRun>;

int64_t key_count(const KeyRuns& runs);

// The run of these numbers, in the form that KeyRun asks for. width and count are positive,
// width <= stride where count > 1.
KeyRun make_run(int64_t first, int64_t width, int64_t count = 1, int64_t stride = 0);

// The keys of `run` in [begin, end): at most three runs more in `to`.
void append_clipped(const KeyRun& run, int64_t begin, int64_t end, KeyRuns& to);

// Keys that are in both, that are in either, and those of `a` that are not in `b`. Runs of equal
// strides, and a run and an interval, give a few runs; others as many as the one with fewer
// stretches has.
KeyRuns intersection(const KeyRuns& a, const KeyRuns& b);
KeyRuns join(const KeyRuns& a, const KeyRuns& b);
KeyRuns difference(const KeyRuns& a, const KeyRuns& b);

}  // namespace lace::pattern
