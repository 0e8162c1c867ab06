#include <algorithm>
#include <bit>
#include <utility>
#include <vector>

#include "lace/error.h"
#include "lace/pattern.h"

#include "core/safe_text.h"
#include "pattern/random.h"
#include "pattern/rows.h"
#include "plan/reach_search.h"

namespace lace {
namespace plan {
namespace {

constexpr int64_t kExactLength = 16384;
constexpr int64_t kSampledQueries = 8;
// How much the searches may ask (ReachSearch::asked), for a second on a core of 2025.
constexpr int64_t kAskedPerPosition = 64, kLeastAsked = int64_t{1} << 24;
constexpr uint64_t kSampleSeed = 0x5ac3;

// Bit (i, j): position j can influence position i. Every position influences itself, through the
// residual path.
class Relation {
 public:
  explicit Relation(int64_t size)
      : size_(size),
        words_((size + 63) / 64),
        bits_(static_cast<size_t>(size * words_)),
        first_(static_cast<size_t>(size)),
        last_(static_cast<size_t>(size)) {}

  int64_t size() const { return size_; }
  int64_t words() const { return words_; }
  uint64_t* row(int64_t i) { return bits_.data() + i * words_; }
  const uint64_t* row(int64_t i) const { return bits_.data() + i * words_; }
  // The words of row i that may be non-zero: [first, last).
  int64_t first(int64_t i) const { return first_[static_cast<size_t>(i)]; }
  int64_t last(int64_t i) const { return last_[static_cast<size_t>(i)]; }

  // Call once row i is complete.
  void close(int64_t i) {
    const uint64_t* words = row(i);
    int64_t first = 0, last = words_;
    while (first < last && words[first] == 0) ++first;
    while (first < last && words[last - 1] == 0) --last;
    first_[static_cast<size_t>(i)] = static_cast<int32_t>(first);
    last_[static_cast<size_t>(i)] = static_cast<int32_t>(last);
  }

  bool operator==(const Relation& other) const { return bits_ == other.bits_; }

 private:
  int64_t size_, words_;
  std::vector<uint64_t> bits_;
  std::vector<int32_t> first_, last_;
};

// How many positions must influence query i when it sees all that it may.
int64_t wanted(bool causal, int64_t size, int64_t i) { return causal ? i + 1 : size; }

// Whether the first `count` bits are set, from word `from` on, which moves on past full words.
bool full(const uint64_t* bits, int64_t count, int64_t& from) {
  while (from < count / 64 && bits[from] == ~uint64_t{0}) ++from;
  if (from < count / 64) return false;
  const uint64_t rest = (uint64_t{1} << (count % 64)) - 1;
  return (count % 64 == 0) || (bits[from] & rest) == rest;
}

bool is_full(const Relation& relation, bool causal) {
  for (int64_t i = relation.size() - 1; i >= 0; --i) {
    int64_t from = 0;
    if (!full(relation.row(i), wanted(causal, relation.size(), i), from)) return false;
  }
  return true;
}

// One layer: the keys of all heads together.
Relation layer_relation(const BoundPattern& bound) {
  Relation relation(bound.k_len());
  for (int64_t i = 0; i < bound.k_len(); ++i) {
    uint64_t* row = relation.row(i);
    for (int64_t g = 0; g < bound.groups(); ++g) {
      pattern::add_row(bound, bound.group_head(g), i, 0, bound.k_len(), row);
    }
    row[i / 64] |= uint64_t{1} << (i % 64);
    relation.close(i);
  }
  return relation;
}

// row i of the result = OR of lower's rows over the bits of upper's row i. Words of 64 keys repeat
// from row to row (windows, summary columns): the last OR of each word is kept with its bits.
class Composer {
 public:
  Composer(const Relation& upper, const Relation& lower, bool causal)
      : upper_(upper),
        lower_(lower),
        causal_(causal),
        kept_bits_(static_cast<size_t>(upper.words())),
        kept_(static_cast<size_t>(upper.words() * upper.words())),
        kept_first_(kept_bits_.size()),
        kept_last_(kept_bits_.size()) {}

  Relation run() {
    Relation result(upper_.size());
    for (int64_t i = 0; i < upper_.size(); ++i) {
      compose_row(i, result.row(i));
      result.close(i);
    }
    return result;
  }

 private:
  void compose_row(int64_t i, uint64_t* out) {
    const int64_t count = wanted(causal_, upper_.size(), i);
    int64_t full_words = 0;
    add(lower_.row(i), lower_.first(i), lower_.last(i), out);
    for (int64_t w = upper_.last(i) - 1; w >= upper_.first(i); --w) {
      uint64_t bits = upper_.row(i)[w];
      if (bits == 0) continue;
      if (std::popcount(bits) <= 2) {
        for (; bits != 0; bits &= bits - 1) {
          const int64_t j = w * 64 + std::countr_zero(bits);
          add(lower_.row(j), lower_.first(j), lower_.last(j), out);
        }
      } else {
        refresh(w, bits);
        add(kept_row(w), kept_first_[static_cast<size_t>(w)], kept_last_[static_cast<size_t>(w)],
            out);
      }
      if (full(out, count, full_words)) return;
    }
  }

