#include "plan/reach_search.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace lace::plan {
namespace {
constexpr size_t kMaxSearchedTerms = 256;
constexpr int64_t kGeneralCost = 8;  // of asking a pattern about a pair

int64_t cost_of(const Term& term) {
  return static_cast<int64_t>(1 + term.block_bands.size() + term.owner_columns.size() +
                              (term.modulus > 1 ? 1 : 0) + (term.owner_ranges ? 1 : 0));
}

// Of drawing a row of blocks, which are sorted one by one.
int64_t draw_cost(size_t blocks) { return static_cast<int64_t>(2 * blocks + blocks * blocks / 16); }
}  // namespace

BitTree::BitTree(int64_t size) {
  do {
    size = (size + 63) / 64;
    levels_.emplace_back(static_cast<size_t>(size));
  } while (size > 1);
}

void BitTree::insert(int64_t begin, int64_t end) {
  for (auto& level : levels_) {
    for (int64_t bit = begin; bit < end;) {
      const int64_t shift = bit % 64, count = std::min(64 - shift, end - bit);
      level[static_cast<size_t>(bit / 64)] |= (~uint64_t{0} >> (64 - count)) << shift;
      bit += count;
    }
    begin /= 64;
    end = (end + 63) / 64;
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

int64_t BitTree::next(int64_t from, int64_t end) const {
  const int64_t last = end;
  for (size_t l = 0; l < levels_.size() && from < end; ++l) {
    const auto w = static_cast<size_t>(from / 64);
    if (w >= levels_[l].size()) return -1;
    const uint64_t bits = levels_[l][w] & (~uint64_t{0} << (from % 64));
    if (bits == 0) {
      from = from / 64 + 1;
      end = end / 64 + (end % 64 != 0);
      continue;
    }
    int64_t number = from / 64 * 64 + std::countr_zero(bits);
    for (; l > 0; --l) {
      number = number * 64 + std::countr_zero(levels_[l - 1][static_cast<size_t>(number)]);
    }
    return number < last ? number : -1;
  }
  return -1;
}

ReachSearch::ReachSearch(const std::vector<BoundPattern>& layers)
    : size_(layers[0].k_len()),
      causal_(layers[0].causal()),
      terms_(layers.size()),
      asked_of_(layers.size()),
      left_(layers[0].k_len()),
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
  if (term.modulus == 1 && term.other_columns.empty() && !term.other_ranges) {
    asked_of_[layer].push_back({&term, kPlain, cost_of(term), {}, {}});
    return;
  }
  const auto same = std::ranges::find_if(unseen_, [&term](const Unseen& unseen) {
    return unseen.term->modulus == term.modulus &&
           unseen.term->other_columns == term.other_columns &&
           unseen.term->other_ranges == term.other_ranges;
  });
  asked_of_[layer].push_back(
      {&term, static_cast<size_t>(same - unseen_.begin()), cost_of(term), {}, {}});
  if (same != unseen_.end()) return;
  const int64_t classes = term.modulus, places = (size_ + classes - 1) / classes;
  const BitTree none(classes * places);
  unseen_.push_back({&term, classes, places, none, none});
  insert_allowed(unseen_.back());
}

void ReachSearch::insert_allowed(Unseen& unseen) const {
  const Term& term = *unseen.term;
  const Ranges ranges = term.other_ranges.value_or(Ranges{{0, size_}});
  if (term.other_columns.empty() && !term.other_ranges) {
    for (int64_t residue = 0; residue < std::min(unseen.classes, size_); ++residue) {
      const int64_t first = unseen.place(residue);
      unseen.all.insert(first, first + ceil_div(size_ - residue, unseen.classes));
    }
    return;
  }
  const Columns columns =
      term.other_columns.empty() ? Columns{size_, 0, size_} : term.other_columns.front();
  const auto has = [](int64_t position) {
    return [position](const Columns& other) { return other.has(position); };
  };
  for (const Range& range : ranges) {
    for (int64_t block = range.begin / columns.period * columns.period; block < range.end;
         block += columns.period) {
      const int64_t end = std::min(block + columns.end, range.end);
      for (int64_t p = std::max(block + columns.begin, range.begin); p < end; ++p) {
        if (std::ranges::all_of(term.other_columns, has(p))) unseen.all.insert(unseen.place(p));
      }
    }
  }
}

// Tries every layer of the cycle on top: the fewest layers decide.
ReachSearch::Found ReachSearch::layers_of(int64_t query, int64_t most_asked) {
  Found fewest;
  for (int64_t top = 0; top < static_cast<int64_t>(terms_.size()); ++top) {
    const Found found = layers_below(top, query, fewest.layers, most_asked);
    if (found.layers >= 0 && (fewest.layers < 0 || found.layers < fewest.layers)) fewest = found;
  }
  return fewest;
}

// -1 also if it would take `fewest` layers or more.
ReachSearch::Found ReachSearch::layers_below(int64_t top, int64_t query, int64_t fewest,
                                             int64_t most_asked) {
  const auto cycle = static_cast<int64_t>(terms_.size());
  const int64_t asked_before = asked_;
  for (Unseen& unseen : unseen_) unseen.left = unseen.all;
  for (auto& pending : pending_) pending.clear();
  missing_ = causal_ ? query + 1 : size_;
  lowest_ = 0;
  left_.insert(0, missing_);
  found_.clear();
  see(query);
  for (int64_t depth = 0, layer = top; fewest < 0 || depth < fewest;
       ++depth, layer = (layer + cycle - 1) % cycle) {
    if (missing_ == 0) return {std::max<int64_t>(1, depth + (layer + 1) % cycle), false};
    for (auto& pending : pending_) pending.insert(pending.end(), found_.begin(), found_.end());
    found_.clear();
    const auto waits = [](const auto& pending) { return !pending.empty(); };
    if (std::ranges::none_of(pending_, waits)) return {-1, false};
    for (const int32_t owner : std::exchange(pending_[static_cast<size_t>(layer)], {})) {
      if (missing_ == 0) break;
      if (asked_ - asked_before > most_asked) return {depth + 1 + layer, true};
      if (all_seen_below(owner)) continue;
      for (Asked& asked : asked_of_[static_cast<size_t>(layer)]) look(asked, owner);
    }
  }
  return {-1, false};
}

// Whether `owner` can show nothing that is not seen yet.
bool ReachSearch::all_seen_below(int64_t owner) {
  if (!causal_) return false;
  if (!left_.has(lowest_)) lowest_ = left_.next(lowest_);
  return lowest_ > owner;
}

void ReachSearch::see(int64_t position) {
  left_.erase(position);
  found_.push_back(static_cast<int32_t>(position));
  --missing_;
}

void ReachSearch::look(Asked& asked, int64_t owner) {
  const Term& term = *asked.term;
  asked_ += asked.cost;
  if (term.owner_ranges && !contains(*term.owner_ranges, owner)) return;
  const auto has = [owner](const Columns& columns) { return columns.has(owner); };
  if (!std::ranges::all_of(term.owner_columns, has)) return;
  Range others{std::max<int64_t>(0, owner - term.hi), std::min(size_, owner - term.lo + 1)};
  for (const auto& [block, lo, hi] : term.block_bands) {
    others.begin = std::max(others.begin, block_begin(owner / block - hi, block));
    others.end = std::min(others.end, block_begin(owner / block - lo + 1, block));
  }
  if (term.lists.empty()) return look_in(asked, owner, others);
  if (left_.next(others.begin, others.end) < 0) return;  // nothing to draw for
  for (const Range& range : listed(asked, owner)) {
    look_in(asked, owner, {std::max(others.begin, range.begin), std::min(others.end, range.end)});
  }
}

// What all lists of the term show to an owner. Neighbours mostly see the same.
const Ranges& ReachSearch::listed(Asked& asked, int64_t owner) {
  const auto& lists = asked.term->lists;
  bool same = !asked.blocks.empty();
  asked.blocks.resize(lists.size());
  for (size_t l = 0; l < lists.size(); ++l) {
    const int64_t block = owner / lists[l]->block();
    same = same && asked.blocks[l] == block;
    asked.blocks[l] = block;
  }
  if (same) {
    asked_ += static_cast<int64_t>(asked.listed.size());
    return asked.listed;
  }
  for (size_t l = 0; l < lists.size(); ++l) {
    const int64_t size = lists[l]->block();
    lists[l]->draw(asked.blocks[l], row_);
    asked_ += draw_cost(row_.size());
    Ranges ranges = l == 0 ? std::move(asked.listed) : Ranges();
    ranges.clear();
    for (const int64_t y : row_) {
      if (!ranges.empty() && ranges.back().end == y * size) {
        ranges.back().end += size;
      } else {
        ranges.push_back({y * size, (y + 1) * size});
      }
    }
    asked.listed = l == 0 ? std::move(ranges) : intersect(asked.listed, ranges);
  }
  return asked.listed;
}

// Sees what is left in `others`.
void ReachSearch::look_in(const Asked& asked, int64_t owner, Range others) {
  if (others.begin >= others.end) return;
  const General* general = asked.term->general.get();
  if (asked.unseen == kPlain) {
    for (int64_t position = left_.next(others.begin, others.end); position >= 0;
         position = left_.next(position + 1, others.end)) {
      asked_ += general == nullptr ? 1 : kGeneralCost;
      if (general == nullptr || general->live(owner, position)) see(position);
    }
    return;
  }
  Unseen& unseen = unseen_[asked.unseen];
  const int64_t residue = owner % unseen.classes, first = residue * unseen.places;
  const int64_t begin = first + ceil_div(others.begin - residue, unseen.classes);
  const int64_t end = first + ceil_div(others.end - residue, unseen.classes);
  for (int64_t place = unseen.left.next(begin, end); place >= 0;
       place = unseen.left.next(place + 1, end)) {
    asked_ += general == nullptr ? 1 : kGeneralCost;
    const int64_t position = (place - first) * unseen.classes + residue;
    const bool seen = !left_.has(position);
    if (!seen && general != nullptr && !general->live(owner, position)) continue;
    unseen.left.erase(place);
    if (!seen) see(position);
  }
}

}  // namespace lace::plan
