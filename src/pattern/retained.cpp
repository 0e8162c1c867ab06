#include "pattern/retained.h"

#include <algorithm>
#include <utility>

namespace lace::pattern {
namespace {

void add_columns(std::vector<Retained::Columns>& list, Retained::Columns added) {
  // Columns of one length that touch are one set.
  for (size_t i = 0; i < list.size();) {
    const Retained::Columns other = list[i];
    const int64_t begin = std::min(added.first, other.first);
    const int64_t end = std::max(added.first + added.width, other.first + other.width);
    if (other.length != added.length || end - begin > added.width + other.width) {
      ++i;
      continue;
    }
    added = {added.length, begin, end - begin};
    list.erase(list.begin() + static_cast<std::ptrdiff_t>(i));
    i = 0;
  }
  list.push_back(added);
}

void add_tokens(std::vector<TokenRange>& list, TokenRange added) {
  std::erase_if(list, [&](const TokenRange& other) {
    if (other.first > added.last + 1 || added.first > other.last + 1) return false;
    added = {std::min(added.first, other.first), std::max(added.last, other.last)};
    return true;
  });
  const auto place = std::find_if(
      list.begin(), list.end(), [&](const TokenRange& other) { return other.first > added.first; });
  list.insert(place, added);
}

Retained everything() {
  Retained all;
  all.all = true;
  return all;
}

Retained last(int64_t window) {
  Retained kept;
  kept.window = window;
  return kept;
}

Retained retained(const Atom& atom) {
  const auto& args = atom.args;
  Retained kept;
  switch (atom.kind) {
    case AtomKind::kLocal:
      return last(args[0] * args[1]);
    case AtomKind::kBlock:
      return last(args[0]);
    case AtomKind::kDilated:
      return last((args[0] - 1) * args[1] + 1);
    case AtomKind::kSummary:
      if (args[1] == args[0]) return everything();
      kept.columns.push_back({args[0], args[0] - args[1] * (args[2] + 1), args[1]});
      return kept;
    case AtomKind::kGlobal:
      kept.tokens = atom.tokens;
      return kept;
    case AtomKind::kSinks:
      kept.tokens = {{0, args[0] - 1}};
      return kept;
    case AtomKind::kDense:
    case AtomKind::kStrided:
    case AtomKind::kRandom:
    case AtomKind::kMask:
    case AtomKind::kFixed:  // resolve() leaves none
      break;
  }
  return everything();
}

Retained retained(const Expr& expr, int64_t keys) {
  if (expr.op == Expr::Op::kAtom) return retained(expr.atom);
  Retained kept = retained(expr.operands[0], keys);
  for (size_t i = 1; i < expr.operands.size(); ++i) {
    Retained other = retained(expr.operands[i], keys);
    if (expr.op == Expr::Op::kUnion) {
      kept = join(std::move(kept), other);
    } else if (other.rows(keys) < kept.rows(keys)) {
      kept = std::move(other);
    }
  }
  return kept;
}

}  // namespace

int64_t Retained::rows(int64_t keys) const {
  if (all) return keys;
  int64_t sum = window;
  for (const auto& [length, first, width] : columns) {
    sum += keys / length * width + std::clamp<int64_t>(keys % length - first, 0, width);
  }
  for (const auto& [first, end] : tokens)
    sum += std::clamp<int64_t>(keys - first, 0, end + 1 - first);
  return std::min(sum, keys);
}

Retained join(Retained a, const Retained& b) {
  if (a.all || b.all) return everything();
  a.window = std::max(a.window, b.window);
  for (const Retained::Columns& columns : b.columns) add_columns(a.columns, columns);
  for (const TokenRange& range : b.tokens) add_tokens(a.tokens, range);
  const bool whole = std::any_of(a.columns.begin(), a.columns.end(), [](const auto& columns) {
    return columns.width == columns.length;
  });
  return whole ? everything() : a;
}

Retained retained(const BoundPattern& pattern, int64_t head) {
  return retained(pattern.expr(head), pattern.k_len());
}

}  // namespace lace::pattern
