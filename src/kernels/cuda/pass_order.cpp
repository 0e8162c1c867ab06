#include "kernels/cuda/pass_order.h"

#include <algorithm>
#include <utility>

namespace lace::cuda {
namespace {

struct OrderBuilder {
  const Plan& plan;
  PassOrder order{};
  std::vector<int64_t> rows{};
  std::vector<bool> before{}, after{};  // whether passes worked on before, or after, have a row

  // Which of `rows` are in `covered`; where only some are, their bits at row_bits[`bits`].
  int32_t rows_in(const std::vector<bool>& covered, int32_t& bits) {
    const auto is_covered = [&](int64_t row) -> bool { return covered[static_cast<size_t>(row)]; };
    const auto count = std::count_if(rows.begin(), rows.end(), is_covered);
    if (count == 0) return kNone;
    if (count == static_cast<int64_t>(rows.size())) return kAll;
    bits = static_cast<int32_t>(order.row_bits.size());
    order.row_bits.resize(order.row_bits.size() + static_cast<size_t>(plan.tile.owners + 31) / 32);
    for (size_t e = 0; e < rows.size(); ++e) {
      if (is_covered(rows[e])) order.row_bits[static_cast<size_t>(bits) + e / 32] |= 1u << (e % 32);
    }
    return kSome;
  }

  void mark(const Pass& pass, std::vector<bool>& covered) {
    for (int32_t t = pass.tile_begin; t < pass.tile_end; ++t) {
      positions(plan, plan.tiles[static_cast<size_t>(t)].owners, plan.owner_len, rows);
      for (const int64_t row : rows) covered[static_cast<size_t>(row)] = true;
    }
  }

  // wait: tiles of the passes before.
  void add_pass(const Pass& pass, int32_t index, bool several, bool last, int32_t wait) {
    const auto begin = static_cast<int64_t>(order.tiles.size());
    for (int32_t t = pass.tile_begin; t < pass.tile_end; ++t) {
      OrderedTile tile;
      tile.source = plan.tiles[static_cast<size_t>(t)];
      tile.pass = index;
      for (int32_t r = tile.source.run_begin; r < tile.source.run_end; ++r) {
        tile.others += plan.runs[static_cast<size_t>(r)].tiles;
      }
      if (several) {
        positions(plan, tile.source.owners, plan.owner_len, rows);
        tile.earlier = rows_in(before, tile.earlier_bits);
        tile.later = rows_in(after, tile.later_bits);
        tile.wait = tile.earlier == kNone && last ? 0 : wait;
        tile.count = last ? 0 : 1;
      }
      order.tiles.push_back(tile);
    }
    std::stable_sort(
        order.tiles.begin() + begin, order.tiles.end(),
        [](const OrderedTile& a, const OrderedTile& b) { return a.others > b.others; });
  }

  void add_group(const HeadGroup& group) {
    std::vector<const Pass*> passes;
    for (int32_t p = group.pass_begin; p < group.pass_end; ++p) {
      passes.push_back(&plan.passes[static_cast<size_t>(p)]);
    }
    std::stable_partition(passes.begin(), passes.end(),
                          [](const Pass* pass) { return pass->order == RowOrder::kGlobalRows; });
    std::stable_partition(passes.begin(), passes.end(),
                          [](const Pass* pass) { return pass->order != RowOrder::kNatural; });
    const bool several = passes.size() > 1;
    order.several_passes |= several;
    PassOrder::Group ordered;
    ordered.begin = static_cast<int32_t>(order.tiles.size());
    if (several) before.assign(static_cast<size_t>(plan.owner_len), false);
    for (size_t p = 0; p < passes.size(); ++p) {
      if (several) {
        after.assign(static_cast<size_t>(plan.owner_len), false);
        for (size_t q = p + 1; q < passes.size(); ++q) mark(*passes[q], after);
      }
      ordered.first = static_cast<int32_t>(order.tiles.size()) - ordered.begin;
      add_pass(*passes[p], static_cast<int32_t>(p), several, p + 1 == passes.size(), ordered.first);
      if (several) mark(*passes[p], before);
    }
    ordered.end = static_cast<int32_t>(order.tiles.size());
    for (int32_t t = ordered.begin; t < ordered.end; ++t) {
      const int32_t others = order.tiles[static_cast<size_t>(t)].others;
      order.longest = std::max(order.longest, others);
      order.tiles_of_others += others * group.heads;
    }
    order.groups.push_back(ordered);
  }
};

}  // namespace

PassOrder order_passes(const Plan& plan) {
  OrderBuilder builder{plan};
  for (const HeadGroup& group : plan.groups) builder.add_group(group);
  return std::move(builder.order);
}

bool heads_are_alike(const Plan& plan, int64_t members) {
  for (size_t h = 0; h < plan.head_group.size(); ++h) {
    if (plan.head_group[h] != plan.head_group[h - h % static_cast<size_t>(members)]) return false;
  }
  return true;
}

void positions(const Plan& plan, const IndexSet& set, int64_t end, std::vector<int64_t>& out) {
  out.clear();
  for (int32_t o = 0; o < set.outer; ++o) {
    for (int32_t i = 0; i < set.inner; ++i) {
      const int64_t position = plan.position(set, o, i);
      if (position >= end) return;
      out.push_back(position);
    }
  }
}

}  // namespace lace::cuda
