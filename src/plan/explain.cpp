#include "plan/explain.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <utility>

#include "lace/error.h"

#include "core/processor.h"
#include "core/work_pool.h"
#include "pattern/rows.h"

namespace lace {
namespace {

constexpr int kMostThreads = 64;
constexpr double kMostDrawn = 0x1p22;  // blocks, for all heads of a layer

int64_t product(int64_t count, int64_t pairs) {
  int64_t all = 0;
  LACE_CHECK(!__builtin_mul_overflow(count, pairs, &all),
             "[explain] pairs of all heads and layers must stay below 2^63, got ", count, " times ",
             pairs);
  return all;
}

int64_t sum(int64_t a, int64_t b) {
  int64_t all = 0;
  LACE_CHECK(!__builtin_add_overflow(a, b, &all),
             "[explain] pairs of all heads and layers must stay below 2^63, got ", a, " and ", b);
  return all;
}

// Live others of each owner of a mask, among its first `others` others.
class MaskCounts {
 public:
  explicit MaskCounts(const Plan& plan) : plan_(plan), kept_(plan.masks.size()) {}

  const std::vector<int64_t>& of(int32_t id, int64_t others) {
    Kept& kept = kept_[static_cast<size_t>(id)];
    if (kept.others == others) return kept.counts;
    const Mask& mask = plan_.masks[static_cast<size_t>(id)];
    kept.others = others;
    kept.counts.assign(static_cast<size_t>(mask.owners), 0);
    for (int64_t f = 0; f < std::min<int64_t>(others, mask.others); ++f) {
      add_other(mask, f, kept.counts);
    }
    return kept.counts;
  }

  static void add_other(const Mask& mask, int64_t f, std::vector<int64_t>& counts) {
    for (int64_t w = 0; w < mask.words_per_other; ++w) {
      uint64_t bits = mask.words[static_cast<size_t>(f * mask.words_per_other + w)];
      for (; bits != 0; bits &= bits - 1) {
        const auto e = static_cast<size_t>(w * 64 + std::countr_zero(bits));
        if (e < counts.size()) ++counts[e];
      }
    }
  }

 private:
  struct Kept {
    int64_t others = -1;
    std::vector<int64_t> counts;
  };
  const Plan& plan_;
  std::vector<Kept> kept_;
};

// The keys of the owners of one tile.
class TileCounter {
 public:
  TileCounter(const Plan& plan, MaskCounts& masks) : plan_(plan), masks_(masks) {}

  void add_to(const OwnerTile& tile, std::vector<int64_t>& counts) {
    for_all_ = 0;
    of_owner_.assign(static_cast<size_t>(tile.owners.size()), 0);
    for (int32_t r = tile.run_begin; r < tile.run_end; ++r) {
      add_run(plan_.runs[static_cast<size_t>(r)]);
    }
    for (int32_t o = 0; o < tile.owners.outer; ++o) {
      for (int32_t i = 0; i < tile.owners.inner; ++i) {
        const int64_t row = plan_.position(tile.owners, o, i);
        if (row >= plan_.owner_len) continue;
        const auto e = static_cast<size_t>(o * tile.owners.inner + i);
        counts[static_cast<size_t>(row)] += for_all_ + of_owner_[e];
      }
    }
  }

 private:
  void add_run(const Run& run) {
    const int64_t whole = whole_tiles(run);
    const int64_t cycle = std::max(run.mask_cycle, 1);
    for (int64_t c = 0; c < std::min(cycle, whole); ++c) {
      const int64_t times = (whole - c + cycle - 1) / cycle;
      const int32_t id = mask_id(run, c);
      if (id < 0) {
        for_all_ += times * run.others.size();
      } else {
        add(masks_.of(id, run.others.size()), times);
      }
    }
    for (int64_t t = whole; t < run.tiles; ++t) add_cut_tile(run, t);
  }

