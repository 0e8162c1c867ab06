#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lace/pattern.h"

#include "plan/plan.h"

namespace lace {

// What a pass costs, summed over the heads that share it.
struct PassFigures {
  int64_t group = 0;  // of heads, within its plan
  int64_t heads = 0;
  RowOrder order = RowOrder::kNatural;
  int64_t period = 0;
  int64_t live_pairs = 0;
  int64_t computed_pairs = 0;  // whole tiles (Pass::computed_pairs)
  int64_t owner_tiles = 0;
  int64_t key_tiles = 0;  // tiles of others that owners meet
};

// A plan in figures: pairs and tiles summed over heads.
struct PlanFigures {
  std::vector<PassFigures> passes;
  int64_t live_pairs = 0, computed_pairs = 0, owner_tiles = 0, key_tiles = 0;
  // As stored: groups once, however many heads; and the time it took. 0 where one_draw.
  int64_t runs = 0, masks = 0, plan_bytes = 0;
  double compile_ms = 0;
};

struct LayerFigures {
  Pattern pattern;
  int64_t groups = 0;               // of heads with equal sets
  bool one_draw = false;            // explained with BoundPattern::with_one_draw()
  PlanFigures forward, transposed;  // the plan of forward, and the one that backward adds
  double mean_keys = 0;             // of a query of a head
  int64_t max_keys = 0;
};

// One cycle of a stack of layers. A plan's figures are summed over the layers of the cycle too.
struct Explanation {
  int64_t heads = 0, seq_len = 0;
  TileShape tile;
  std::vector<LayerFigures> layers;
  PlanFigures forward, transposed;  // `passes` stay with the layers
  double mean_keys = 0;             // over all layers
  int64_t max_keys = 0;
  int64_t dense_pairs = 0;  // live pairs of `dense` in place of every layer
  bool one_draw = false;    // some layer is
  Reach reach;
};

// computed_pairs / live_pairs; 1 where nothing is live.
double waste(int64_t computed_pairs, int64_t live_pairs);

// The part of dense attention's pairs that `pairs`, summed over the cycle, leave out.
double saved(const Explanation& all, int64_t pairs);

// The fewest heads with which every pattern shows all that it has: counts, stripes, masks.
// Throws lace::Error if that is more than kMostExplainedHeads.
constexpr int64_t kMostExplainedHeads = 65536;
int64_t heads_told_apart(const std::vector<Pattern>& cycle);

// "natural", "residue", "columns", "global rows"
std::string_view name(RowOrder order);

// Compiles every pattern of the cycle for tiles of `tile`, queries × keys, in both directions (the
// transposed plan has keys for owners), and counts.
// Exact at any length: keys are counted from runs and masks, not pair by pair (only the reach is
// sampled beyond 16,384: Explanation::reach.exact). But where `random` draws more than 2²² blocks
// for the heads of a layer, heads that differ in their draws alone count as the first of them.
// Throws lace::Error as Pattern::bind, compile and reach do.
Explanation explain(const std::vector<Pattern>& cycle, int64_t heads, int64_t seq_len,
                    TileShape tile);

// Live keys of every query of one group of heads, from a forward plan.
std::vector<int64_t> key_counts(const Plan& plan, int64_t group);

// How much of each cell of a grid laid over one head's matrix, or over its lower right corner, is
// live.
struct Picture {
  int64_t rows = 0, columns = 0;  // of cells: queries down, keys across
  std::vector<double> density;    // [rows, columns]: live pairs / pairs that the causality allows
  double at(int64_t row, int64_t column) const {
    return density[static_cast<size_t>(row * columns + column)];
  }
};

// Of the pairs of positions [begin, k_len). rows and columns: at least 1, at most k_len − begin.
// Of cells with more than 16 queries, 16 are looked at.
Picture picture(const BoundPattern& bound, int64_t head, int64_t rows, int64_t columns,
                int64_t begin = 0);

// The length of a stride, block or summary, or the dilation, that occurs first in `expr` and is
// in [2, seq_len); 0 if none is.
int64_t row_length(const Expr& expr, int64_t seq_len);

// Where the last few rows of that length begin, which show what a picture of a long sequence
// cannot; 0 if the whole shows it, or if there is no such length.
int64_t corner_begin(const Expr& expr, int64_t seq_len);

}  // namespace lace
