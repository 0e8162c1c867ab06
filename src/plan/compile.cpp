#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>
#include <vector>

#include "lace/error.h"

#include "core/executor.h"
#include "plan/geometry.h"
#include "plan/masks.h"
#include "plan/orders.h"
#include "plan/plan.h"
#include "plan/stored.h"

namespace lace {
namespace plan {
namespace {

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// Whether two lattices of one tile of owners may share a position.
bool may_overlap(const Lattice& a, const Lattice& b) {
  if (a.end() <= b.begin || b.end() <= a.begin) return false;
  if (a.interval() && b.interval()) return true;
  if (a.interval() || b.interval()) {
    const Lattice& interval = a.interval() ? a : b;
    const Lattice& comb = a.interval() ? b : a;
    std::vector<Lattice> met;
    add_columns_in(comb.period, comb.begin, comb.width,
                   {std::max(interval.begin, comb.begin), std::min(interval.end(), comb.end())}, 0,
                   met);
    return !met.empty();
  }
  if (a.period != b.period) return true;
  const int64_t ahead = floor_mod(b.begin - a.begin, a.period);
  return ahead < a.width || ahead + b.width > a.period;
}

// Cuts one pass into tiles and runs, appended to a plan.
class PassBuilder {
 public:
  PassBuilder(Plan& plan, MaskStore& store, const PassSpec& spec, const Domain& domain)
      : plan_(plan),
        store_(store),
        spec_(spec),
        domain_(domain),
        listings_(plan.offsets),
        finder_(spec.terms, store, plan.offsets, listings_) {}

  // first: the pass lists every row.
  Pass build(bool first) {
    Pass pass;
    pass.order = spec_.order.kind;
    pass.period = spec_.order.period;
    pass.tile_begin = stored(plan_.tiles.size(), "tiles");
    for (const OwnerSet& owners :
         owner_tiles(spec_.order, domain_, plan_.tile.owners, plan_.offsets)) {
      add_tile(owners, first);
    }
    if (first) {
      for (const OwnerSet& owners :
           unlisted_tiles(spec_.order, domain_, plan_.tile.owners, plan_.offsets)) {
        list_tile(owners, stored(plan_.runs.size(), "runs"), 0);
      }
    }
    pass.tile_end = stored(plan_.tiles.size(), "tiles");
    pass.live_pairs = live_pairs_;
    pass.computed_pairs = computed_pairs_;
    if (spec_.order.kind != RowOrder::kResidue) sort_by_work(pass);
    return pass;
  }

 private:
  void add_tile(const OwnerSet& owners, bool list_empty) {
    lattices_.clear();
    listings_.set_owners(owners.set, domain_.end);
    for (const Term& term : spec_.terms.own) {
      add_support(term, spec_.order, owners, domain_, plan_.offsets, listings_, lattices_);
    }
    const int32_t run_begin = stored(plan_.runs.size(), "runs");
    const int64_t computed_before = computed_pairs_;
    if (!lattices_.empty()) {
      merge_lattices(lattices_, spec_.order.kind == RowOrder::kResidue, plan_.tile.others, domain_);
      finder_.set_owners(full_owners(owners.set));
      owner_count_ = count_before(owners.set, domain_.end, plan_.offsets);
      for (const Cut& cut : cut_lattices(lattices_, plan_.tile.others, plan_.offsets)) add_cut(cut);
    }
    const bool has_runs = run_begin < stored(plan_.runs.size(), "runs");
    if (has_runs || list_empty) list_tile(owners, run_begin, computed_pairs_ - computed_before);
  }

  void list_tile(const OwnerSet& owners, int32_t run_begin, int64_t work) {
    OwnerTile tile{owners.set, run_begin, stored(plan_.runs.size(), "runs"), owners.chain};
    tile.owners.first -= domain_.owner_begin;
    std::stable_sort(plan_.runs.begin() + run_begin, plan_.runs.end(),
                     [](const Run& a, const Run& b) { return a.others.first < b.others.first; });
    plan_.tiles.push_back(tile);
    work_.push_back(work);
  }

  // The set of which a tile's owners are the beginning, in a sequence without end.
  IndexSet full_owners(const IndexSet& set) const {
    const bool columns = spec_.order.kind == RowOrder::kColumns;
    if (columns || spec_.order.kind == RowOrder::kResidue) {
      return full_comb(set, plan_.tile.owners, spec_.order.period);
    }
    return set.outer > 1 ? set : IndexSet{set.first, 0, plan_.tile.owners, 1, -1};
  }

