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
  const uint64_t hash = VectorHash()(mask.words);
  const auto [begin, end] = by_hash_.equal_range(hash);
  for (auto it = begin; it != end; ++it) {
    const Mask& known = this->mask(masks_[static_cast<size_t>(it->second)]);
    if (known.owners == mask.owners && known.others == mask.others && known.words == mask.words) {
      return it->second;
    }
  }
  const int32_t id = stored(masks_.size(), "masks");
  masks_.emplace_back().mask = std::move(mask);
  by_hash_.emplace(hash, id);
  return id;
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
  Kept& kept = masks_[static_cast<size_t>(id)];
  if (kept.owners != owners || kept.others != others) {
    kept.owners = owners;
    kept.others = others;
    kept.live = 0;
    const Mask& mask = this->mask(kept);
    for (int64_t f = 0; f < others; ++f) {
      kept.live += count_bits(mask.words.data() + f * mask.words_per_other, owners);
    }
  }
  return kept.live;
}

int32_t MaskStore::trimmed(int32_t id, int64_t owners, int64_t others) {
  const int64_t live = live_pairs(id, owners, others);
  if (live == 0) return kEmptyMask;
  return live == owners * others ? kFullMask : id;
}

int32_t MaskStore::plan_id(int32_t id) {
  if (id == kFullMask) return kFullMask;
  Kept& kept = masks_[static_cast<size_t>(id)];
  if (kept.plan_id < 0) {
    const int32_t place = stored(plan_.masks.size(), "masks");
    plan_.masks.push_back(std::move(kept.mask));
    kept.plan_id = place;
  }
  return kept.plan_id;
}

int32_t MaskStore::sequence(const std::vector<int32_t>& ids) {
  const bool alone = ids.size() == 1 && ids[0] != kFullMask;
  int32_t& begin = alone ? masks_[static_cast<size_t>(ids[0])].mask_begin
                         : sequences_.try_emplace(ids, -1).first->second;
  if (begin >= 0) return begin;
  begin = stored(plan_.mask_ids.size(), "masks of runs");
  for (const int32_t id : ids) plan_.mask_ids.push_back(plan_id(id));
  return begin;
}

MaskFinder::MaskFinder(const PassTerms& terms, MaskStore& store,
                       const std::vector<int64_t>& offsets, Listings& listings)
    : terms_(terms), store_(store), offsets_(offsets), listings_(listings) {
  const auto listed = [](const Term& term) { return !term.lists.empty(); };
  has_lists_ = std::ranges::any_of(terms.own, listed) || std::ranges::any_of(terms.taken, listed);
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
  listings_.set_owners(full, kUnbounded);
}

MaskFinder::Found MaskFinder::find(const IndexSet& full, int64_t step,
                                   const std::vector<Lattice>& excluded) {
  // Stretches that a list scatters over many places hardly ever lie alike twice.
  constexpr int32_t kMostLookedAt = 16;
  if (has_lists_ && full.offsets >= 0 && full.outer > kMostLookedAt) {
    return {evaluate(full, excluded), 1, 1};
  }
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
void MaskFinder::add_bits(const Term& term, int64_t other, std::vector<uint64_t>& bits) {
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
    const Listing& listing = listings_.of(*term.lists.front());
    const int64_t block = listing.list->block();
    for (const BlockPair& pair : listing.column(other / block, from / block, to / block)) {
      const int64_t x = pair.owner();
      add_span(term, other, std::max(from, x * block), std::min(to, (x + 1) * block - 1), bit,
               bits);
    }
  }
}

}  // namespace lace::plan
