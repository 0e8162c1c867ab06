#pragma once

#include <vector>

#include "plan/geometry.h"
#include "plan/masks.h"

namespace lace::plan {

// A pass before it is cut into tiles.
struct PassSpec {
  Order order;
  PassTerms terms;
};

// Gives each term the row order that makes all passes together cheapest by the cost model below,
// and takes out of each pass the pairs of the passes before it: global rows, then natural, columns,
// residue classes. Terms of one order share a pass.
//
// The cost of a pass counts, in pairs: rows × others of all its tiles (rows rounded up to 16); for
// each tile and other, what reading and converting it costs; for each row, reading the query,
// writing the result and joining it with those of other passes. It is taken from a sample of tiles.
std::vector<PassSpec> choose_passes(const std::vector<Term>& terms, const Domain& domain,
                                    TileShape tile);

}  // namespace lace::plan
