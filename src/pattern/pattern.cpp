#include "lace/pattern.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "lace/error.h"

#include "core/safe_text.h"
#include "pattern/atoms.h"
#include "pattern/expr.h"
#include "pattern/mask.h"

namespace lace {
namespace {
constexpr int64_t kMaxHeads = 65536;
}

namespace pattern {

Expr atom_expr(Atom atom) {
  return {.op = Expr::Op::kAtom, .atom = std::move(atom), .operands = {}};
}

Expr combine(Expr::Op op, std::vector<Expr> operands) {
  if (operands.size() == 1) return std::move(operands.front());
  Expr expr{.op = op, .atom = {}, .operands = {}};
  for (Expr& operand : operands) {
    if (operand.op == op) {
      std::move(operand.operands.begin(), operand.operands.end(),
                std::back_inserter(expr.operands));
    } else {
      expr.operands.push_back(std::move(operand));
    }
  }
  return expr;
}

int depth(const Expr& expr) {
  int deepest = 0;
  for (const Expr& operand : expr.operands) deepest = std::max(deepest, depth(operand));
  return deepest + 1;
}

std::string to_string(const Expr& expr) {
  if (expr.op == Expr::Op::kAtom) return to_string(expr.atom);
  const bool intersection = expr.op == Expr::Op::kIntersection;
  std::string text;
  for (const Expr& operand : expr.operands) {
    if (!text.empty()) text += intersection ? " & " : " | ";
    const bool parentheses = intersection && operand.op == Expr::Op::kUnion;
    text += parentheses ? concat("(", to_string(operand), ")") : to_string(operand);
  }
  return text;
}

namespace {

void check_expr(const Expr& expr) {
  if (expr.op == Expr::Op::kAtom) {
    const AtomSpec& spec = atom_spec(expr.atom.kind);
    if (const auto error = check_arguments(expr.atom)) {
      throw Error(concat("[", spec.name, "] ", error->text));
    }
    LACE_CHECK(expr.atom.kind != AtomKind::kMask || expr.atom.mask != nullptr,
               "[mask] file must have been read, got none for ", printable(expr.atom.file));
    return;
  }
  LACE_CHECK(expr.operands.size() >= 2, "[pattern] a union or an intersection takes at least 2 ",
             "operands, got ", expr.operands.size());
  for (const Expr& operand : expr.operands) {
    LACE_CHECK(operand.op != expr.op, "[pattern] an operand must not repeat its parent's ",
               "operation, got ", printable(to_string(operand)));
    check_expr(operand);
  }
}

Expr resolve_tree(const Expr& expr, int64_t head, int64_t heads, int64_t k_len) {
  if (expr.op == Expr::Op::kAtom) return resolve(expr.atom, head, heads, k_len);
  std::vector<Expr> operands;
  for (const Expr& operand : expr.operands) {
    operands.push_back(resolve_tree(operand, head, heads, k_len));
  }
  return combine(expr.op, std::move(operands));
}

// Whether two heads have the same pairs, as far as their trees show; draws: those of `random` too.
bool same_trees(const Expr& a, int64_t head_a, const Expr& b, int64_t head_b, bool draws = true) {
  if (a.op != b.op) return false;
  if (a.op == Expr::Op::kAtom) {
    if (!draws && a.atom.kind == AtomKind::kRandom) return a == b;
    return same_pairs(a.atom, head_a, b.atom, head_b);
  }
  return std::equal(
      a.operands.begin(), a.operands.end(), b.operands.begin(), b.operands.end(),
      [&](const Expr& x, const Expr& y) { return same_trees(x, head_a, y, head_b, draws); });
}

struct Pair {
  int64_t head, k_len, query, key;
  bool causal;
};

bool tree_attends(const Expr& expr, const Pair& pair) {
  const auto live = [&pair](const Expr& operand) { return tree_attends(operand, pair); };
  switch (expr.op) {
    case Expr::Op::kAtom:
      return attends(expr.atom, pair.head, pair.causal, pair.k_len, pair.query, pair.key);
    case Expr::Op::kUnion:
      return std::any_of(expr.operands.begin(), expr.operands.end(), live);
    case Expr::Op::kIntersection:
      return std::all_of(expr.operands.begin(), expr.operands.end(), live);
  }
  return false;
}

Pattern one_atom(Atom atom) { return Pattern({{0, atom_expr(std::move(atom))}}, true); }

Pattern one_atom(AtomKind kind, std::array<int64_t, 3> args) {
  return one_atom(Atom{kind, args, {}, {}, {}});
}

// The expression of a pattern that is neither bidirectional(…) nor heads(…).
const Expr& inner_expr(const Pattern& pattern, const char* operation) {
  LACE_CHECK(pattern.causal(), "[", operation, "] bidirectional(…) must be outermost, got ",
             printable(pattern.to_string()));
  LACE_CHECK(pattern.entries().size() == 1 && pattern.entries()[0].count == 0, "[", operation,
             "] heads(…) must be outermost, got ", printable(pattern.to_string()));
  return pattern.entries()[0].expr;
}

Pattern join(Expr::Op op, const Pattern& a, const Pattern& b, const char* operation) {
  return Pattern({{0, combine(op, {inner_expr(a, operation), inner_expr(b, operation)})}}, true);
}

// The index of the entry that head `head` takes; counts repeat as often as they fit into the heads.
size_t entry_of(const std::vector<Pattern::HeadEntry>& entries, int64_t head, int64_t counts) {
  int64_t rest = head % counts;
  size_t entry = 0;
  while (rest >= entries[entry].count) rest -= entries[entry++].count;
  return entry;
}

}  // namespace
}  // namespace pattern

bool Atom::operator==(const Atom& other) const {
  if (kind != other.kind || args != other.args || tokens != other.tokens || file != other.file ||
      (mask == nullptr) != (other.mask == nullptr)) {
    return false;
  }
  return mask == other.mask || mask->content_hash == other.mask->content_hash;
}

bool Expr::operator==(const Expr& other) const {
  return op == other.op && atom == other.atom && operands == other.operands;
}

Pattern::Pattern(std::vector<HeadEntry> entries, bool causal)
    : entries_(std::move(entries)), causal_(causal) {
  LACE_CHECK(!entries_.empty(), "[heads] entries must be at least 1, got 0");
  const bool one_for_all = entries_.size() == 1 && entries_[0].count == 0;
  for (const auto& [count, expr] : entries_) {
    LACE_CHECK(one_for_all || (1 <= count && count <= pattern::kMaxArgument),
               "[heads] count must be at least 1, got ", count);
    const int levels = pattern::depth(expr);
    LACE_CHECK(levels <= pattern::kMaxDepth, "[pattern] levels of | and & must be at most ",
               pattern::kMaxDepth, ", got ", levels);
    pattern::check_expr(expr);
  }
}

bool Pattern::operator==(const Pattern& other) const {
  return causal_ == other.causal_ && entries_ == other.entries_;
}

std::string Pattern::to_string() const {
  std::string text;
  if (entries_[0].count == 0) {
    text = pattern::to_string(entries_[0].expr);
  } else {
    for (const auto& [count, expr] : entries_) {
      text += text.empty() ? "heads(" : ", ";
      text += std::to_string(count) + "*" + pattern::to_string(expr);
    }
    text += ")";
  }
  return causal_ ? text : "bidirectional(" + text + ")";
}

namespace {

bool depends_on_length(const Expr& expr, bool causal) {
  if (expr.op == Expr::Op::kAtom) {
    const auto from_end = [](const TokenRange& range) { return range.first < 0 || range.last < 0; };
    return (expr.atom.kind == AtomKind::kRandom && !causal) ||
           std::any_of(expr.atom.tokens.begin(), expr.atom.tokens.end(), from_end);
  }
  return std::any_of(expr.operands.begin(), expr.operands.end(),
                     [&](const Expr& operand) { return depends_on_length(operand, causal); });
}

}  // namespace

bool Pattern::depends_on_length() const {
  return std::any_of(entries_.begin(), entries_.end(), [&](const HeadEntry& entry) {
    return lace::depends_on_length(entry.expr, causal_);
  });
}

BoundPattern Pattern::bind(int64_t heads, int64_t q_len, int64_t k_len) const {
  LACE_CHECK(1 <= heads && heads <= kMaxHeads, "[bind] heads must be from 1 to ", kMaxHeads,
             ", got ", heads);
  LACE_CHECK(1 <= q_len, "[bind] q_len must be at least 1, got ", q_len);
  LACE_CHECK(q_len <= k_len, "[bind] q_len must be at most k_len (", k_len, "), got ", q_len);
  LACE_CHECK(k_len <= pattern::kMaxArgument, "[bind] k_len must be at most ", pattern::kMaxArgument,
             ", got ", k_len);
  int64_t counts = 0;
  for (const HeadEntry& entry : entries_) counts += entry.count;
  LACE_CHECK(counts == 0 || heads % counts == 0,
             "[bind] counts of heads(…) must add up to the heads (", heads,
             ") or divide them, got ", counts);

  BoundPattern bound(*this);
  bound.heads_ = heads;
  bound.q_len_ = q_len;
  bound.k_len_ = k_len;
  bound.causal_ = causal_;
  for (int64_t head = 0; head < heads; ++head) {
    const size_t entry = counts == 0 ? 0 : pattern::entry_of(entries_, head, counts);
    Expr expr = pattern::resolve_tree(entries_[entry].expr, head, heads, k_len);
    size_t group = 0;
    while (group < bound.exprs_.size() &&
           !pattern::same_trees(expr, head, bound.exprs_[group], bound.group_head_[group])) {
      ++group;
    }
    if (group == bound.exprs_.size()) {
      bound.exprs_.push_back(std::move(expr));
      bound.group_head_.push_back(head);
    }
    bound.head_group_.push_back(static_cast<int64_t>(group));
  }
  return bound;
}

BoundPattern BoundPattern::with_one_draw() const {
  BoundPattern one = *this;
  one.exprs_.clear();
  one.group_head_.clear();
  std::vector<int64_t> new_group;
  for (int64_t group = 0; group < groups(); ++group) {
    const int64_t head = group_head(group);
    int64_t same = 0;
    while (same < one.groups() &&
           !pattern::same_trees(expr(head), head, one.exprs_[static_cast<size_t>(same)],
                                one.group_head(same), false)) {
      ++same;
    }
    if (same == one.groups()) {
      one.exprs_.push_back(expr(head));
      one.group_head_.push_back(head);
    }
    new_group.push_back(same);
  }
  for (int64_t& group : one.head_group_) group = new_group[static_cast<size_t>(group)];
  return one;
}

bool BoundPattern::attends(int64_t head, int64_t query, int64_t key) const {
  if (causal_ && key > query) return false;
  const int64_t draws_as = group_head(group(head));  // with_one_draw
  return pattern::tree_attends(expr(head), {draws_as, k_len_, query, key, causal_});
}

Pattern dense() { return pattern::one_atom(AtomKind::kDense, {}); }
Pattern local(int64_t window, int64_t block) {
  return pattern::one_atom(AtomKind::kLocal, {window, block});
}
Pattern block(int64_t length) { return pattern::one_atom(AtomKind::kBlock, {length}); }
Pattern strided(int64_t length) { return pattern::one_atom(AtomKind::kStrided, {length}); }
Pattern summary(int64_t length, int64_t columns, int64_t stripe) {
  return pattern::one_atom(AtomKind::kSummary, {length, columns, stripe});
}
Pattern fixed(int64_t length, int64_t columns, int64_t stripes) {
  return pattern::one_atom(AtomKind::kFixed, {length, columns, stripes});
}
Pattern dilated(int64_t window, int64_t dilation) {
  return pattern::one_atom(AtomKind::kDilated, {window, dilation});
}
Pattern global(int64_t count) { return pattern::one_atom(AtomKind::kGlobal, {count}); }
Pattern global(std::vector<TokenRange> tokens) {
  LACE_CHECK(!tokens.empty(), "[global] tokens must be at least one range, got none");
  return pattern::one_atom(Atom{AtomKind::kGlobal, {}, std::move(tokens), {}, {}});
}
Pattern sinks(int64_t count) { return pattern::one_atom(AtomKind::kSinks, {count}); }
Pattern random(int64_t blocks, int64_t block, int64_t seed) {
  return pattern::one_atom(AtomKind::kRandom, {blocks, block, seed});
}
Pattern mask(const std::string& file) {
  return pattern::one_atom(Atom{AtomKind::kMask, {}, {}, file, pattern::read_mask(file)});
}

Pattern within(const Pattern& of, std::shared_ptr<const BlockMask> mask) {
  LACE_CHECK(mask != nullptr, "[within] mask must be there, got none");
  const std::string name = concat("tensor ", mask->content_hash);
  const Expr blocks = pattern::atom_expr({AtomKind::kMask, {}, {}, name, std::move(mask)});
  const Expr all = pattern::atom_expr(Atom{});  // dense
  std::vector<Pattern::HeadEntry> entries = of.entries();
  for (Pattern::HeadEntry& entry : entries) {
    const bool dense = entry.expr == all;
    entry.expr = dense ? blocks : pattern::combine(Expr::Op::kIntersection, {entry.expr, blocks});
  }
  return Pattern(std::move(entries), of.causal());
}

Pattern operator|(const Pattern& a, const Pattern& b) {
  return pattern::join(Expr::Op::kUnion, a, b, "union");
}
Pattern operator&(const Pattern& a, const Pattern& b) {
  return pattern::join(Expr::Op::kIntersection, a, b, "intersection");
}

Pattern bidirectional(const Pattern& pattern) {
  LACE_CHECK(pattern.causal(), "[bidirectional] pattern must not be bidirectional already, got ",
             printable(pattern.to_string()));
  return Pattern(pattern.entries(), false);
}

Pattern heads(const std::vector<HeadCount>& entries) {
  std::vector<Pattern::HeadEntry> list;
  for (const auto& [count, pattern] : entries) {
    LACE_CHECK(1 <= count, "[heads] count must be at least 1, got ", count);
    list.push_back({count, pattern::inner_expr(pattern, "heads")});
  }
  return Pattern(std::move(list), true);
}

}  // namespace lace
