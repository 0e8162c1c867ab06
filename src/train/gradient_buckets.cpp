#include "train/gradient_buckets.h"

#include <algorithm>

namespace lace::train {

using distributed::Range;

namespace {

// Sorted; ranges that touch are one.
std::vector<Range> joined(std::vector<Range> ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& a, const Range& b) { return a.begin < b.begin; });
  std::vector<Range> result;
  for (const Range& range : ranges) {
    if (range.begin == range.end) continue;
    if (!result.empty() && result.back().end == range.begin) {
      result.back().end = range.end;
    } else {
      result.push_back(range);
    }
  }
  return result;
}

}  // namespace

GradientBuckets::GradientBuckets(const std::vector<std::vector<Range>>& layers, int64_t elements,
                                 int64_t bucket)
    : after_(layers.size()) {
  std::vector<Range> open, taken;
  int64_t size = 0;
  for (size_t layer = layers.size(); layer-- > 0;) {
    for (const Range& range : layers[layer]) {
      open.push_back(range);
      taken.push_back(range);
      size += range.end - range.begin;
    }
    if (size < bucket && layer > 0) continue;
    after_[layer] = joined(std::move(open));
    open.clear();
    size = 0;
  }
  int64_t end = 0;
  for (const Range& range : joined(std::move(taken))) {
    if (range.begin > end) rest_.push_back({end, range.begin});
    end = range.end;
  }
  if (end < elements) rest_.push_back({end, elements});
}

}  // namespace lace::train
