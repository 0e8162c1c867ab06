#pragma once

#include <cstdint>
#include <map>
#include <unordered_map>
#include <vector>

#include "plan/geometry.h"

namespace lace::plan {

inline constexpr int32_t kFullMask = -1;   // as in Plan::mask_ids
inline constexpr int32_t kEmptyMask = -2;  // of no live pair: its tile is left out

struct VectorHash {
  template <typename T>
  uint64_t operator()(const std::vector<T>& values) const {
    uint64_t hash = 0x9E3779B97F4A7C15;
    for (const T value : values) {
      hash = (hash ^ static_cast<uint64_t>(value)) * 0xFF51AFD7ED558CCD;
      hash ^= hash >> 32;
    }
    return hash;
  }
};

// All masks met while compiling a plan, each content once; the plan gets those that a run uses.
class MaskStore {
 public:
  explicit MaskStore(Plan& plan) : plan_(plan) {}

  // Keeps the mask: its id here, kFullMask or kEmptyMask.
  int32_t intern(Mask mask);
  // The same, whatever it holds: its id here.
  int32_t keep(Mask mask);
  // The same for the first `owners` × `others` elements of a mask.
  int32_t trimmed(int32_t id, int64_t owners, int64_t others);
  // Live pairs among the first `owners` × `others` elements.
  int64_t live_pairs(int32_t id, int64_t owners, int64_t others);
  // An all-zero mask for a hole in a cycle.
  int32_t hole(int64_t owners, int64_t others);
  // Puts the masks `ids` into the plan: where they stand in Plan::mask_ids.
  int32_t sequence(const std::vector<int32_t>& ids);

 private:
  struct Kept {
    Mask mask;                // until the plan has it
    int32_t plan_id = -1;     // in Plan::masks; −1: not there
    int32_t mask_begin = -1;  // where it stands alone in Plan::mask_ids; −1: nowhere
    int64_t owners = -1, others = -1, live = 0;  // live_pairs() as it was asked last
  };
  const Mask& mask(const Kept& kept) const {
    return kept.plan_id < 0 ? kept.mask : plan_.masks[static_cast<size_t>(kept.plan_id)];
  }
  // Puts the mask into the plan: its id there.
  int32_t plan_id(int32_t id);

  Plan& plan_;
  std::vector<Kept> masks_;
  std::unordered_multimap<uint64_t, int32_t> by_hash_;                       // of the mask's words
  std::unordered_map<std::vector<int32_t>, int32_t, VectorHash> sequences_;  // of several
};

// What a pass computes: the pairs of `own[t]` that are in none of `taken[minus[t][…]]`, for any t.
struct PassTerms {
  std::vector<Term> own;
  std::vector<Term> taken;
  std::vector<std::vector<int32_t>> minus;
};

// Finds the masks of the tiles of one pass. A tile's *signature* holds what its mask depends on:
// for each constraint that neither holds nor fails for the whole tile, where the tile lies relative
// to that constraint. Only a new signature is evaluated bit by bit, and tiles
// that a list scatters are.
class MaskFinder {
 public:
  MaskFinder(const PassTerms& terms, MaskStore& store, const std::vector<int64_t>& offsets,
             Listings& listings);

  // The tiles asked about next have these owners, and the listings too. `full`: the set as if the
  // sequence had no end and every tile all its elements; the actual set is its beginning.
  void set_owners(const IndexSet& full);

  struct Found {
    int32_t mask = kEmptyMask;  // of the full set
    int64_t same = 1;   // so many tiles from here on differ in nothing but their place in a cycle
    int64_t cycle = 1;  // whose length this is
  };
  // The tile `full`, the first of several that are `step` apart; others in `excluded` are not live.
  Found find(const IndexSet& full, int64_t step, const std::vector<Lattice>& excluded);

 private:
  struct View {
    int64_t begin = 0, last = 0;  // first and last position
    IndexSet set;
  };
  View view_of(const IndexSet& set) const;
  View entry_of(const IndexSet& set, int32_t outer) const;

  // Appends to the signature what `term` looks like in a tile. False: it has no live pair there.
  bool look(const Term& term, int64_t index, const View& others);
  int64_t none_room(const Term& term, const View& others);
  void look_at_bands(const Term& term, const View& others);
  void look_at_columns(const Term& term, const View& others);
  void look_at_ranges(const Term& term, const View& others);
  void look_at_list(const BlockList& list, const View& others);
  bool look_at_excluded(const Lattice& lattice, const View& others);
  void look_at_all(const View& others, const std::vector<Lattice>& excluded);

  int32_t evaluate(const IndexSet& others, const std::vector<Lattice>& excluded);
  void add_bits(const Term& term, int64_t other, std::vector<uint64_t>& bits);

  void push(int64_t value) { signature_.push_back(value); }
  void cycle_of(int64_t period);

  const PassTerms& terms_;
  MaskStore& store_;
  const std::vector<int64_t>& offsets_;
  Listings& listings_;  // of owners_
  bool has_lists_ = false;
  View owners_;
  std::unordered_map<std::vector<int64_t>, int32_t, VectorHash> known_;

  // The state of one look.
  std::vector<int64_t> signature_;
  int64_t step_ = 0, room_ = 0, cycle_ = 1;
  bool any_own_ = false;
  int64_t unique_ = 0;
};

}  // namespace lace::plan
