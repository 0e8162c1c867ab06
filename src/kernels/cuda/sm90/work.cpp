#include "kernels/cuda/sm90/work.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "lace/error.h"

#include "kernels/cuda/mask_bits.h"
#include "kernels/cuda/pass_order.h"

namespace lace::sm90 {
namespace {

int32_t narrow(int64_t value) { return static_cast<int32_t>(value); }

// The map of `set`, whose tiles move by `step`; a new period map is listed in `boxes`. Sets
// `stretches` if a tile may have to be read stretch by stretch.
WorkSet make_set(const IndexSet& set, int64_t step, int64_t length, int32_t tile_rows,
                 std::vector<BoxShape>& boxes, bool& stretches) {
  WorkSet out;
  out.first = narrow(set.first);
  out.stride = narrow(set.outer_stride);
  out.inner = set.inner;
  out.outer = set.outer;
  out.offsets = set.offsets;
  if (set.outer == 1) {
    out.map = 0;
    out.box_rows = tile_rows;
    out.rows_full = 1;
    return out;
  }
  const int64_t period = set.outer_stride;
  if (set.offsets >= 0 || period < set.inner || step % period != 0 ||
      set.first % period + set.inner > period) {
    stretches = true;
    return out;
  }
  const BoxShape box{narrow(period), set.inner, tile_rows / set.inner};
  auto found = std::find(boxes.begin(), boxes.end(), box);
  if (found == boxes.end()) {
    if (boxes.size() == static_cast<size_t>(kPeriodMaps)) {
      stretches = true;
      return out;
    }
    found = boxes.insert(boxes.end(), box);
  }
  out.map = kNaturalMaps + narrow(found - boxes.begin());
  out.rows_full = narrow(length / period);
  stretches |= length % period != 0;
  out.box_rows = box.inner * box.outer;
  return out;
}

WorkRun make_run(const Plan& plan, const Run& run, Work& work) {
  WorkRun out;
  out.others = make_set(run.others, run.tiles > 1 ? run.step : 0, plan.other_len, work.other_rows,
                        work.other_boxes, work.other_stretches);
  out.step = narrow(run.step);
  out.tiles = run.tiles;
  out.mask_begin = run.mask_begin;
  out.mask_cycle = run.mask_cycle;
  if (run.mask_cycle == 1) {
    out.mask_begin = work.mask_ids[static_cast<size_t>(run.mask_begin)];
    if (out.mask_begin < 0) out.mask_cycle = 0;
  }
  return out;
}

// The tiles of a group, in the order of `order`.
void add_tiles(const Plan& plan, const cuda::PassOrder& order, const cuda::PassOrder::Group& group,
               Work& work) {
  std::vector<int64_t> rows;
  for (int32_t i = group.begin; i < group.end; ++i) {
    const cuda::OrderedTile& ordered = order.tiles[static_cast<size_t>(i)];
    const OwnerTile& tile = ordered.source;
    WorkTile item;
    item.owners = make_set(tile.owners, 0, plan.owner_len, work.owner_rows, work.owner_boxes,
                           work.owner_stretches);
    cuda::positions(plan, tile.owners, plan.owner_len, rows);
    item.owner_count = narrow(static_cast<int64_t>(rows.size()));
    item.run_begin = tile.run_begin;
    item.run_end = tile.run_end;
    item.tiles = ordered.others;
    if (tile.run_begin < tile.run_end) {
      item.first_run = work.runs[static_cast<size_t>(tile.run_begin)];
    }
    item.earlier = ordered.earlier;
    item.later = ordered.later;
    item.earlier_bits = ordered.earlier_bits;
    item.later_bits = ordered.later_bits;
    item.wait = ordered.wait;
    item.count = ordered.count;
    item.pass = ordered.pass;
    if (i == group.begin || ordered.pass != work.tiles.back().pass) {
      const int32_t at = narrow(static_cast<int64_t>(work.tiles.size()));
      work.passes.push_back({at, at});
    }
    item.pass_index = narrow(static_cast<int64_t>(work.passes.size())) - 1;
    work.tiles.push_back(item);
    work.passes.back().tile_end = narrow(static_cast<int64_t>(work.tiles.size()));
    work.firsts.push_back(narrow(tile.owners.first));
    work.lasts.push_back(
        narrow(plan.position(tile.owners, tile.owners.outer - 1, tile.owners.inner - 1)));
  }
}

// Sorts those of each pass.
void sort_ends(Work& work) {
  for (const WorkPass& pass : work.passes) {
    for (std::vector<int32_t>* ends : {&work.firsts, &work.lasts}) {
      std::sort(ends->begin() + pass.tile_begin, ends->begin() + pass.tile_end);
    }
  }
}

// Adds the bits of `mask` to work.mask_rows; its flags.
int32_t add_mask(const Mask& mask, Work& work) {
  const cuda::MaskBits bits = cuda::bits_by_owner(mask);
  const size_t begin = work.mask_rows.size();
  work.mask_rows.resize(begin + static_cast<size_t>(work.owner_rows) * 4);
  constexpr int32_t kGroups = kOwnerRows / 64;
  int64_t live[kGroups] = {};
  for (int32_t e = 0; e < std::min(mask.owners, work.owner_rows); ++e) {
    for (int32_t w = 0; w < std::min(bits.words_per_owner, kOtherRows / 64); ++w) {
      const uint64_t word = bits.words[static_cast<size_t>(e * bits.words_per_owner + w)];
      const size_t at = begin + static_cast<size_t>(4 * e + 2 * w);
      work.mask_rows[at] = static_cast<uint32_t>(word);
      work.mask_rows[at + 1] = static_cast<uint32_t>(word >> 32);
      live[e / 64] += std::popcount(word);
    }
  }
  int32_t flags = 0;
  for (int32_t group = 0; group < kGroups; ++group) {
    const int64_t owners = std::clamp(mask.owners - 64 * group, 0, 64);
    const int64_t pairs = owners * std::min(mask.others, kOtherRows);
    if (live[group] == 0) flags |= kDeadRows << group;
    if (owners > 0 && live[group] == pairs) flags |= kFullRows << group;
  }
  return flags;
}

void add_masks(const Plan& plan, Work& work) {
  const int64_t most = most_masks(work.owner_rows);
  LACE_CHECK(static_cast<int64_t>(plan.masks.size()) <= most,
             "[attention] cuda_sm90 runs plans of up to ", most, " different masks, got ",
             plan.masks.size());
  std::vector<int32_t> flags;
  for (const Mask& mask : plan.masks) flags.push_back(add_mask(mask, work));
  for (const int32_t id : plan.mask_ids) {
    work.mask_ids.push_back(id < 0 ? -1 : id | flags[static_cast<size_t>(id)]);
  }
}

int64_t work_of(const Plan& plan, const HeadGroup& group) {
  int64_t most = 0;
  for (int32_t p = group.pass_begin; p < group.pass_end; ++p) {
    most = std::max(most, plan.passes[static_cast<size_t>(p)].computed_pairs);
  }
  return most;
}

template <typename T>
int64_t bytes(const std::vector<T>& v) {
  return static_cast<int64_t>(v.size() * sizeof(T));
}

// Whether the tiles of each group have every position of others once.
bool has_sole_others(const Plan& plan) {
  std::vector<int64_t> found;
  for (const HeadGroup& group : plan.groups) {
    std::vector<bool> seen(static_cast<size_t>(plan.other_len), false);
    int64_t count = 0;
    for (int32_t p = group.pass_begin; p < group.pass_end; ++p) {
      const Pass& pass = plan.passes[static_cast<size_t>(p)];
      for (int32_t t = pass.tile_begin; t < pass.tile_end; ++t) {
        const OwnerTile& tile = plan.tiles[static_cast<size_t>(t)];
        for (int32_t r = tile.run_begin; r < tile.run_end; ++r) {
          const Run& run = plan.runs[static_cast<size_t>(r)];
          for (int32_t i = 0; i < run.tiles; ++i) {
            IndexSet set = run.others;
            set.first += i * run.step;
            cuda::positions(plan, set, plan.other_len, found);
            for (const int64_t position : found) {
              if (seen[static_cast<size_t>(position)]) return false;
              seen[static_cast<size_t>(position)] = true;
            }
            count += static_cast<int64_t>(found.size());
          }
        }
      }
    }
    if (count < plan.other_len) return false;
  }
  return true;
}

// The same, but that each head has a group of its own.
Plan with_heads_apart(const Plan& plan) {
  Plan apart = plan;
  apart.groups.clear();
  for (size_t h = 0; h < plan.head_group.size(); ++h) {
    const HeadGroup& group = plan.groups[static_cast<size_t>(plan.head_group[h])];
    apart.groups.push_back({group.pass_begin, group.pass_end, 1});
    apart.head_group[h] = static_cast<int32_t>(h);
  }
  return apart;
}

}  // namespace

int64_t Work::size_bytes() const {
  return bytes(groups) + bytes(passes) + bytes(firsts) + bytes(lasts) + bytes(heads) +
         bytes(tiles) + bytes(runs) + bytes(mask_ids) + bytes(mask_rows) + bytes(offsets) +
         bytes(row_bits);
}

Work make_work(const Plan& plan, int64_t heads_per_item, bool heads_apart) {
  if (heads_apart) {
    Work work = make_work(with_heads_apart(plan), 1);
    work.heads_apart = true;
    return work;
  }
  LACE_CHECK(plan.tile.owners <= kOwnerRows && plan.tile.others <= kOtherRows,
             "[attention] cuda_sm90 runs plans of tiles up to 192 x 128, got ", plan.tile.owners,
             " x ", plan.tile.others);
  Work work;
  work.owner_rows = plan.tile.owners <= 128 ? 128 : kOwnerRows;
  work.other_rows = plan.tile.others <= 64 ? 64 : kOtherRows;
  if (cuda::heads_are_alike(plan, heads_per_item)) work.members = narrow(heads_per_item);
  add_masks(plan, work);
  for (const Run& run : plan.runs) work.runs.push_back(make_run(plan, run, work));
  const cuda::PassOrder passes = cuda::order_passes(plan);
  work.row_bits = passes.row_bits;
  work.several_passes = passes.several_passes;
  work.longest = passes.longest;
  work.tiles_of_others = passes.tiles_of_others / work.members;
  std::vector<int32_t> order(plan.groups.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return work_of(plan, plan.groups[static_cast<size_t>(a)]) >
           work_of(plan, plan.groups[static_cast<size_t>(b)]);
  });
  for (const int32_t g : order) {
    WorkGroup group;
    group.tile_begin = narrow(static_cast<int64_t>(work.tiles.size()));
    group.head_begin = narrow(static_cast<int64_t>(work.heads.size()));
    group.pass_begin = narrow(static_cast<int64_t>(work.passes.size()));
    for (int64_t h = 0; h < plan.heads; h += work.members) {
      if (plan.head_group[static_cast<size_t>(h)] == g) {
        work.heads.push_back(narrow(h / work.members));
      }
    }
    group.heads = narrow(static_cast<int64_t>(work.heads.size())) - group.head_begin;
    const cuda::PassOrder::Group& source = passes.groups[static_cast<size_t>(g)];
    add_tiles(plan, passes, source, work);
    group.tiles = narrow(static_cast<int64_t>(work.tiles.size())) - group.tile_begin;
    group.pass_end = narrow(static_cast<int64_t>(work.passes.size()));
    const int64_t items = work.items + int64_t{group.heads} * group.tiles;
    LACE_CHECK(items <= INT32_MAX, "[attention] cuda_sm90 runs plans of fewer than 2^31 tiles of ",
               "all heads, got ", items);
    work.items = narrow(items);
    work.groups.push_back(group);
  }
  sort_ends(work);
  work.sole_others = has_sole_others(plan);
  for (const int64_t offset : plan.offsets) work.offsets.push_back(narrow(offset));
  return work;
}