  static IndexSet full_comb(IndexSet set, int32_t capacity, int64_t period) {
    set.outer = std::max(1, capacity / set.inner);
    set.outer_stride = set.outer > 1 ? period : 0;
    return set;
  }

  IndexSet full_others(const Cut& cut) const {
    const Lattice& lattice = lattices_[static_cast<size_t>(cut.lattice)];
    if (lattice.period > lattice.width) {
      return full_comb(cut.set, plan_.tile.others, lattice.period);
    }
    if (cut.set.outer > 1) return cut.set;
    return {cut.set.first, 0, plan_.tile.others, 1, -1};
  }

  void add_cut(const Cut& cut) {
    cut_ = &cut;
    excluded_.clear();
    const Lattice& mine = lattices_[static_cast<size_t>(cut.lattice)];
    for (int32_t s = 0; s < cut.lattice; ++s) {
      const Lattice& earlier = lattices_[static_cast<size_t>(s)];
      if (may_overlap(earlier, mine)) excluded_.push_back(earlier);
    }
    // The last tile may reach past the end.
    IndexSet last = cut.set;
    last.first += (cut.tiles - 1) * cut.step;
    const int64_t last_count = count_before(last, domain_.end, plan_.offsets);
    const bool ragged = last_count < last.size();
    other_count_ = cut.set.size();
    add_tiles(0, ragged ? cut.tiles - 1 : cut.tiles);
    if (ragged && last_count > 0) {
      other_count_ = last_count;
      add_tiles(cut.tiles - 1, cut.tiles);
    }
    close_run();
  }

  MaskFinder::Found find(int64_t t) {
    IndexSet full = full_others(*cut_);
    full.first += t * cut_->step;
    MaskFinder::Found found = finder_.find(full, cut_->step, excluded_);
    found.mask = store_.trimmed(found.mask, owner_count_, other_count_);
    return found;
  }

  void add_tiles(int64_t t, int64_t end) {
    while (t < end) {
      const MaskFinder::Found found = find(t);
      const int64_t same = std::min(found.same, end - t);
      if (found.cycle == 1) {
        add_same(t, same, found.mask);
        t += same;
      } else if (found.cycle < same) {
        add_cycle(t, same, found);
        t += same;
      } else {
        add_same(t, 1, found.mask);
        ++t;
      }
    }
  }

  void add_cycle(int64_t t, int64_t tiles, const MaskFinder::Found& first) {
    std::vector<int32_t> ids{first.mask};
    for (int64_t c = 1; c < first.cycle; ++c) ids.push_back(find(t + c).mask);
    const auto other = [&](int32_t id) { return id != ids[0]; };
    if (std::none_of(ids.begin(), ids.end(), other)) return add_same(t, tiles, ids[0]);
    close_run();
    const int64_t cycle = static_cast<int64_t>(ids.size());
    for (int64_t c = 0; c < cycle; ++c) {
      int32_t& id = ids[static_cast<size_t>(c)];
      count((tiles - c + cycle - 1) / cycle, id);
      if (id == kEmptyMask) id = store_.hole(owner_count_, other_count_);
    }
    open_at_ = t;
    open_tiles_ = tiles;
    open_ids_ = std::move(ids);
    close_run();
  }

  void add_same(int64_t t, int64_t tiles, int32_t id) {
    if (id == kEmptyMask) return close_run();
    count(tiles, id);
    constexpr size_t kMaxListed = 64;
    const bool follows = open_tiles_ > 0 && open_at_ + open_tiles_ == t;
    if (follows && open_ids_.size() == 1 && open_ids_[0] == id) {
      open_tiles_ += tiles;
      return;
    }
    const bool list_of_masks = follows && open_ids_[0] != kFullMask &&
                               open_tiles_ == static_cast<int64_t>(open_ids_.size());
    if (list_of_masks && tiles == 1 && id != kFullMask && open_ids_.size() < kMaxListed) {
      open_ids_.push_back(id);
      ++open_tiles_;
      return;
    }
    close_run();
    open_at_ = t;
    open_tiles_ = tiles;
    open_ids_.assign(1, id);
  }

