#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "lace/pattern.h"

namespace lace::plan {

// The normal form of a pattern: a union of terms, each a conjunction of simple constraints on the
// absolute positions (a of the owner, b of the other). The compiler reads only this, never a
// pattern's tree. In a forward plan a is the query and b the key; in a transposed one a is the key.

// Past every difference of positions, and small enough to add a few of.
inline constexpr int64_t kUnbounded = int64_t{1} << 56;

inline int64_t floor_div(int64_t value, int64_t divisor) {
  return value >= 0 ? value / divisor : -((divisor - 1 - value) / divisor);
}
inline int64_t ceil_div(int64_t value, int64_t divisor) { return -floor_div(-value, divisor); }
// block · size, kept within kUnbounded.
inline int64_t block_begin(int64_t block, int64_t size) {
  if (block >= kUnbounded / size) return kUnbounded;
  return block <= -kUnbounded / size ? -kUnbounded : block * size;
}
inline int64_t floor_mod(int64_t value, int64_t divisor) {
  return value - floor_div(value, divisor) * divisor;
}

// Positions begin … end − 1.
struct Range {
  int64_t begin = 0, end = 0;
  bool operator==(const Range&) const = default;
};
// Ascending, neither overlapping nor touching.
using Ranges = std::vector<Range>;

Ranges intersect(const Ranges& a, const Ranges& b);
// `a` without `b`.
Ranges subtract(const Ranges& a, const Ranges& b);
// Sorts, and joins what overlaps or touches.
void coalesce(Ranges& ranges);
bool contains(const Ranges& ranges, int64_t position);

// lo <= ⌊a/block⌋ − ⌊b/block⌋ <= hi
struct BlockBand {
  int64_t block = 1, lo = 0, hi = 0;
  bool operator==(const BlockBand&) const = default;
};

// begin <= position mod period < end
struct Columns {
  int64_t period = 1, begin = 0, end = 1;
  bool has(int64_t position) const {
    const int64_t column = position % period;
    return begin <= column && column < end;
  }
  bool operator==(const Columns&) const = default;
};

// Which blocks of others each block of owners sees, ascending: random(…), mask(file). Draws all of
// them when it is first asked for any but by draw().
class BlockList {
 public:
  // draw(x, row) makes `row` the blocks of keys that block x of queries sees, ascending, for the
  // blocks of queries `first` to `blocks` − 1.
  using Draw = std::function<void(int64_t query_block, std::vector<int64_t>& row)>;
  BlockList(int64_t block, int64_t first, int64_t blocks, Draw draw, bool transposed);
  int64_t block() const { return block_; }
  std::span<const int32_t> row(int64_t owner_block) const;
  bool live(int64_t owner_block, int64_t other_block) const;
  // As row(), drawn for this call alone. Of a list that is not transposed.
  void draw(int64_t owner_block, std::vector<int64_t>& row) const;

 private:
  struct Rows {
    std::vector<int64_t> begins{0};
    std::vector<int32_t> blocks;
    std::span<const int32_t> of(int64_t index) const;
    Rows transposed() const;  // of as many blocks
  };
  const Rows& drawn() const;

  int64_t block_, first_, blocks_;
  Draw draw_;
  bool transposed_;
  mutable std::once_flag once_;
  mutable Rows drawn_;
};

// What no other constraint expresses: the pattern itself, asked pair by pair.
struct General {
  const BoundPattern* pattern = nullptr;
  int64_t head = 0;
  bool transposed = false;
  bool live(int64_t owner, int64_t other) const;
};

struct Term {
  int64_t lo = -kUnbounded, hi = kUnbounded;  // lo <= a − b <= hi
  int64_t modulus = 1;                        // (a − b) mod modulus = 0
  std::vector<BlockBand> block_bands;
  std::vector<Columns> owner_columns, other_columns;
  std::optional<Ranges> owner_ranges, other_ranges;  // none: everywhere
  std::vector<std::shared_ptr<const BlockList>> lists;
  std::shared_ptr<const General> general;

  // Whether pair (a, b) is live, for any a and b >= 0.
  bool live(int64_t a, int64_t b) const;
};

// Where owners and others lie: [owner_begin, end) and [other_begin, end), in absolute positions.
struct Domain {
  int64_t owner_begin = 0, other_begin = 0, end = 0;
};

// The union of the terms is the pattern of `head`, or its transpose. No term is empty and none lies
// inside another as far as their constraints show. Where more than `most` terms would be needed on
// the way, one General term stands for all, which borrows `pattern`.
inline constexpr size_t kMaxTerms = 96;  // a plan for more would only be slower to compile
std::vector<Term> normal_form(const BoundPattern& pattern, int64_t head, bool transposed,
                              size_t most = kMaxTerms);

// Drops constraints that always hold and tightens the others. False: no pair is live.
bool simplify(Term& term, const Domain& domain);

// The pairs of both; false: there are none.
std::optional<Term> conjunction(const Term& a, const Term& b, const Domain& domain);

// Whether `inner`'s constraints show that all of its pairs are pairs of `outer`.
bool inside(const Term& inner, const Term& outer);

enum class Remainder {
  kAll,       // no pair was taken
  kNone,      // every pair was taken
  kNarrowed,  // `term` now holds just the pairs that were not taken
  kNotATerm,  // what is left is no term: `term` is as before
};
// Takes the pairs of `taken` out of `term`.
Remainder take_away(Term& term, const Term& taken, const Domain& domain);

}  // namespace lace::plan
