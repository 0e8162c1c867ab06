#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plan/plan.h"
#include "plan/terms.h"

namespace lace::plan {

// Sets of positions that the compiler reasons with, and how they are cut into tiles. All positions
// here are absolute; rows are made of them at the very end.

// `count` stretches of `width` positions, `period` apart: columns, residue classes (width 1), or an
// interval (count 1, mostly with period = width).
struct Lattice {
  int64_t begin = 0, width = 0, period = 0, count = 1;
  bool scattered = false;  // an interval of a list, which may share a tile with others of it
  int64_t end() const { return begin + (count - 1) * period + width; }
  int64_t size() const { return count * width; }
  bool interval() const { return count == 1; }
  bool has(int64_t position) const {
    const int64_t offset = position - begin;
    return offset >= 0 && position < end() && offset % period < width;
  }
};

// The columns begin + n · period, `width` wide, that meet [range.begin, range.end), appended to
// `out`. Whole columns, but none starts before `floor`: the one that floor cuts comes apart.
void add_columns_in(int64_t period, int64_t begin, int64_t width, Range range, int64_t floor,
                    std::vector<Lattice>& out);

// Makes the lattices of one tile of owners disjoint as far as lattices of one period allow, and
// few.
//   keep_classes  residue order: no lattice may grow past its own class
//   capacity      of a tile of others
void merge_lattices(std::vector<Lattice>& lattices, bool keep_classes, int64_t capacity,
                    const Domain& domain);

// `tiles` tiles, the t-th is `set` moved by t · step.
struct Cut {
  IndexSet set;
  int64_t step = 0;
  int64_t tiles = 1;
  int32_t lattice = 0;  // the first lattice that it comes from
};

// Cuts one lattice into tiles of at most `capacity` positions.
void cut_lattice(const Lattice& lattice, int64_t capacity, std::vector<Cut>& out);

// Cuts all lattices; scattered short intervals share tiles, through `offsets` where no stride does.
std::vector<Cut> cut_lattices(const std::vector<Lattice>& lattices, int64_t capacity,
                              std::vector<int64_t>& offsets);

// The position of the last element, plus one.
int64_t end_of(const IndexSet& set, const std::vector<int64_t>& offsets);
// How many elements lie before `end`: they are the first ones.
int64_t count_before(const IndexSet& set, int64_t end, const std::vector<int64_t>& offsets);

// A row order with its parameters.
struct Order {
  RowOrder kind = RowOrder::kNatural;
  int64_t period = 0;            // kColumns, kResidue
  int64_t begin = 0, width = 0;  // kColumns: columns begin … begin + width − 1
  int64_t align = 0;             // kNatural: no tile straddles a multiple of it; 0: free
  Ranges ranges;                 // kGlobalRows
  bool operator==(const Order&) const = default;
};

// A tile of owners, and the residue class or classes it lies in.
struct OwnerSet {
  IndexSet set;
  int32_t chain = 0;
  int64_t class_width = 0;  // kResidue: neighbouring classes; the first is set.first mod period
};

// All tiles of owners of a pass, by chain and position.
std::vector<OwnerSet> owner_tiles(const Order& order, const Domain& domain, int64_t capacity,
                                  std::vector<int64_t>& offsets);
// Tiles of the owners that no tile of `order` holds.
std::vector<OwnerSet> unlisted_tiles(const Order& order, const Domain& domain, int64_t capacity,
                                     std::vector<int64_t>& offsets);

// A block of others and one of owners that sees it, ordered by these.
struct BlockPair {
  uint64_t key = 0;
  BlockPair(int64_t other, int64_t owner)
      : key(static_cast<uint64_t>(other) << 32 | static_cast<uint64_t>(owner)) {}
  int64_t other() const { return static_cast<int64_t>(key >> 32); }
  int64_t owner() const { return static_cast<int64_t>(key & 0xffffffff); }
  bool operator<(const BlockPair& pair) const { return key < pair.key; }
};

// What a list shows to a set of owners.
struct Listing {
  const BlockList* list = nullptr;
  std::vector<BlockPair> pairs;  // ascending
  Ranges ranges;                 // of others

  // The pairs of a block of others with the blocks [first, last] of owners.
  std::span<const BlockPair> column(int64_t other, int64_t first, int64_t last) const;
};

// What lists show to the owners of one set, those before `end`; worked out when it is asked for.
class Listings {
 public:
  explicit Listings(const std::vector<int64_t>& offsets) : offsets_(offsets) {}

  void set_owners(const IndexSet& set, int64_t end);
  const Listing& of(const BlockList& list);  // valid until the next call

 private:
  void fill(Listing& listing) const;

  const std::vector<int64_t>& offsets_;
  IndexSet owners_;
  int64_t end_ = 0;
  std::vector<Listing> listings_;  // the first `count_` are of these owners
  size_t count_ = 0;
};

// The lattices of others that `term` may have live pairs with, for a tile of owners, which
// `listings` are of: all of them are covered, and few more.
void add_support(const Term& term, const Order& order, const OwnerSet& owners, const Domain& domain,
                 const std::vector<int64_t>& offsets, Listings& listings,
                 std::vector<Lattice>& out);

}  // namespace lace::plan
