#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "lace/pattern.h"

#include "plan/terms.h"

namespace lace::plan {

// A set of numbers in [0, size): a tree of words in which each bit says whether the word below it
// has one.
class BitTree {
 public:
  explicit BitTree(int64_t size);
  bool has(int64_t number) const {
    return (levels_[0][static_cast<size_t>(number / 64)] >> (number % 64) & 1) != 0;
  }
  void insert(int64_t number) { insert(number, number + 1); }
  // All numbers in [begin, end).
  void insert(int64_t begin, int64_t end);
  void erase(int64_t number);
  // The least number in [from, end); -1 if there is none.
  int64_t next(int64_t from, int64_t end = std::numeric_limits<int64_t>::max()) const;

 private:
  std::vector<std::vector<uint64_t>> levels_;  // numbers first
};

// Searches, query by query, from the top layer of a stack downwards, for the positions that
// influence the query. A layer looks at each position once, and asks each term of its pattern for
// the keys that are *not seen yet*: so a search takes time that grows with the positions and the
// terms, not with the live pairs. Under causality a position below which all is seen is not asked
// about, which saves most draws of many random heads.
class ReachSearch {
 public:
  struct Found {
    int64_t layers = -1;
    bool cut = false;  // layers or more: the search came to its end before it was done
  };

  // layers: one cycle of a stack, of one length, all causal or all bidirectional. Borrowed.
  explicit ReachSearch(const std::vector<BoundPattern>& layers);

  // The fewest layers after which `query` has seen every position that it may; -1: never.
  // most_asked: a search is cut after as much work for each layer of the cycle as the top one.
  Found layers_of(int64_t query, int64_t most_asked = std::numeric_limits<int64_t>::max());

  // The work of all searches so far, of about ten nanoseconds each: constraints of terms looked at
  // for a position, blocks drawn, positions met.
  int64_t asked() const { return asked_; }

 private:
  // The positions that terms of one modulus, columns and ranges of others allow; those of one
  // residue class stand together. `left` has those that are not seen yet, and others, which go when
  // they are met.
  struct Unseen {
    const Term* term;  // whose constraints these are
    int64_t classes, places;
    BitTree all, left;
    int64_t place(int64_t position) const {
      return position % classes * places + position / classes;
    }
  };
  struct Asked {
    const Term* term;
    size_t unseen;  // kPlain: every position
    int64_t cost;   // of asking about one position, in constraints to look at
    // Of the owners that share its rows of lists.
    std::vector<int64_t> blocks;
    Ranges listed;
  };
  static constexpr size_t kPlain = std::numeric_limits<size_t>::max();

  void add(const Term& term, size_t layer);
  void insert_allowed(Unseen& unseen) const;
  Found layers_below(int64_t top, int64_t query, int64_t fewest, int64_t most_asked);
  bool all_seen_below(int64_t owner);
  void look(Asked& asked, int64_t owner);
  void look_in(const Asked& asked, int64_t owner, Range others);
  const Ranges& listed(Asked& asked, int64_t owner);
  void see(int64_t position);

  int64_t size_;
  bool causal_;
  std::vector<std::vector<Term>> terms_;  // of each layer; never moved, for others point here
  std::vector<std::vector<Asked>> asked_of_;
  std::vector<Unseen> unseen_;
  int64_t asked_ = 0;
  std::vector<int64_t> row_;  // of a list

  // The state of one search.
  BitTree left_;                               // positions that are still to be seen
  int64_t missing_ = 0;                        // how many
  int64_t lowest_ = 0;                         // none of them lies below
  std::vector<int32_t> found_;                 // by this layer
  std::vector<std::vector<int32_t>> pending_;  // positions that a layer has not looked at yet
};

}  // namespace lace::plan
