#pragma once

#include <cstdint>
#include <vector>

#include "lace/pattern.h"

#include "plan/terms.h"

namespace lace::plan {

// A set of numbers in [0, size): a tree of words in which each bit says whether the word below it
// has one.
class BitTree {
 public:
  explicit BitTree(int64_t size);
  void insert(int64_t number);
  void erase(int64_t number);
  // The least number that is at least `from`; -1 if there is none.
  int64_t next(int64_t from) const;

 private:
  std::vector<std::vector<uint64_t>> levels_;  // numbers first
};

// Searches, query by query, from the top layer of a stack downwards, for the positions that
// influence the query. A layer looks at each position once, and asks each term of its pattern for
// the keys that are *not seen yet*: so a search takes time that grows with the positions and the
// terms, not with the live pairs.
class ReachSearch {
 public:
  // layers: one cycle of a stack, of one length, all causal or all bidirectional. Borrowed.
  explicit ReachSearch(const std::vector<BoundPattern>& layers);

  // The fewest layers after which `query` has seen every position that it may; -1: never.
  int64_t layers_of(int64_t query);

  // Positions that terms were asked about, by all searches so far.
  int64_t asked() const { return asked_; }

 private:
  // The positions that are not seen yet among those that terms of one modulus, columns and ranges
  // of others allow; those of one residue class stand together.
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
    size_t unseen;
    // Of the owners that share its rows of lists.
    std::vector<int64_t> blocks;
    Ranges listed;
  };

  void add(const Term& term, size_t layer);
  int64_t layers_below(int64_t top, int64_t query, int64_t fewest);
  void look(Asked& asked, int64_t owner);
  void look_in(const Asked& asked, int64_t owner, Range others);
  const Ranges& listed(Asked& asked, int64_t owner) const;
  void see(int64_t position);

  int64_t size_;
  bool causal_;
  std::vector<std::vector<Term>> terms_;  // of each layer; never moved, for others point here
  std::vector<std::vector<Asked>> asked_of_;
  std::vector<Unseen> unseen_;
  int64_t asked_ = 0;

  // The state of one search.
  int64_t missing_ = 0;                        // positions that are still to be seen
  std::vector<int32_t> found_;                 // by this layer
  std::vector<std::vector<int32_t>> pending_;  // positions that a layer has not looked at yet
};

}  // namespace lace::plan