  void close_run() {
    if (open_tiles_ == 0) return;
    Run run{cut_->set, open_tiles_ > 1 ? cut_->step : 0, stored(open_tiles_, "tiles in a run"), 0,
            0};
    run.others.first += open_at_ * cut_->step - domain_.other_begin;
    if (open_ids_.size() > 1 || open_ids_[0] != kFullMask) {
      run.mask_begin = store_.sequence(open_ids_);
      run.mask_cycle = static_cast<int32_t>(open_ids_.size());
    }
    plan_.runs.push_back(run);
    open_tiles_ = 0;
  }

  void count(int64_t tiles, int32_t id) {
    live_pairs_ += tiles * store_.live_pairs(id, owner_count_, other_count_);
    computed_pairs_ += tiles * owner_count_ * round_up(other_count_, 16);
  }

  void sort_by_work(const Pass& pass) {
    std::vector<size_t> order(work_.size());
    for (size_t t = 0; t < order.size(); ++t) order[t] = t;
    std::stable_sort(order.begin(), order.end(),
                     [this](size_t x, size_t y) { return work_[x] > work_[y]; });
    const auto begin = plan_.tiles.begin() + pass.tile_begin;
    const std::vector<OwnerTile> tiles(begin, plan_.tiles.end());
    for (size_t t = 0; t < order.size(); ++t) begin[static_cast<int64_t>(t)] = tiles[order[t]];
  }

  Plan& plan_;
  MaskStore& store_;
  const PassSpec& spec_;
  Domain domain_;
  Listings listings_;
  MaskFinder finder_;
  int64_t live_pairs_ = 0, computed_pairs_ = 0;
  std::vector<int64_t> work_;  // of each tile

  // Of the tile of owners at hand.
  std::vector<Lattice> lattices_, excluded_;
  int64_t owner_count_ = 0, other_count_ = 0;
  const Cut* cut_ = nullptr;
  int64_t open_at_ = 0, open_tiles_ = 0;  // the run that is being put together
  std::vector<int32_t> open_ids_;
};

// The pass that lists every row comes first, whatever order the pairs were shared out in: a natural
// one, or one of residue classes.
void put_listing_pass_first(std::vector<PassSpec>& specs) {
  for (const RowOrder kind : {RowOrder::kNatural, RowOrder::kResidue}) {
    const auto found = std::find_if(specs.begin(), specs.end(), [kind](const PassSpec& spec) {
      return spec.order.kind == kind;
    });
    if (found == specs.end()) continue;
    std::rotate(specs.begin(), found, found + 1);
    return;
  }
}

// The plan of one group of heads: group 0 of a plan of its own, which borrows `pattern`.
struct GroupPlan {
  Plan plan;
  MaskStore store{plan};

