#include "plan/masks.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "plan/stored.h"

namespace lace::plan {
namespace {

// Bits [from, to) of consecutive words.
void set_bits(std::vector<uint64_t>& words, int64_t from, int64_t to) {
  while (from < to) {
    const int64_t in_word = std::min<int64_t>(to - from, 64 - from % 64);
    const uint64_t ones = in_word == 64 ? ~uint64_t{0} : (uint64_t{1} << in_word) - 1;
    words[static_cast<size_t>(from / 64)] |= ones << (from % 64);
    from += in_word;
  }
}

int64_t count_bits(const uint64_t* words, int64_t bits) {
  int64_t count = 0;
  for (; bits >= 64; bits -= 64) count += std::popcount(*words++);
  return bits > 0 ? count + std::popcount(*words & ((uint64_t{1} << bits) - 1)) : count;
}

}  // namespace

int32_t MaskStore::keep(Mask mask) {
  std::vector<uint64_t> content = mask.words;
  content.push_back(static_cast<uint64_t>(mask.owners) << 32 | static_cast<uint64_t>(mask.others));
  const auto [it, added] =
      by_content_.try_emplace(std::move(content), stored(masks_.size(), "masks"));
  if (added) {
    masks_.push_back(std::move(mask));
    plan_ids_.push_back(-1);
  }
  return it->second;
}

int32_t MaskStore::intern(Mask mask) {
  int64_t live = 0;
  for (const uint64_t word : mask.words) live += std::popcount(word);
  if (live == 0) return kEmptyMask;
  if (live == int64_t{mask.owners} * mask.others) return kFullMask;
  return keep(std::move(mask));
}

int32_t MaskStore::hole(int64_t owners, int64_t others) {
  Mask mask{static_cast<int32_t>(owners),
            static_cast<int32_t>(others),
            static_cast<int32_t>((owners + 63) / 64),
            {}};
  mask.words.resize(static_cast<size_t>(mask.words_per_other * others));
  return keep(std::move(mask));
}

int64_t MaskStore::live_pairs(int32_t id, int64_t owners, int64_t others) {
  if (id == kEmptyMask) return 0;
  if (id == kFullMask) return owners * others;
  const auto [it, added] = live_.try_emplace({id, owners, others}, 0);
  if (added) {
    const Mask& mask = masks_[static_cast<size_t>(id)];
    for (int64_t f = 0; f < others; ++f) {
      it->second += count_bits(mask.words.data() + f * mask.words_per_other, owners);
    }
  }
  return it->second;
}

int32_t MaskStore::trimmed(int32_t id, int64_t owners, int64_t others) {
  const int64_t live = live_pairs(id, owners, others);
  if (live == 0) return kEmptyMask;
  return live == owners * others ? kFullMask : id;
}

int32_t MaskStore::sequence(const std::vector<int32_t>& ids) {
  const auto [it, added] =
      sequences_.try_emplace(ids, stored(plan_.mask_ids.size(), "masks of runs"));
  if (!added) return it->second;
  for (const int32_t id : ids) {
    if (id == kFullMask) {
      plan_.mask_ids.push_back(kFullMask);
      continue;
    }
    int32_t& plan_id = plan_ids_[static_cast<size_t>(id)];
    if (plan_id < 0) {
      plan_id = stored(plan_.masks.size(), "masks");
      plan_.masks.push_back(masks_[static_cast<size_t>(id)]);
    }
    plan_.mask_ids.push_back(plan_id);
  }
  return it->second;
}

MaskFinder::View MaskFinder::view_of(const IndexSet& set) const {
  return {set.first, end_of(set, offsets_) - 1, set};
}

MaskFinder::View MaskFinder::entry_of(const IndexSet& set, int32_t outer) const {
  const int64_t first = set.first + offsets_[static_cast<size_t>(set.offsets + outer)];
  return {first, first + set.inner - 1, {first, 0, set.inner, 1, -1}};
}

void MaskFinder::set_owners(const IndexSet& full) {
  owners_ = view_of(full);
  listed_.clear();
  const auto add = [this](const std::vector<Term>& terms) {
    for (const Term& term : terms) {
      for (const auto& list : term.lists) {
        const auto same = [&](const auto& known) { return known.first == list.get(); };
        if (std::any_of(listed_.begin(), listed_.end(), same)) continue;
        listed_.emplace_back(list.get(), listed_ranges(*list, owners_.set, kUnbounded, offsets_));
      }
    }
  };
  add(terms_.own);
  add(terms_.taken);
}

const Ranges& MaskFinder::listed(const BlockList& list) const {
  return std::find_if(listed_.begin(), listed_.end(),
                      [&](const auto& known) { return known.first == &list; })
      ->second;
}

MaskFinder::Found MaskFinder::find(const IndexSet& full, int64_t step,
                                   const std::vector<Lattice>& excluded) {
  signature_.clear();
  step_ = step;
  room_ = kUnbounded;
  cycle_ = 1;
  any_own_ = false;
  for (const IndexSet* set : {static_cast<const IndexSet*>(&owners_.set), &full}) {
    push(int64_t{set->inner} << 32 | set->outer);
    push(set->outer_stride);
  }
  if (owners_.set.offsets >= 0) push(--unique_);
  if (full.offsets >= 0) {
    for (int32_t o = 0; o < full.outer; ++o) {
      push(offsets_[static_cast<size_t>(full.offsets + o)]);
      look_at_all(entry_of(full, o), excluded);
    }
  } else {
    look_at_all(view_of(full), excluded);
  }
  Found found;
  found.same = step > 0 ? room_ / step + 1 : 1;
  found.cycle = cycle_;
  if (!any_own_) return found;
  const auto [it, added] = known_.try_emplace(signature_, 0);
  if (added) it->second = evaluate(full, excluded);
  found.mask = it->second;
  return found;
}

int32_t MaskFinder::evaluate(const IndexSet& others, const std::vector<Lattice>& excluded) {
  ++evaluated_;
  const int64_t owner_count = owners_.set.size(), other_count = others.size();
  Mask mask{static_cast<int32_t>(owner_count),
            static_cast<int32_t>(other_count),
            static_cast<int32_t>((owner_count + 63) / 64),
            {}};
  const size_t stride = static_cast<size_t>(mask.words_per_other);
  mask.words.resize(stride * static_cast<size_t>(other_count));
  std::vector<uint64_t> live(stride), gone(stride);
  for (int64_t f = 0; f < other_count; ++f) {
    const int32_t o = static_cast<int32_t>(f / others.inner);
    const int64_t offset = others.offsets >= 0 ? offsets_[static_cast<size_t>(others.offsets + o)]
                                               : o * others.outer_stride;
    const int64_t other = others.first + offset + f % others.inner;
    const auto holds = [other](const Lattice& lattice) { return lattice.has(other); };
    if (std::any_of(excluded.begin(), excluded.end(), holds)) continue;
    uint64_t* words = mask.words.data() + static_cast<size_t>(f) * stride;
    for (size_t t = 0; t < terms_.own.size(); ++t) {
      std::fill(live.begin(), live.end(), 0);
      add_bits(terms_.own[t], other, live);
      if (!terms_.minus[t].empty()) {
        std::fill(gone.begin(), gone.end(), 0);
        for (const int32_t e : terms_.minus[t]) {
          add_bits(terms_.taken[static_cast<size_t>(e)], other, gone);
        }
        for (size_t w = 0; w < stride; ++w) live[w] &= ~gone[w];
      }
      for (size_t w = 0; w < stride; ++w) words[w] |= live[w];
    }
  }
  return store_.intern(std::move(mask));
}

namespace {

// The last position from `a` on up to which lists and ranges say the same of owner a.
int64_t steady_until(const Term& term, int64_t a) {
  int64_t last = kUnbounded;
  for (const auto& list : term.lists) {
    last = std::min(last, (a / list->block() + 1) * list->block() - 1);
  }
  if (term.owner_ranges) {
    for (const auto& [begin, end] : *term.owner_ranges) {
      if (a < begin) return std::min(last, begin - 1);
      if (a < end) return std::min(last, end - 1);
    }
  }
  return last;
}

// Sets bit `bit` + a for every owner a in [from, to] that sees `other`.
void add_span(const Term& term, int64_t other, int64_t from, int64_t to, int64_t bit,
              std::vector<uint64_t>& bits) {
  const bool whole = term.modulus == 1 && term.owner_columns.empty() && !term.general;
  int64_t a = from + floor_mod(other - from, term.modulus);
  while (a <= to) {
    const int64_t until = whole ? std::min(to, steady_until(term, a)) : a;
    if (term.live(a, other)) set_bits(bits, bit + a, bit + until + 1);
    a = until + term.modulus;
  }
}

}  // namespace

// Sets the bit of every owner that sees `other` through `term`.
void MaskFinder::add_bits(const Term& term, int64_t other, std::vector<uint64_t>& bits) const {
  int64_t first = other + term.lo, last = other + term.hi;
  for (const auto& [block, lo, hi] : term.block_bands) {
    first = std::max(first, block_begin(other / block + lo, block));
    last = std::min(last, block_begin(other / block + hi + 1, block) - 1);
  }
  if (first > last || first > owners_.last || last < owners_.begin) return;
  if (term.other_ranges && !contains(*term.other_ranges, other)) return;
  for (const Columns& columns : term.other_columns) {
    if (!columns.has(other)) return;
  }
  const IndexSet& set = owners_.set;
  for (int32_t o = 0; o < set.outer; ++o) {
    const int64_t offset =
        set.offsets >= 0 ? offsets_[static_cast<size_t>(set.offsets + o)] : o * set.outer_stride;
    const int64_t begin = set.first + offset, bit = int64_t{o} * set.inner - begin;
    const int64_t from = std::max(first, begin), to = std::min(last, begin + set.inner - 1);
    if (from > to) continue;
    if (term.lists.empty()) {
      add_span(term, other, from, to, bit, bits);
      continue;
    }
    const BlockList& list = *term.lists.front();
    const int64_t block = list.block();
    for (const int64_t x : list.column(other / block, from / block, to / block)) {
      add_span(term, other, std::max(from, x * block), std::min(to, (x + 1) * block - 1), bit,
               bits);
    }
  }
}

}  // namespace lace::plan
