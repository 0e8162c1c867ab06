#include <algorithm>
#include <utility>

#include "lace/error.h"

#include "pattern/random.h"
#include "plan/terms.h"

namespace lace::plan {
namespace {

// Collects the terms of one head in the plan's direction.
class Builder {
 public:
  Builder(const BoundPattern& pattern, int64_t head, bool transposed, size_t most)
      : pattern_(pattern), head_(head), transposed_(transposed), most_(most) {
    const int64_t query_begin = pattern.k_len() - pattern.q_len();
    domain_ = {transposed ? 0 : query_begin, transposed ? query_begin : 0, pattern.k_len()};
  }

  // Nothing: more than `most`.
  std::optional<std::vector<Term>> terms(const Expr& expr) {
    if (expr.op == Expr::Op::kAtom) return atom_terms(expr.atom);
    std::optional<std::vector<Term>> all;
    for (const Expr& operand : expr.operands) {
      auto more = terms(operand);
      if (!more) return std::nullopt;
      if (!all) {
        all = std::move(more);
      } else if (expr.op == Expr::Op::kUnion) {
        all->insert(all->end(), more->begin(), more->end());
      } else {
        all = products(*all, *more);
      }
      drop_inner(*all);
      if (all->size() > most_) return std::nullopt;
    }
    return all;
  }

  std::vector<Term> general() const {
    Term term = leaf();
    term.general = std::make_shared<General>(General{&pattern_, head_, transposed_});
    if (!simplify(term, domain_)) return {};
    return {term};
  }

 private:
  // Every pair that causality allows, as queries and keys: i − j is a − b.
  Term leaf() const {
    Term term;
    if (pattern_.causal()) term.lo = 0;
    if (transposed_) std::swap(term.lo, term.hi), term.lo = -term.lo, term.hi = -term.hi;
    return term;
  }

  // from <= i − j <= to
  void limit(Term& term, int64_t from, int64_t to) const {
    if (transposed_) std::swap(from, to), from = -from, to = -to;
    term.lo = std::max(term.lo, from);
    term.hi = std::min(term.hi, to);
  }

  void limit_blocks(Term& term, int64_t block, int64_t from, int64_t to) const {
    if (transposed_) std::swap(from, to), from = -from, to = -to;
    term.block_bands.push_back({block, from, to});
  }

  std::vector<Columns>& key_columns(Term& term) const {
    return transposed_ ? term.owner_columns : term.other_columns;
  }
  std::optional<Ranges>& key_ranges(Term& term) const {
    return transposed_ ? term.owner_ranges : term.other_ranges;
  }
  std::optional<Ranges>& query_ranges(Term& term) const {
    return transposed_ ? term.other_ranges : term.owner_ranges;
  }

  std::vector<Term> atom_terms(const Atom& atom) {
    const auto& args = atom.args;
    const int64_t behind = pattern_.causal() ? args[0] - 1 : args[0] / 2;
    const int64_t ahead = pattern_.causal() ? kUnbounded : args[0] / 2;
    std::vector<Term> found{leaf()};
    Term& term = found.front();
    switch (atom.kind) {
      case AtomKind::kDense:
        break;
      case AtomKind::kLocal:
        limit_blocks(term, args[1], -ahead, behind);
        break;
      case AtomKind::kBlock:
        limit_blocks(term, args[0], 0, 0);
        break;
      case AtomKind::kStrided:
        term.modulus = args[0];
        break;
      case AtomKind::kSummary:
        key_columns(term).push_back(
            {args[0], args[0] - args[1] * (args[2] + 1), args[0] - args[1] * args[2]});
        break;
      case AtomKind::kDilated: {
        term.modulus = args[1];
        const int64_t reach = behind * args[1];
        limit(term, pattern_.causal() ? -kUnbounded : -reach, reach);
        break;
      }
      case AtomKind::kGlobal:
        key_ranges(term) = token_ranges(atom);
        if (!pattern_.causal()) {
          found.push_back(leaf());
          query_ranges(found.back()) = token_ranges(atom);
        }
        break;
      case AtomKind::kSinks:
        key_ranges(term) = Ranges{{0, args[0]}};
        break;
      case AtomKind::kRandom:
        if (args[0] >= ceil_div(pattern_.k_len(), args[1])) break;  // every block is drawn
        term.lists.push_back(block_list(atom));
        break;
      case AtomKind::kMask:
        term.lists.push_back(block_list(atom));
        break;
      case AtomKind::kFixed:
        return general();  // bind() leaves none
    }
    std::erase_if(found, [this](Term& t) { return !simplify(t, domain_); });
    return found;
  }