std::vector<WorkItem> order_items(const Work& work, int64_t batch, int64_t section) {
  const auto heads = static_cast<int64_t>(work.heads.size());
  std::vector<const WorkGroup*> group_of;  // by place in work.heads
  for (const WorkGroup& group : work.groups) group_of.insert(group_of.end(), group.heads, &group);
  const auto tile_of = [&](const WorkItem& item) -> const WorkTile& {
    return work.tiles[static_cast<size_t>(item.tile)];
  };
  std::vector<WorkItem> order;
  order.reserve(static_cast<size_t>(work.items * batch));
  // The items of the heads from `begin` on that others join, or those that none does.
  const auto add_section = [&](int64_t begin, bool joined) {
    const int64_t end = std::min(begin + section, heads * batch);
    const auto first = static_cast<int64_t>(order.size());
    bool more = true;
    for (int32_t t = 0; more; ++t) {
      more = false;
      for (int64_t h = begin; h < end; ++h) {
        const auto place = static_cast<size_t>(h % heads);
        const WorkGroup& group = *group_of[place];
        if (t >= group.tiles) continue;
        more = true;
        const WorkItem item{group.tile_begin + t, narrow(h / heads * heads + work.heads[place])};
        if ((tile_of(item).count > 0) == joined) order.push_back(item);
      }
    }
    if (work.groups.size() == 1) return;  // its tiles are in this order already
    std::stable_sort(order.begin() + first, order.end(), [&](const WorkItem& a, const WorkItem& b) {
      const WorkTile &x = tile_of(a), &y = tile_of(b);
      // A pass that is joined may itself wait for the one before it.
      if (joined && x.pass != y.pass) return x.pass < y.pass;
      return x.tiles > y.tiles;
    });
  };
  add_section(0, true);
  for (int64_t begin = 0; begin < heads * batch; begin += section) {
    if (begin + section < heads * batch) add_section(begin + section, true);
    add_section(begin, false);
  }
  return order;
}

}  // namespace lace::sm90