  // Tiles, from the first on, whose others all lie inside the sequence.
  int64_t whole_tiles(const Run& run) const {
    int64_t last = 0;
    for (int32_t o = 0; o < run.others.outer; ++o) {
      last = std::max(last, plan_.position(run.others, o, run.others.inner - 1));
    }
    if (last >= plan_.other_len) return 0;
    if (run.step <= 0) return run.tiles;
    return std::min<int64_t>(run.tiles, (plan_.other_len - 1 - last) / run.step + 1);
  }

  int32_t mask_id(const Run& run, int64_t t) const {
    if (run.mask_cycle == 0) return -1;
    return plan_.mask_ids[static_cast<size_t>(run.mask_begin + t % run.mask_cycle)];
  }

  void add_cut_tile(const Run& run, int64_t t) {
    const int32_t id = mask_id(run, t);
    std::vector<int64_t> counts(id < 0 ? 0 : plan_.masks[static_cast<size_t>(id)].owners);
    for (int32_t o = 0; o < run.others.outer; ++o) {
      for (int32_t i = 0; i < run.others.inner; ++i) {
        if (plan_.position(run.others, o, i) + t * run.step >= plan_.other_len) continue;
        const int64_t f = static_cast<int64_t>(o) * run.others.inner + i;
        if (id < 0) {
          ++for_all_;
        } else {
          MaskCounts::add_other(plan_.masks[static_cast<size_t>(id)], f, counts);
        }
      }
    }
    add(counts, 1);
  }

  void add(const std::vector<int64_t>& counts, int64_t times) {
    const size_t owners = std::min(counts.size(), of_owner_.size());
    for (size_t e = 0; e < owners; ++e) of_owner_[e] += times * counts[e];
  }