  static Ranges token_ranges(const Atom& atom) {
    Ranges ranges;
    for (const TokenRange& token : atom.tokens) ranges.push_back({token.first, token.last + 1});
    coalesce(ranges);
    return ranges;
  }

  // One list for each atom, however often the pattern repeats it.
  std::shared_ptr<const BlockList> block_list(const Atom& atom) {
    for (const auto& [known, list] : lists_) {
      if (known == atom) return list;
    }
    const bool random = atom.kind == AtomKind::kRandom;
    const int64_t size = random ? atom.args[1] : atom.mask->block_size;
    const int64_t inside = (pattern_.k_len() + size - 1) / size;
    const int64_t blocks = random ? inside : std::min(inside, atom.mask->blocks);
    const int64_t first = (pattern_.k_len() - pattern_.q_len()) / size;
    constexpr int64_t kMostListed = int64_t{1} << 26;
    LACE_CHECK(!random || atom.args[0] <= kMostListed / (blocks - first),
               "[random] blocks drawn for all blocks of queries must be at most ", kMostListed,
               ", got ", atom.args[0], " for each of ", blocks - first);
    BlockList::Draw draw = random ? random_draw(atom, blocks) : mask_draw(atom, blocks);
    lists_.emplace_back(
        atom, std::make_shared<BlockList>(size, first, blocks, std::move(draw), transposed_));
    return lists_.back().second;
  }

  BlockList::Draw random_draw(const Atom& atom, int64_t blocks) const {
    const auto [count, block, seed] = atom.args;
    return [=, head = head_, causal = pattern_.causal()](int64_t query, std::vector<int64_t>& row) {
      pattern::draw_blocks(count, static_cast<uint64_t>(seed), head, query, blocks, causal, row);
    };
  }

  BlockList::Draw mask_draw(const Atom& atom, int64_t blocks) const {
    return [mask = atom.mask, head = head_, blocks](int64_t query, std::vector<int64_t>& row) {
      row.clear();
      for (int64_t key = 0; key < blocks; ++key) {
        if (mask->at(head, query, key)) row.push_back(key);
      }
    };
  }

  std::vector<Term> products(const std::vector<Term>& left, const std::vector<Term>& right) const {
    std::vector<Term> all;
    for (const Term& a : left) {
      for (const Term& b : right) {
        if (auto both = conjunction(a, b, domain_)) all.push_back(std::move(*both));
      }
    }
    return all;
  }

  static void drop_inner(std::vector<Term>& terms) {
    std::vector<Term> kept;
    for (size_t t = 0; t < terms.size(); ++t) {
      const auto covers = [&](const Term& other) { return inside(terms[t], other); };
      const bool later =
          std::any_of(terms.begin() + static_cast<int64_t>(t) + 1, terms.end(), covers);
      if (!later && std::none_of(kept.begin(), kept.end(), covers)) kept.push_back(terms[t]);
    }
    terms = std::move(kept);
  }

  const BoundPattern& pattern_;
  int64_t head_;
  bool transposed_;
  size_t most_;
  Domain domain_;
  std::vector<std::pair<Atom, std::shared_ptr<const BlockList>>> lists_;
};

}  // namespace

std::vector<Term> normal_form(const BoundPattern& pattern, int64_t head, bool transposed,
                              size_t most) {
  Builder builder(pattern, head, transposed, most);
  auto terms = builder.terms(pattern.expr(head));
  return terms ? std::move(*terms) : builder.general();
}

}  // namespace lace::plan