  GroupPlan(const BoundPattern& pattern, int64_t group, TileShape tile, bool transposed,
            const Domain& domain) {
    plan.tile = tile;
    const auto terms = normal_form(pattern, pattern.group_head(group), transposed);
    std::vector<PassSpec> specs = choose_passes(terms, domain, tile);
    if (specs.empty()) specs.push_back({});
    put_listing_pass_first(specs);
    for (size_t s = 0; s < specs.size(); ++s) {
      const Pass pass = PassBuilder(plan, store, specs[s], domain).build(s == 0);
      if (pass.tile_begin < pass.tile_end) plan.passes.push_back(pass);
    }
    HeadGroup heads{0, stored(plan.passes.size(), "passes"), 0};
    for (int64_t head = 0; head < pattern.heads(); ++head) {
      heads.heads += pattern.group(head) == group;
    }
    plan.groups.push_back(heads);
  }
  GroupPlan(const GroupPlan&) = delete;
  GroupPlan& operator=(const GroupPlan&) = delete;
};

// Moves a group's plan behind those that `plan` holds already.
void append(Plan&& part, Plan& plan, MaskStore& store) {
  const int32_t passes = stored(plan.passes.size(), "passes");
  const int32_t tiles = stored(plan.tiles.size(), "tiles");
  const int32_t runs = stored(plan.runs.size(), "runs");
  const int32_t offsets = stored(plan.offsets.size(), "offsets");
  stored(plan.passes.size() + part.passes.size(), "passes");
  stored(plan.tiles.size() + part.tiles.size(), "tiles");
  stored(plan.runs.size() + part.runs.size(), "runs");
  stored(plan.offsets.size() + part.offsets.size(), "offsets");
  const auto move_set = [offsets](IndexSet& set) {
    if (set.offsets >= 0) set.offsets += offsets;
  };
  std::vector<int32_t> ids, sequence;  // in `store`, of the part's masks and of one run
  for (Mask& mask : part.masks) ids.push_back(store.keep(std::move(mask)));
  for (Run run : part.runs) {
    move_set(run.others);
    if (run.mask_cycle > 0) {
      const auto begin = part.mask_ids.begin() + run.mask_begin;
      sequence.assign(begin, begin + run.mask_cycle);
      for (int32_t& id : sequence) id = id == kFullMask ? id : ids[static_cast<size_t>(id)];
      run.mask_begin = store.sequence(sequence);
    }
    plan.runs.push_back(run);
  }
  for (OwnerTile tile : part.tiles) {
    move_set(tile.owners);
    tile.run_begin += runs;
    tile.run_end += runs;
    plan.tiles.push_back(tile);
  }
  for (Pass pass : part.passes) {
    pass.tile_begin += tiles;
    pass.tile_end += tiles;
    plan.passes.push_back(pass);
  }
  for (HeadGroup group : part.groups) {
    group.pass_begin += passes;
    group.pass_end += passes;
    plan.groups.push_back(group);
  }
  plan.offsets.insert(plan.offsets.end(), part.offsets.begin(), part.offsets.end());
}

}  // namespace
}  // namespace plan

Plan compile(const BoundPattern& pattern, TileShape tile, bool transposed,
             const Executor* executor) {
  constexpr int32_t kMaxTile = 1024;
  LACE_CHECK(1 <= tile.owners && tile.owners <= kMaxTile, "[compile] tile.owners must be in [1, ",
             kMaxTile, "], got ", tile.owners);
  LACE_CHECK(1 <= tile.others && tile.others <= kMaxTile, "[compile] tile.others must be in [1, ",
             kMaxTile, "], got ", tile.others);
  const auto start = std::chrono::steady_clock::now();
  const int64_t query_begin = pattern.k_len() - pattern.q_len();
  const plan::Domain domain{transposed ? 0 : query_begin, transposed ? query_begin : 0,
                            pattern.k_len()};
  Plan plan;
  plan.transposed = transposed;
  plan.heads = pattern.heads();
  plan.owner_len = transposed ? pattern.k_len() : pattern.q_len();
  plan.other_len = transposed ? pattern.q_len() : pattern.k_len();
  plan.tile = tile;
  plan.pattern = std::make_shared<const BoundPattern>(pattern);
  for (int64_t head = 0; head < pattern.heads(); ++head) {
    plan.head_group.push_back(static_cast<int32_t>(pattern.group(head)));
  }
  plan::MaskStore store(plan);
  std::vector<std::unique_ptr<plan::GroupPlan>> parts(static_cast<size_t>(pattern.groups()));
  const auto compile_group = [&](int64_t group) {
    parts[static_cast<size_t>(group)] =
        std::make_unique<plan::GroupPlan>(*plan.pattern, group, tile, transposed, domain);
  };
  if (executor != nullptr) {
    run_tasks(*executor, pattern.groups(), [&](int64_t group, int) { compile_group(group); });
  }
  for (int64_t group = 0; group < pattern.groups(); ++group) {
    std::unique_ptr<plan::GroupPlan>& part = parts[static_cast<size_t>(group)];
    if (part == nullptr) compile_group(group);
    plan::append(std::move(part->plan), plan, store);
    part = nullptr;
  }
  plan.tiles.shrink_to_fit();
  plan.runs.shrink_to_fit();
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
  plan.compile_ms = took.count();
  return plan;
}

int64_t Plan::size_bytes() const {
  const auto bytes = [](const auto& array) {
    return static_cast<int64_t>(array.size() * sizeof(array[0]));
  };
  int64_t sum = bytes(head_group) + bytes(groups) + bytes(passes) + bytes(tiles) + bytes(runs) +
                bytes(mask_ids) + bytes(masks) + bytes(offsets);
  for (const Mask& mask : masks) sum += bytes(mask.words);
  return sum;
}

}  // namespace lace