  const Plan& plan_;
  MaskCounts& masks_;
  int64_t for_all_ = 0;
  std::vector<int64_t> of_owner_;
};

PassFigures pass_figures(const Plan& plan, const Pass& pass, int64_t group) {
  const int64_t heads = plan.groups[static_cast<size_t>(group)].heads;
  PassFigures figures{group, heads, pass.order, pass.period, 0, 0, 0, 0};
  figures.live_pairs = product(heads, pass.live_pairs);
  figures.computed_pairs = product(heads, pass.computed_pairs);
  figures.owner_tiles = heads * (pass.tile_end - pass.tile_begin);
  for (int32_t t = pass.tile_begin; t < pass.tile_end; ++t) {
    const OwnerTile& tile = plan.tiles[static_cast<size_t>(t)];
    for (int32_t r = tile.run_begin; r < tile.run_end; ++r) {
      figures.key_tiles += heads * plan.runs[static_cast<size_t>(r)].tiles;
    }
  }
  return figures;
}

PlanFigures plan_figures(const Plan& plan) {
  PlanFigures figures;
  for (size_t g = 0; g < plan.groups.size(); ++g) {
    for (int32_t p = plan.groups[g].pass_begin; p < plan.groups[g].pass_end; ++p) {
      const PassFigures pass =
          pass_figures(plan, plan.passes[static_cast<size_t>(p)], static_cast<int64_t>(g));
      figures.live_pairs = sum(figures.live_pairs, pass.live_pairs);
      figures.computed_pairs = sum(figures.computed_pairs, pass.computed_pairs);
      figures.owner_tiles += pass.owner_tiles;
      figures.key_tiles += pass.key_tiles;
      figures.passes.push_back(pass);
    }
  }
  figures.runs = static_cast<int64_t>(plan.runs.size());
  figures.masks = static_cast<int64_t>(plan.masks.size());
  figures.plan_bytes = plan.size_bytes();
  figures.compile_ms = plan.compile_ms;
  return figures;
}

// Everything but the passes.
void add(const PlanFigures& from, PlanFigures& to) {
  to.live_pairs = sum(to.live_pairs, from.live_pairs);
  to.computed_pairs = sum(to.computed_pairs, from.computed_pairs);
  to.owner_tiles += from.owner_tiles;
  to.key_tiles += from.key_tiles;
  to.runs += from.runs;
  to.masks += from.masks;
  to.plan_bytes += from.plan_bytes;
  to.compile_ms += from.compile_ms;
}

// Blocks that `random` draws for one head. More than 2^63 may be asked for.
double drawn_blocks(const Expr& expr, int64_t seq_len) {
  double drawn = 0;
  if (expr.op == Expr::Op::kAtom && expr.atom.kind == AtomKind::kRandom) {
    const auto [count, block, seed] = expr.atom.args;
    const int64_t blocks = (seq_len + block - 1) / block;
    drawn = static_cast<double>(std::min(count, blocks)) * static_cast<double>(blocks);
  }
  for (const Expr& operand : expr.operands) drawn += drawn_blocks(operand, seq_len);
  return drawn;
}

double drawn_blocks(const BoundPattern& bound) {
  double drawn = 0;
  for (int64_t group = 0; group < bound.groups(); ++group) {
    drawn += drawn_blocks(bound.expr(bound.group_head(group)), bound.k_len());
  }
  return drawn;
}

// The most keys of a query.
int64_t max_keys(const Plan& plan, const Executor& executor) {
  std::vector<int64_t> most(plan.groups.size());
  run_tasks(executor, static_cast<int64_t>(most.size()), [&](int64_t group, int) {
    const std::vector<int64_t> counts = key_counts(plan, group);
    most[static_cast<size_t>(group)] = *std::max_element(counts.begin(), counts.end());
  });
  return *std::max_element(most.begin(), most.end());
}

LayerFigures explain_layer(const Pattern& pattern, int64_t heads, int64_t seq_len, TileShape tile,
                           const Executor& executor) {
  BoundPattern bound = pattern.bind(heads, seq_len, seq_len);
  LayerFigures layer{pattern, bound.groups(), false, {}, {}, 0, 0};
  if (drawn_blocks(bound) > kMostDrawn) {
    bound = bound.with_one_draw();
    layer.one_draw = bound.groups() < layer.groups;
  }
  const auto explain_forward = [&] {
    const Plan plan = compile(bound, tile, false, &executor);
    layer.forward = plan_figures(plan);
    layer.max_keys = max_keys(plan, executor);
  };
  const auto explain_transposed = [&] {
    layer.transposed = plan_figures(compile(bound, {tile.others, tile.owners}, true, &executor));
  };
  if (bound.groups() > 1) {  // enough for all threads
    explain_forward();
    explain_transposed();
  } else {
    run_tasks(executor, 2,
              [&](int64_t task, int) { task == 0 ? explain_forward() : explain_transposed(); });
  }
  if (layer.one_draw) {
    for (PlanFigures* plan : {&layer.forward, &layer.transposed}) {
      plan->runs = plan->masks = plan->plan_bytes = 0;
      plan->compile_ms = 0;
    }
  }
  layer.mean_keys = static_cast<double>(layer.forward.live_pairs) / static_cast<double>(heads) /
                    static_cast<double>(seq_len);
  return layer;
}

// Queries of a cell's row that a picture looks at: all of up to 16, else 16, one from each
// sixteenth, at places that no stride shares.
std::vector<int64_t> sampled_queries(int64_t begin, int64_t end) {
  constexpr int64_t kSamples = 16;
  std::vector<int64_t> queries;
  if (end - begin <= kSamples) {
    for (int64_t query = begin; query < end; ++query) queries.push_back(query);
    return queries;
  }
  for (int64_t s = 0; s < kSamples; ++s) {
    const int64_t from = begin + (end - begin) * s / kSamples;
    const int64_t to = begin + (end - begin) * (s + 1) / kSamples;
    const auto place = static_cast<uint64_t>(from) * 0x9E3779B97F4A7C15;
    queries.push_back(from +
                      static_cast<int64_t>((place >> 33) % static_cast<uint64_t>(to - from)));
  }
  return queries;
}

// Bits [begin, end) of `words`.
int64_t popcount(const std::vector<uint64_t>& words, int64_t begin, int64_t end) {
  int64_t count = 0;
  for (int64_t bit = begin; bit < end;) {
    const int64_t shift = bit % 64, taken = std::min(64 - shift, end - bit);
    const uint64_t ones = taken == 64 ? ~uint64_t{0} : (uint64_t{1} << taken) - 1;
    count += std::popcount((words[static_cast<size_t>(bit / 64)] >> shift) & ones);
    bit += taken;
  }
  return count;
}

// The least common multiple, or kMostExplainedHeads + 1 where it is larger than that.
int64_t joined(int64_t a, int64_t b) {
  if (a > kMostExplainedHeads || b > kMostExplainedHeads) return kMostExplainedHeads + 1;
  return std::min(std::lcm(a, b), kMostExplainedHeads + 1);
}

int64_t heads_told_apart(const Expr& expr) {
  int64_t heads =
      expr.op == Expr::Op::kAtom && expr.atom.kind == AtomKind::kFixed ? expr.atom.args[2] : 1;
  if (expr.atom.mask != nullptr) heads = expr.atom.mask->heads;
  for (const Expr& operand : expr.operands) heads = joined(heads, heads_told_apart(operand));
  return heads;
}

}  // namespace

double waste(int64_t computed_pairs, int64_t live_pairs) {
  if (live_pairs == 0) return 1;
  return static_cast<double>(computed_pairs) / static_cast<double>(live_pairs);
}

double saved(const Explanation& all, int64_t pairs) {
  return 1 - static_cast<double>(pairs) / static_cast<double>(all.dense_pairs);
}

int64_t heads_told_apart(const std::vector<Pattern>& cycle) {
  int64_t heads = 1;
  for (const Pattern& pattern : cycle) {
    int64_t counts = 0;
    for (const auto& [count, expr] : pattern.entries()) {
      counts += count;
      heads = joined(heads, heads_told_apart(expr));
    }
    heads = joined(heads, std::max<int64_t>(counts, 1));
  }
  LACE_CHECK(heads <= kMostExplainedHeads, "[explain] the patterns tell more than ",
             kMostExplainedHeads, " heads apart: choose how many there are");
  return heads;
}

std::string_view name(RowOrder order) {
  switch (order) {
    case RowOrder::kGlobalRows:
      return "global rows";
    case RowOrder::kNatural:
      return "natural";
    case RowOrder::kColumns:
      return "columns";
    case RowOrder::kResidue:
      return "residue";
  }
  return "unknown";
}

std::vector<int64_t> key_counts(const Plan& plan, int64_t group) {
  LACE_CHECK(!plan.transposed, "[explain] keys are counted from a forward plan");
  std::vector<int64_t> counts(static_cast<size_t>(plan.owner_len));
  MaskCounts masks(plan);
  TileCounter counter(plan, masks);
  const HeadGroup& passes = plan.groups[static_cast<size_t>(group)];
  for (int32_t p = passes.pass_begin; p < passes.pass_end; ++p) {
    const Pass& pass = plan.passes[static_cast<size_t>(p)];
    for (int32_t t = pass.tile_begin; t < pass.tile_end; ++t) {
      counter.add_to(plan.tiles[static_cast<size_t>(t)], counts);
    }
  }
  return counts;
}

Explanation explain(const std::vector<Pattern>& cycle, int64_t heads, int64_t seq_len,
                    TileShape tile) {
  LACE_CHECK(!cycle.empty(), "[explain] cycle must be at least one pattern, got none");
  Explanation all;
  all.heads = heads;
  all.seq_len = seq_len;
  all.tile = tile;
  for (const Pattern& pattern : cycle) {
    pattern.bind(heads, seq_len, seq_len);  // its errors come first
    const int64_t head_pairs = pattern.causal() ? seq_len * (seq_len + 1) / 2 : seq_len * seq_len;
    all.dense_pairs = sum(all.dense_pairs, product(heads, head_pairs));
  }
  const WorkPool pool(std::min(this_processor().cores, kMostThreads));
  for (const Pattern& pattern : cycle) {
    all.layers.push_back(explain_layer(pattern, heads, seq_len, tile, pool));
    const LayerFigures& layer = all.layers.back();
    add(layer.forward, all.forward);
    add(layer.transposed, all.transposed);
    all.mean_keys += layer.mean_keys / static_cast<double>(cycle.size());
    all.max_keys = std::max(all.max_keys, layer.max_keys);
    all.one_draw = all.one_draw || layer.one_draw;
  }
  all.reach = reach(cycle, heads, seq_len);
  return all;
}

Picture picture(const BoundPattern& bound, int64_t head, int64_t rows, int64_t columns,
                int64_t begin) {
  LACE_CHECK(0 <= begin && begin < bound.k_len(), "[picture] begin must be in [0, ", bound.k_len(),
             "), got ", begin);
  const int64_t n = bound.k_len() - begin;
  LACE_CHECK(1 <= rows && rows <= n, "[picture] rows must be in [1, ", n, "], got ", rows);
  LACE_CHECK(1 <= columns && columns <= n, "[picture] columns must be in [1, ", n, "], got ",
             columns);
  Picture grid{rows, columns, std::vector<double>(static_cast<size_t>(rows * columns))};
  std::vector<uint64_t> bits(static_cast<size_t>((n + 63) / 64));
  std::vector<int64_t> live(static_cast<size_t>(columns)), allowed(live.size());
  for (int64_t row = 0; row < rows; ++row) {
    std::fill(live.begin(), live.end(), 0);
    std::fill(allowed.begin(), allowed.end(), 0);
    for (const int64_t query : sampled_queries(row * n / rows, (row + 1) * n / rows)) {
      std::fill(bits.begin(), bits.end(), 0);
      pattern::add_row(bound, head, begin + query, begin, begin + n, bits.data());
      for (int64_t column = 0; column < columns; ++column) {
        const auto c = static_cast<size_t>(column);
        const int64_t from = column * n / columns, to = (column + 1) * n / columns;
        live[c] += popcount(bits, from, to);
        allowed[c] +=
            bound.causal() ? std::clamp<int64_t>(query + 1 - from, 0, to - from) : to - from;
      }
    }
    for (size_t c = 0; c < live.size(); ++c) {
      const auto pairs = static_cast<double>(std::max<int64_t>(allowed[c], 1));
      grid.density[static_cast<size_t>(row * columns) + c] = static_cast<double>(live[c]) / pairs;
    }
  }
  return grid;
}

int64_t row_length(const Expr& expr, int64_t seq_len) {
  if (expr.op != Expr::Op::kAtom) {
    for (const Expr& operand : expr.operands) {
      if (const int64_t length = row_length(operand, seq_len)) return length;
    }
    return 0;
  }
  const AtomKind kind = expr.atom.kind;
  int64_t length = 0;
  if (kind == AtomKind::kBlock || kind == AtomKind::kStrided || kind == AtomKind::kSummary) {
    length = expr.atom.args[0];
  } else if (kind == AtomKind::kDilated) {
    length = expr.atom.args[1];
  }
  return 2 <= length && length < seq_len ? length : 0;
}

int64_t corner_begin(const Expr& expr, int64_t seq_len) {
  constexpr int64_t kRowsShown = 4, kClear = 96;
  const int64_t shown = kRowsShown * row_length(expr, seq_len);
  if (shown == 0 || seq_len <= std::max(2 * shown, kClear)) return 0;
  return seq_len - shown;
}

}  // namespace lace