  // Makes the kept row of word w the OR of the rows of `bits`.
  void refresh(int64_t w, uint64_t bits) {
    uint64_t& kept = kept_bits_[static_cast<size_t>(w)];
    int64_t& first = kept_first_[static_cast<size_t>(w)];
    int64_t& last = kept_last_[static_cast<size_t>(w)];
    if ((kept & ~bits) != 0) {
      std::fill(kept_row(w) + first, kept_row(w) + last, 0);
      kept = 0;
    }
    if (kept == 0) first = lower_.words(), last = 0;
    for (uint64_t rest = bits & ~kept; rest != 0; rest &= rest - 1) {
      const int64_t j = w * 64 + std::countr_zero(rest);
      add(lower_.row(j), lower_.first(j), lower_.last(j), kept_row(w));
      first = std::min(first, lower_.first(j));
      last = std::max(last, lower_.last(j));
    }
    kept = bits;
  }

  uint64_t* kept_row(int64_t w) { return kept_.data() + w * upper_.words(); }

  static void add(const uint64_t* from, int64_t first, int64_t last, uint64_t* to) {
    for (int64_t w = first; w < last; ++w) to[w] |= from[w];
  }

  const Relation& upper_;
  const Relation& lower_;
  bool causal_;
  std::vector<uint64_t> kept_bits_, kept_;
  std::vector<int64_t> kept_first_, kept_last_;
};

// First all layers of one cycle in turn; then the cycle's powers by squaring, until one is full or
// squaring changes nothing; then the largest power that is not full, by bisection over the squares;
// then its last layers one by one.
Reach exact_reach(const std::vector<BoundPattern>& layers) {
  const bool causal = layers[0].causal();
  const auto cycle = static_cast<int64_t>(layers.size());
  std::vector<Relation> single;
  for (const BoundPattern& layer : layers) single.push_back(layer_relation(layer));
  Relation once = single[0];
  for (int64_t layer = 0;; ++layer) {
    if (is_full(once, causal)) return {layer + 1, true, false};
    if (layer + 1 == cycle) break;
    once = Composer(single[static_cast<size_t>(layer + 1)], once, causal).run();
  }
  std::vector<Relation> squares;
  squares.push_back(std::move(once));
  for (;;) {
    Relation next = Composer(squares.back(), squares.back(), causal).run();
    if (next == squares.back()) return {-1, true, false};
    if (is_full(next, causal)) break;
    squares.push_back(std::move(next));
  }
  Relation most = std::move(squares.back());
  squares.pop_back();
  int64_t cycles = int64_t{1} << squares.size();
  while (!squares.empty()) {
    Relation next = Composer(squares.back(), most, causal).run();
    squares.pop_back();
    if (is_full(next, causal)) continue;
    most = std::move(next);
    cycles += int64_t{1} << squares.size();
  }
  for (int64_t layer = 0;; ++layer) {
    most = Composer(single[static_cast<size_t>(layer % cycle)], most, causal).run();
    if (is_full(most, causal)) return {cycles * cycle + layer + 1, true, false};
  }
}

// Of the last query, and of others drawn from all positions, fewer where each takes long: none is
// begun that would likely be past `most_asked`, which also cuts the first. −1 is exact: one query
// that never sees everything is enough.
Reach sampled_reach(const std::vector<BoundPattern>& layers, int64_t most_asked) {
  const int64_t size = layers[0].k_len();
  ReachSearch search(layers);
  Reach most{0, false, false};
  int64_t longest = 0;
  for (int64_t sample = 0; sample < kSampledQueries; ++sample) {
    const int64_t before = search.asked();
    if (before + longest > most_asked) break;
    const auto draw = pattern::philox({static_cast<uint32_t>(sample), 0, 0, 0}, kSampleSeed);
    const int64_t query = sample == 0 ? size - 1 : static_cast<int64_t>(draw[0]) % size;
    const auto [depth, cut] =
        search.layers_of(query, (most_asked - before) / static_cast<int64_t>(layers.size()));
    if (depth < 0) return {-1, false, false};
    most.layers = std::max(most.layers, depth);
    most.at_least = most.at_least || cut;
    longest = std::max(longest, search.asked() - before);
  }
  return most;
}

}  // namespace
}  // namespace plan

Reach reach(const std::vector<Pattern>& layers, int64_t heads, int64_t seq_len) {
  LACE_CHECK(!layers.empty(), "[reach] layers must be at least one pattern, got none");
  std::vector<BoundPattern> bound;
  for (const Pattern& layer : layers) {
    bound.push_back(layer.bind(heads, seq_len, seq_len));
    LACE_CHECK(layer.causal() == layers[0].causal(),
               "[reach] layers must be all causal or all bidirectional, got ",
               printable(layers[0].to_string()), " and ", printable(layer.to_string()));
  }
  const int64_t most_asked = std::max(plan::kLeastAsked, plan::kAskedPerPosition * seq_len);
  const Reach sampled = plan::sampled_reach(bound, most_asked);
  if (seq_len > plan::kExactLength) return sampled;
  return sampled.layers < 0 ? Reach{-1, true, false} : plan::exact_reach(bound);
}

}  // namespace lace
