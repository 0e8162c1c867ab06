#include "plan/reach_search.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace lace::plan {
namespace {
constexpr size_t kMaxSearchedTerms = 1024;
}

BitTree::BitTree(int64_t size) {
  do {
    size = (size + 63) / 64;
    levels_.emplace_back(static_cast<size_t>(size));
  } while (size > 1);
}

void BitTree::insert(int64_t number) {
  for (auto& level : levels_) {
    level[static_cast<size_t>(number / 64)] |= uint64_t{1} << (number % 64);
    number /= 64;
  }
}

void BitTree::erase(int64_t number) {
  for (auto& level : levels_) {
    uint64_t& word = level[static_cast<size_t>(number / 64)];
    word &= ~(uint64_t{1} << (number % 64));
    if (word != 0) return;
    number /= 64;
  }
}

int64_t BitTree::next(int64_t from) const {
  for (size_t l = 0; l < levels_.size(); ++l) {
    const auto w = static_cast<size_t>(from / 64);
    if (w >= levels_[l].size()) return -1;
    const uint64_t bits = levels_[l][w] & (~uint64_t{0} << (from % 64));
    if (bits == 0) {
      from = from / 64 + 1;
      continue;
    }
    int64_t number = from / 64 * 64 + std::countr_zero(bits);
    while (l-- > 0) {
      number = number * 64 + std::countr_zero(levels_[l][static_cast<size_t>(number)]);
    }
    return number;
  }
  return -1;
}

ReachSearch::ReachSearch(const std::vector<BoundPattern>& layers)
    : size_(layers[0].k_len()),
      causal_(layers[0].causal()),
      terms_(layers.size()),
      asked_of_(layers.size()),
      pending_(layers.size()) {
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    std::vector<Term>& terms = terms_[layer];
    const BoundPattern& bound = layers[layer];
    for (int64_t group = 0; group < bound.groups(); ++group) {
      for (Term& term : normal_form(bound, bound.group_head(group), false, kMaxSearchedTerms)) {
        const auto covers = [&term](const Term& other) { return inside(term, other); };
        if (std::ranges::none_of(terms, covers)) terms.push_back(std::move(term));
      }
    }
    for (const Term& term : terms) add(term, layer);
  }
}

void ReachSearch::add(const Term& term, size_t layer) {
  const auto same = std::ranges::find_if(unseen_, [&term](const Unseen& unseen) {
    return unseen.term->modulus == term.modulus &&
           unseen.term->other_columns == term.other_columns &&
           unseen.term->other_ranges == term.other_ranges;
  });
  asked_of_[layer].push_back({&term, static_cast<size_t>(same - unseen_.begin()), {}, {}});
  if (same != unseen_.end()) return;
  const int64_t classes = term.modulus, places = (size_ + classes - 1) / classes;
  const BitTree none(classes * places);
  Unseen unseen{&term, classes, places, none, none};
  for (const Range& range : term.other_ranges.value_or(Ranges{{0, size_}})) {
    for (int64_t position = range.begin; position < range.end; ++position) {
      const auto has = [position](const Columns& columns) { return columns.has(position); };
      if (std::ranges::all_of(term.other_columns, has)) unseen.all.insert(unseen.place(position));
    }
  }
  unseen_.push_back(std::move(unseen));
}

// Tries every layer of the cycle on top: the fewest layers decide.
int64_t ReachSearch::layers_of(int64_t query) {
  int64_t fewest = -1;
  for (int64_t top = 0; top < static_cast<int64_t>(terms_.size()); ++top) {
    const int64_t layers = layers_below(top, query, fewest);
    if (layers >= 0 && (fewest < 0 || layers < fewest)) fewest = layers;
  }
  return fewest;
}

// -1 also if it would take `fewest` layers or more.
int64_t ReachSearch::layers_below(int64_t top, int64_t query, int64_t fewest) {
  const auto cycle = static_cast<int64_t>(terms_.size());
  for (Unseen& unseen : unseen_) unseen.left = unseen.all;
  for (auto& pending : pending_) pending.clear();
  missing_ = causal_ ? query + 1 : size_;
  found_.clear();
  see(query);
  for (int64_t depth = 0, layer = top; fewest < 0 || depth < fewest;
       ++depth, layer = (layer + cycle - 1) % cycle) {
    if (missing_ == 0) return std::max<int64_t>(1, depth + (layer + 1) % cycle);
    for (auto& pending : pending_) pending.insert(pending.end(), found_.begin(), found_.end());
    found_.clear();
    const auto waits = [](const auto& pending) { return !pending.empty(); };
    if (std::ranges::none_of(pending_, waits)) return -1;
    for (const int32_t owner : std::exchange(pending_[static_cast<size_t>(layer)], {})) {
      for (Asked& asked : asked_of_[static_cast<size_t>(layer)]) look(asked, owner);
      if (missing_ == 0) break;
    }
  }
  return -1;
}

void ReachSearch::see(int64_t position) {
  for (Unseen& unseen : unseen_) unseen.left.erase(unseen.place(position));
  found_.push_back(static_cast<int32_t>(position));
  --missing_;
}

void ReachSearch::look(Asked& asked, int64_t owner) {
  const Term& term = *asked.term;
  ++asked_;
  if (term.owner_ranges && !contains(*term.owner_ranges, owner)) return;
  const auto has = [owner](const Columns& columns) { return columns.has(owner); };
  if (!std::ranges::all_of(term.owner_columns, has)) return;
  Range others{std::max<int64_t>(0, owner - term.hi), std::min(size_, owner - term.lo + 1)};
  for (const auto& [block, lo, hi] : term.block_bands) {
    others.begin = std::max(others.begin, block_begin(owner / block - hi, block));
    others.end = std::min(others.end, block_begin(owner / block - lo + 1, block));
  }
  if (others.begin >= others.end) return;
  if (term.lists.empty()) return look_in(asked, owner, others);
  for (const Range& range : listed(asked, owner)) {
    ++asked_;
    look_in(asked, owner, {std::max(others.begin, range.begin), std::min(others.end, range.end)});
  }
}

// What all lists of the term show to an owner. Neighbours mostly see the same.
const Ranges& ReachSearch::listed(Asked& asked, int64_t owner) const {
  std::vector<int64_t> blocks;
  for (const auto& list : asked.term->lists) blocks.push_back(owner / list->block());
  if (blocks == asked.blocks) return asked.listed;
  asked.blocks = std::move(blocks);
  asked.listed = {{0, size_}};
  for (const auto& list : asked.term->lists) {
    Ranges ranges;
    for (const int64_t y : list->row(owner / list->block())) {
      ranges.push_back({y * list->block(), (y + 1) * list->block()});
    }
    coalesce(ranges);
    asked.listed = intersect(asked.listed, ranges);
  }
  return asked.listed;
}

// Sees what is left in `others`.
void ReachSearch::look_in(const Asked& asked, int64_t owner, Range others) {
  if (others.begin >= others.end) return;
  const Unseen& unseen = unseen_[asked.unseen];
  const int64_t residue = owner % unseen.classes, first = residue * unseen.places;
  const int64_t begin = first + ceil_div(others.begin - residue, unseen.classes);
  const int64_t end = first + ceil_div(others.end - residue, unseen.classes);
  for (int64_t place = unseen.left.next(begin); 0 <= place && place < end;
       place = unseen.left.next(place + 1)) {
    const int64_t position = (place - first) * unseen.classes + residue;
    if (!asked.term->general || asked.term->general->live(owner, position)) see(position);
  }
}

}  // namespace lace::plan
