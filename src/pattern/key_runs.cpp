#include "pattern/key_runs.h"

#include <algorithm>
#include <utility>

namespace lace::pattern {
namespace {

// Beyond every key, with room for sums.
constexpr int64_t kFar = int64_t{1} << 40;
// Sets of more runs together are joined as sorted lists of stretches, in time that grows with the
// stretches and not with the product of the numbers of runs.
constexpr size_t kFewRuns = 32;

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }

void append_interval(int64_t begin, int64_t end, KeyRuns& to) {
  if (begin < end) to.push_back(make_run(begin, end - begin));
}

// Both have several stretches, the same stride apart.
void append_aligned(const KeyRun& a, const KeyRun& b, KeyRuns& to) {
  const int64_t stride = a.stride;
  const int64_t away = b.first - a.first, shift = away - floor_div(away, stride) * stride;
  // Stretches of b begin `from` behind those of a.
  for (const int64_t from : {shift, shift - stride}) {
    const int64_t begin = std::max<int64_t>(0, from), end = std::min(a.width, from + b.width);
    // Stretch k of a meets stretch k − lead of b.
    const int64_t lead = (away - from) / stride;
    const int64_t k_begin = std::max<int64_t>(0, lead), k_end = std::min(a.count, b.count + lead);
    if (begin < end && k_begin < k_end) {
      to.push_back(make_run(a.begin(k_begin) + begin, end - begin, k_end - k_begin, stride));
    }
  }
}

void append_intersection(const KeyRun& a, const KeyRun& b, KeyRuns& to) {
  if (a.count > 1 && a.stride == b.stride) return append_aligned(a, b, to);
  const auto& [few, many] = a.count <= b.count ? std::pair(a, b) : std::pair(b, a);
  if (few.end() <= many.first || many.end() <= few.first) return;
  for (int64_t k = 0; k < few.count; ++k) {
    append_clipped(many, few.begin(k), few.begin(k) + few.width, to);
  }
}

void append_difference(const KeyRun& a, const KeyRun& b, KeyRuns& to) {
  append_clipped(a, -kFar, b.first, to);
  if (b.count > 1) {
    append_intersection(a, make_run(b.first + b.width, b.stride - b.width, b.count - 1, b.stride),
                        to);
  }
  append_clipped(a, b.end(), kFar, to);
}

// Ascending stretches that neither touch nor overlap.
KeyRuns sorted_stretches(const KeyRuns& runs) {
  KeyRuns stretches;
  for (const KeyRun& run : runs) {
    for (int64_t k = 0; k < run.count; ++k)
      append_interval(run.begin(k), run.begin(k) + run.width, stretches);
  }
  std::sort(stretches.begin(), stretches.end(),
            [](const KeyRun& x, const KeyRun& y) { return x.first < y.first; });
  KeyRuns merged;
  for (const KeyRun& stretch : stretches) {
    if (!merged.empty() && stretch.first <= merged.back().end()) {
      merged.back().width = std::max(merged.back().end(), stretch.end()) - merged.back().first;
    } else {
      merged.push_back(stretch);
    }
  }
  return merged;
}

KeyRuns intersect_stretches(const KeyRuns& a, const KeyRuns& b) {
  KeyRuns both;
  for (size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    append_interval(std::max(a[i].first, b[j].first), std::min(a[i].end(), b[j].end()), both);
    (a[i].end() < b[j].end() ? i : j) += 1;
  }
  return both;
}

KeyRuns gaps(const KeyRuns& stretches) {
  KeyRuns between;
  int64_t begin = -kFar;
  for (const KeyRun& stretch : stretches) {
    append_interval(begin, stretch.first, between);
    begin = stretch.end();
  }
  append_interval(begin, kFar, between);
  return between;
}

}  // namespace

int64_t key_count(const KeyRuns& runs) {
  int64_t keys = 0;
  for (const KeyRun& run : runs) keys += run.keys();
  return keys;
}

KeyRun make_run(int64_t first, int64_t width, int64_t count, int64_t stride) {
  if (count > 1 && width < stride) return {first, width, count, stride};
  return {first, width * count, 1, 0};
}

void append_clipped(const KeyRun& run, int64_t begin, int64_t end, KeyRuns& to) {
  if (run.count == 1) {
    return append_interval(std::max(run.first, begin), std::min(run.end(), end), to);
  }
  // The first stretch that ends behind `begin`, the last that starts before `end`.
  int64_t low = std::max<int64_t>(0, floor_div(begin - run.first - run.width, run.stride) + 1);
  int64_t high = std::min(run.count - 1, floor_div(end - run.first - 1, run.stride));
  if (low > high || begin >= end) return;
  const auto cut = [&](int64_t k) {
    append_interval(std::max(run.begin(k), begin), std::min(run.begin(k) + run.width, end), to);
  };
  if (low == high) return cut(low);
  if (run.begin(low) < begin) cut(low++);
  if (run.begin(high) + run.width > end) cut(high--);
  if (low <= high) to.push_back(make_run(run.begin(low), run.width, high - low + 1, run.stride));
}

KeyRuns intersection(const KeyRuns& a, const KeyRuns& b) {
  if (a.size() + b.size() > kFewRuns && a.size() > 1 && b.size() > 1) {
    return intersect_stretches(sorted_stretches(a), sorted_stretches(b));
  }
  KeyRuns both;
  for (const KeyRun& x : a) {
    for (const KeyRun& y : b) append_intersection(x, y, both);
  }
  return both;
}

KeyRuns difference(const KeyRuns& a, const KeyRuns& b) {
  KeyRuns left = a, next;
  for (const KeyRun& y : b) {
    if (left.size() + b.size() > kFewRuns) {
      return intersect_stretches(sorted_stretches(left), gaps(sorted_stretches(b)));
    }
    next.clear();
    for (const KeyRun& x : left) append_difference(x, y, next);
    left.swap(next);
  }
  return left;
}

KeyRuns join(const KeyRuns& a, const KeyRuns& b) {
  KeyRuns all = difference(b, a);
  all.insert(all.begin(), a.begin(), a.end());
  return all;
}

}  // namespace lace::pattern
