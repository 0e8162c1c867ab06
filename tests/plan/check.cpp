#include "plan/check.h"

#include <map>
#include <set>
#include <vector>

#include "lace/error.h"

#include "plan/expand.h"

namespace lace::testing {
namespace {

std::string check_set(const Plan& plan, const IndexSet& set, int64_t most, int64_t length,
                      const char* what) {
  if (set.inner < 1 || set.outer < 1) return concat(what, " set is empty");
  if (set.size() > most) return concat(what, " set has ", set.size(), " of ", most, " elements");
  if (set.first < 0) return concat(what, " set starts at ", set.first);
  if (set.first >= length) return concat(what, " set starts past the end, at ", set.first);
  for (int32_t o = 1; o < set.outer; ++o) {
    const int64_t gap = plan.position(set, o, 0) - plan.position(set, o - 1, 0);
    if (gap < set.inner) return concat(what, " set does not ascend");
  }
  return "";
}

std::string check_run(const Plan& plan, const OwnerTile& tile, const Run& run) {
  if (run.tiles < 1) return "run without tiles";
  if (run.tiles > 1 && run.step < 1) return "run without a step";
  if (run.mask_cycle > run.tiles) return "mask cycle longer than its run";
  Run last = run;
  last.others.first += (run.tiles - 1) * run.step;
  for (const IndexSet& set : {run.others, last.others}) {
    const auto error = check_set(plan, set, plan.tile.others, plan.other_len, "others");
    if (!error.empty()) return error;
  }
  for (int32_t c = 0; c < run.mask_cycle; ++c) {
    const int32_t id = plan.mask_ids.at(static_cast<size_t>(run.mask_begin + c));
    if (id < 0) continue;
    const Mask& mask = plan.masks.at(static_cast<size_t>(id));
    if (mask.owners < tile.owners.size() || mask.others < run.others.size()) {
      return "mask smaller than its tile";
    }
    if (mask.words.size() != static_cast<size_t>(mask.words_per_other * mask.others)) {
      return "mask of wrong size";
    }
  }
  return "";
}

std::string check_rows(const Plan& plan, const Pass& pass, bool first) {
  std::vector<int> listed(static_cast<size_t>(plan.owner_len));
  for (int32_t t = pass.tile_begin; t < pass.tile_end; ++t) {
    const OwnerTile& tile = plan.tiles[static_cast<size_t>(t)];
    auto error = check_set(plan, tile.owners, plan.tile.owners, plan.owner_len, "owners");
    if (!error.empty()) return error;
    int64_t previous = -1;
    for (int32_t r = tile.run_begin; r < tile.run_end; ++r) {
      const Run& run = plan.runs[static_cast<size_t>(r)];
      error = check_run(plan, tile, run);
      if (!error.empty()) return error;
      if (run.others.first < previous) return "runs do not ascend";
      previous = run.others.first;
    }
    for (int64_t e = 0; e < tile.owners.size(); ++e) {
      const int64_t row = plan.position(tile.owners, static_cast<int32_t>(e / tile.owners.inner),
                                        static_cast<int32_t>(e % tile.owners.inner));
      if (row < plan.owner_len) ++listed[static_cast<size_t>(row)];
    }
  }
  for (int64_t row = 0; row < plan.owner_len; ++row) {
    const int times = listed[static_cast<size_t>(row)];
    if (times > 1) return concat("row ", row, " is listed ", times, " times in one pass");
    if (first && times == 0) return concat("row ", row, " is not listed by the first pass");
  }
  return "";
}

// Every others element that a chain reads, live or not, belongs to that chain alone.
std::string check_chains(const Plan& plan, const Pass& pass) {
  std::vector<int32_t> chain_of(static_cast<size_t>(plan.other_len), -1);
  for (int32_t t = pass.tile_begin; t < pass.tile_end; ++t) {
    const OwnerTile& tile = plan.tiles[static_cast<size_t>(t)];
    for (int32_t r = tile.run_begin; r < tile.run_end; ++r) {
      const Run& run = plan.runs[static_cast<size_t>(r)];
      for (int64_t k = 0; k < run.tiles; ++k) {
        for (int64_t f = 0; f < run.others.size(); ++f) {
          const int64_t other =
              plan.position(run.others, static_cast<int32_t>(f / run.others.inner),
                            static_cast<int32_t>(f % run.others.inner)) +
              k * run.step;
          if (other >= plan.other_len) continue;
          int32_t& chain = chain_of[static_cast<size_t>(other)];
          if (chain >= 0 && chain != tile.chain) {
            return concat("chains ", chain, " and ", tile.chain, " share other ", other);
          }
          chain = tile.chain;
        }
      }
    }
  }
  return "";
}

std::string check_pairs(const Plan& plan, int64_t group) {
  const BoundPattern& pattern = *plan.pattern;
  const int64_t head = pattern.group_head(group), shift = pattern.k_len() - pattern.q_len();
  const std::vector<uint8_t> counts = expand(plan, group);
  for (int64_t owner = 0; owner < plan.owner_len; ++owner) {
    for (int64_t other = 0; other < plan.other_len; ++other) {
      const int64_t query = (plan.transposed ? other : owner) + shift;
      const int64_t key = plan.transposed ? owner : other;
      const int times = counts[static_cast<size_t>(owner * plan.other_len + other)];
      const int wanted = pattern.attends(head, query, key) ? 1 : 0;
      if (times != wanted) {
        return concat("query ", query, ", key ", key, " computed ", times, " times, not ", wanted);
      }
    }
  }
  return "";
}

std::string check_counts(const Plan& plan, int64_t group) {
  std::map<int32_t, int64_t> live;
  for_each_pair(plan, group, [&](int32_t pass, int64_t, int64_t) { ++live[pass]; });
  const HeadGroup& heads = plan.groups[static_cast<size_t>(group)];
  for (int32_t p = heads.pass_begin; p < heads.pass_end; ++p) {
    const Pass& pass = plan.passes[static_cast<size_t>(p)];
    if (pass.live_pairs != live[p]) {
      return concat("pass ", p, " says ", pass.live_pairs, " live pairs, has ", live[p]);
    }
    if (pass.computed_pairs < pass.live_pairs) return "fewer computed pairs than live ones";
  }
  return "";
}

std::string check_group(const Plan& plan, int64_t group) {
  const HeadGroup& heads = plan.groups[static_cast<size_t>(group)];
  if (heads.pass_begin >= heads.pass_end) return "group without a pass";
  for (int32_t p = heads.pass_begin; p < heads.pass_end; ++p) {
    const Pass& pass = plan.passes[static_cast<size_t>(p)];
    auto error = check_rows(plan, pass, p == heads.pass_begin);
    if (error.empty()) error = check_chains(plan, pass);
    if (!error.empty()) return error;
  }
  const auto error = check_pairs(plan, group);
  return error.empty() ? check_counts(plan, group) : error;
}

}  // namespace

std::string check_plan(const Plan& plan) {
  std::vector<int64_t> heads(plan.groups.size());
  for (const int32_t group : plan.head_group) ++heads.at(static_cast<size_t>(group));
  for (size_t group = 0; group < plan.groups.size(); ++group) {
    if (heads[group] != plan.groups[group].heads) return "wrong number of heads in a group";
    const auto error = check_group(plan, static_cast<int64_t>(group));
    if (!error.empty()) return error;
  }
  return "";
}

std::string check_pattern(const std::string& pattern, int64_t heads, int64_t q_len, int64_t k_len,
                          TileShape tile) {
  const BoundPattern bound = Pattern::parse(pattern).bind(heads, q_len, k_len);
  std::string errors;
  for (const bool transposed : {false, true}) {
    const auto error = check_plan(compile(bound, tile, transposed));
    if (error.empty()) continue;
    errors += concat(pattern, transposed ? " transposed" : "", " q_len ", q_len, " k_len ", k_len,
                     " tile ", tile.owners, "x", tile.others, ": ", error, "\n");
  }
  return errors;
}

}  // namespace lace::testing
