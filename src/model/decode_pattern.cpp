#include "model/decode_pattern.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

namespace lace::model {

namespace {

bool names_tokens(const Expr& expr) {
  if (expr.op == Expr::Op::kAtom) return expr.atom.kind == AtomKind::kGlobal;
  return std::any_of(expr.operands.begin(), expr.operands.end(), names_tokens);
}

bool names_tokens(const Pattern& pattern) {
  const auto& entries = pattern.entries();
  return std::any_of(entries.begin(), entries.end(),
                     [](const auto& entry) { return names_tokens(entry.expr); });
}

// `expr` without tokens at or after `keys`; nothing if that leaves the empty set.
std::optional<Expr> clip_tokens(const Expr& expr, int64_t keys) {
  Expr clipped = expr;
  if (expr.op == Expr::Op::kAtom) {
    if (expr.atom.kind != AtomKind::kGlobal) return expr;
    auto& tokens = clipped.atom.tokens;
    std::erase_if(tokens, [keys](const TokenRange& range) { return range.first >= keys; });
    for (TokenRange& range : tokens) range.last = std::min(range.last, keys - 1);
    return tokens.empty() ? std::nullopt : std::optional(clipped);
  }
  clipped.operands.clear();
  for (const Expr& operand : expr.operands) {
    const std::optional<Expr> kept = clip_tokens(operand, keys);
    if (kept) clipped.operands.push_back(*kept);
    if (!kept && expr.op == Expr::Op::kIntersection) return std::nullopt;
  }
  if (clipped.operands.empty()) return std::nullopt;
  return clipped.operands.size() == 1 ? clipped.operands[0] : clipped;
}

}  // namespace

Pattern resolve_tokens(const Pattern& pattern, int64_t heads, int64_t seq_len) {
  if (!names_tokens(pattern)) return pattern;
  const BoundPattern bound = pattern.bind(heads, seq_len, seq_len);
  std::vector<Pattern::HeadEntry> entries;
  for (int64_t head = 0; head < heads; ++head) entries.push_back({1, bound.expr(head)});
  return Pattern(std::move(entries), true);
}

Pattern clip_tokens(const Pattern& pattern, int64_t keys) {
  if (!names_tokens(pattern)) return pattern;
  // No key is in two different columns of its block.
  static const Expr never = (summary(2, 1, 0) & summary(2, 1, 1)).entries()[0].expr;
  std::vector<Pattern::HeadEntry> entries = pattern.entries();
  for (auto& entry : entries) entry.expr = clip_tokens(entry.expr, keys).value_or(never);
  return Pattern(std::move(entries), true);
}

}  // namespace lace::model
