#include "pattern/live_keys.h"

#include <algorithm>

#include "lace/error.h"

#include "core/safe_text.h"

namespace lace::pattern {
namespace {

// Keys [begin, end) of one query.
struct Row {
  const BoundPattern& pattern;
  int64_t head, query;
  int64_t begin, end;
};

KeyRuns every(int64_t first, int64_t width, int64_t stride, const Row& row) {
  KeyRuns runs;
  const int64_t count = (row.end - first + stride - 1) / stride;
  if (count > 0) append_clipped(make_run(first, width, count, stride), row.begin, row.end, runs);
  return runs;
}

KeyRuns range(int64_t begin, int64_t end, const Row& row) {
  KeyRuns runs;
  append_clipped({begin, end - begin, 1, 0}, row.begin, row.end, runs);
  return runs;
}

// Blocks that `live` names, side by side ones as one stretch.
template <typename Live>
KeyRuns blocks(int64_t count, int64_t size, const Live& live, const Row& row) {
  KeyRuns runs;
  for (int64_t block = 0; block < count; ++block) {
    if (!live(block)) continue;
    int64_t last = block;
    while (last + 1 < count && live(last + 1)) ++last;
    append_clipped({block * size, (last + 1 - block) * size, 1, 0}, row.begin, row.end, runs);
    block = last;
  }
  return runs;
}

KeyRuns random_keys(const Atom& atom, const Row& row) {
  const auto [count, size, seed] = atom.args;
  const int64_t all = (row.pattern.k_len() + size - 1) / size;
  const std::vector<int64_t> drawn = random_blocks(count, static_cast<uint64_t>(seed), row.head,
                                                   row.query / size, all, /*causal=*/true);
  KeyRuns runs;
  for (const int64_t block : drawn) {
    append_clipped({block * size, size, 1, 0}, row.begin, row.end, runs);
  }
  return runs;
}

KeyRuns mask_keys(const BlockMask& mask, const Row& row) {
  const int64_t query_block = row.query / mask.block_size;
  if (query_block >= mask.blocks) return {};
  return blocks(
      query_block + 1, mask.block_size,
      [&](int64_t block) { return mask.at(row.head, query_block, block); }, row);
}

KeyRuns keys_of(const Atom& atom, const Row& row) {
  const auto& args = atom.args;
  switch (atom.kind) {
    case AtomKind::kLocal:
      return range((row.query / args[1] - args[0] + 1) * args[1], row.end, row);
    case AtomKind::kBlock:
      return range(row.query / args[0] * args[0], row.end, row);
    case AtomKind::kStrided:
      return every(row.query % args[0], 1, args[0], row);
    case AtomKind::kSummary:
      return every(args[0] - args[1] * (args[2] + 1), args[1], args[0], row);
    case AtomKind::kDilated: {
      const int64_t steps = std::min(args[0] - 1, row.query / args[1]);
      return every(row.query - steps * args[1], 1, args[1], row);
    }
    case AtomKind::kGlobal: {
      KeyRuns runs;
      for (const auto& [first, last] : atom.tokens) {
        append_clipped({first, last + 1 - first, 1, 0}, row.begin, row.end, runs);
      }
      return runs;
    }
    case AtomKind::kSinks:
      return range(0, args[0], row);
    case AtomKind::kRandom:
      return random_keys(atom, row);
    case AtomKind::kMask:
      return mask_keys(*atom.mask, row);
    case AtomKind::kDense:
    case AtomKind::kFixed:  // resolve() leaves none
      break;
  }
  return range(row.begin, row.end, row);
}

KeyRuns keys_of(const Expr& expr, const Row& row);

// Atoms first, whose sets cost little, then the others where those are.
KeyRuns keys_of_all(const Expr& expr, const Row& row) {
  Row part = row;
  KeyRuns both = {{row.begin, row.end - row.begin, 1, 0}};
  for (const bool atoms : {true, false}) {
    for (const Expr& operand : expr.operands) {
      if ((operand.op == Expr::Op::kAtom) != atoms) continue;
      both = intersection(both, keys_of(operand, part));
      if (both.empty()) return both;
      part.begin = part.end;
      int64_t end = 0;
      for (const KeyRun& run : both) {
        part.begin = std::min(part.begin, run.first);
        end = std::max(end, run.end());
      }
      part.end = end;
    }
  }
  return both;
}

KeyRuns keys_of(const Expr& expr, const Row& row) {
  if (expr.op == Expr::Op::kAtom) return keys_of(expr.atom, row);
  if (expr.op == Expr::Op::kIntersection) return keys_of_all(expr, row);
  KeyRuns either = keys_of(expr.operands[0], row);
  for (size_t i = 1; i < expr.operands.size(); ++i) {
    either = join(either, keys_of(expr.operands[i], row));
  }
  return either;
}

}  // namespace

KeyRuns live_keys(const BoundPattern& pattern, int64_t head, int64_t query) {
  LACE_CHECK(pattern.causal(), "[live_keys] pattern must be causal, got ",
             printable(pattern.pattern().to_string()));
  const int64_t draws_as = pattern.group_head(pattern.group(head));
  return keys_of(pattern.expr(head), {pattern, draws_as, query, 0, query + 1});
}

}  // namespace lace::pattern
