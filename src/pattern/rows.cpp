#include "pattern/rows.h"

#include <algorithm>
#include <vector>

#include "pattern/atoms.h"

namespace lace::pattern {
namespace {

// Keys [begin, end) of one query; bit 0 of `bits` is key `origin`.
struct Row {
  const BoundPattern& pattern;
  int64_t head, query, begin, end;
  int64_t origin;
  uint64_t* bits;

  void set(int64_t key) const {
    const auto bit = static_cast<uint64_t>(key - origin);
    bits[bit / 64] |= uint64_t{1} << (bit % 64);
  }

  void set_range(int64_t from, int64_t to) const {
    from = std::max(from, begin) - origin;
    to = std::min(to, end) - origin;
    while (from < to) {
      const int64_t bit = from % 64, count = std::min<int64_t>(64 - bit, to - from);
      const uint64_t ones = count == 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
      bits[from / 64] |= ones << bit;
      from += count;
    }
  }

  // Keys [from, to) that are `phase` mod `step`.
  void set_every(int64_t from, int64_t to, int64_t phase, int64_t step) const {
    from = std::max(from, begin);
    to = std::min(to, end);
    const int64_t past = ((from - phase) % step + step) % step;
    for (int64_t key = past == 0 ? from : from + step - past; key < to; key += step) set(key);
  }
};

struct Hull {
  int64_t begin, end;
};

// Keys outside it cannot be live in `atom`.
Hull hull(const Atom& atom, const Row& row) {
  const auto& args = atom.args;
  const bool causal = row.pattern.causal();
  switch (atom.kind) {
    case AtomKind::kLocal: {
      const int64_t block = row.query / args[1];
      const int64_t behind = causal ? args[0] - 1 : args[0] / 2;
      return {(block - behind) * args[1], (block + (causal ? 0 : behind) + 1) * args[1]};
    }
    case AtomKind::kBlock: {
      const int64_t first = row.query / args[0] * args[0];
      return {first, first + args[0]};
    }
    case AtomKind::kDilated: {
      const int64_t behind = (causal ? args[0] - 1 : args[0] / 2) * args[1];
      return {row.query - behind, row.query + (causal ? 0 : behind) + 1};
    }
    case AtomKind::kSinks:
      return {0, args[0]};
    default:
      return {row.begin, row.end};
  }
}

void add_summary(const Atom& atom, const Row& row) {
  const auto [length, columns, stripe] = atom.args;
  const int64_t from = length - columns * (stripe + 1), to = length - columns * stripe;
  for (int64_t block = row.begin / length * length; block < row.end; block += length) {
    row.set_range(block + from, block + to);
  }
}

void add_tokens(const Atom& atom, const Row& row) {
  for (const auto& [first, last] : atom.tokens) {
    row.set_range(first, last + 1);
    if (!row.pattern.causal() && first <= row.query && row.query <= last) {
      row.set_range(row.begin, row.end);
    }
  }
}

void add_random(const Atom& atom, const Row& row) {
  const auto [count, block, seed] = atom.args;
  const int64_t blocks = (row.pattern.k_len() + block - 1) / block;
  for (const int64_t drawn : random_blocks(count, static_cast<uint64_t>(seed), row.head,
                                           row.query / block, blocks, row.pattern.causal())) {
    row.set_range(drawn * block, (drawn + 1) * block);
  }
}

void add_mask(const BlockMask& mask, const Row& row) {
  const int64_t query_block = row.query / mask.block_size;
  if (query_block >= mask.blocks) return;
  const int64_t last = std::min(mask.blocks, (row.end + mask.block_size - 1) / mask.block_size);
  for (int64_t block = row.begin / mask.block_size; block < last; ++block) {
    if (mask.at(row.head, query_block, block)) {
      row.set_range(block * mask.block_size, (block + 1) * mask.block_size);
    }
  }
}

void add(const Atom& atom, const Row& row) {
  const Hull keys = hull(atom, row);
  switch (atom.kind) {
    case AtomKind::kStrided:
      return row.set_every(row.begin, row.end, row.query, atom.args[0]);
    case AtomKind::kDilated:
      return row.set_every(keys.begin, keys.end, row.query, atom.args[1]);
    case AtomKind::kSummary:
      return add_summary(atom, row);
    case AtomKind::kGlobal:
      return add_tokens(atom, row);
    case AtomKind::kRandom:
      return add_random(atom, row);
    case AtomKind::kMask:
      return add_mask(*atom.mask, row);
    default:
      return row.set_range(keys.begin, keys.end);
  }
}

Hull hull(const Expr& expr, const Row& row) {
  if (expr.op == Expr::Op::kAtom) return hull(expr.atom, row);
  const bool intersection = expr.op == Expr::Op::kIntersection;
  Hull all = hull(expr.operands[0], row);
  for (const Expr& operand : expr.operands) {
    const Hull keys = hull(operand, row);
    all.begin = intersection ? std::max(all.begin, keys.begin) : std::min(all.begin, keys.begin);
    all.end = intersection ? std::min(all.end, keys.end) : std::max(all.end, keys.end);
  }
  return all;
}

void add(const Expr& expr, const Row& row);

void add_intersection(const Expr& expr, const Row& row) {
  const Hull keys = hull(expr, row);
  // From a word's first bit on, so that whole words can be joined.
  const int64_t begin = std::max(keys.begin, row.begin), end = std::min(keys.end, row.end);
  if (begin >= end) return;
  const int64_t first_word = (begin - row.origin) / 64;
  const auto words = static_cast<size_t>((end - row.origin + 63) / 64 - first_word);
  std::vector<uint64_t> all(words, ~uint64_t{0}), one(words);
  for (const Expr& operand : expr.operands) {
    std::fill(one.begin(), one.end(), 0);
    Row part{row.pattern, row.head, row.query, begin, end, row.origin + first_word * 64,
             one.data()};
    add(operand, part);
    for (size_t w = 0; w < words; ++w) all[w] &= one[w];
  }
  for (size_t w = 0; w < words; ++w) row.bits[first_word + static_cast<int64_t>(w)] |= all[w];
}

void add(const Expr& expr, const Row& row) {
  if (expr.op == Expr::Op::kAtom) return add(expr.atom, row);
  if (expr.op == Expr::Op::kIntersection) return add_intersection(expr, row);
  for (const Expr& operand : expr.operands) add(operand, row);
}

}  // namespace

void add_row(const BoundPattern& pattern, int64_t head, int64_t query, int64_t begin, int64_t end,
             uint64_t* bits) {
  const int64_t last = pattern.causal() ? std::min(end, query + 1) : end;
  if (begin >= last) return;
  add(pattern.expr(head), Row{pattern, head, query, begin, last, begin, bits});
}

}  // namespace lace::pattern
