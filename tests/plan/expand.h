#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "plan/plan.h"

namespace lace::testing {

// Calls pair(pass, owner row, other row) for every live pair of a group's passes, as a kernel would
// meet it: elements past the end are skipped. `tile_filter`, where given, chooses tiles of owners.
template <typename PairFunction>
void for_each_pair(const Plan& plan, int64_t group, PairFunction&& pair,
                   const std::function<bool(const OwnerTile&)>& tile_filter = nullptr) {
  const HeadGroup& heads = plan.groups[static_cast<size_t>(group)];
  for (int32_t p = heads.pass_begin; p < heads.pass_end; ++p) {
    const Pass& pass = plan.passes[static_cast<size_t>(p)];
    for (int32_t t = pass.tile_begin; t < pass.tile_end; ++t) {
      const OwnerTile& tile = plan.tiles[static_cast<size_t>(t)];
      if (tile_filter && !tile_filter(tile)) continue;
      for (int32_t r = tile.run_begin; r < tile.run_end; ++r) {
        const Run& run = plan.runs[static_cast<size_t>(r)];
        for (int32_t k = 0; k < run.tiles; ++k) {
          int32_t id = -1;
          if (run.mask_cycle > 0) {
            id = plan.mask_ids[static_cast<size_t>(run.mask_begin + k % run.mask_cycle)];
          }
          for (int64_t f = 0; f < run.others.size(); ++f) {
            const int64_t other =
                plan.position(run.others, static_cast<int32_t>(f / run.others.inner),
                              static_cast<int32_t>(f % run.others.inner)) +
                k * run.step;
            if (other >= plan.other_len) continue;
            for (int64_t e = 0; e < tile.owners.size(); ++e) {
              const int64_t owner =
                  plan.position(tile.owners, static_cast<int32_t>(e / tile.owners.inner),
                                static_cast<int32_t>(e % tile.owners.inner));
              if (owner >= plan.owner_len) continue;
              if (id >= 0) {
                const Mask& mask = plan.masks[static_cast<size_t>(id)];
                const size_t word = static_cast<size_t>(f * mask.words_per_other + e / 64);
                if ((mask.words[word] >> (e % 64) & 1) == 0) continue;
              }
              pair(p, owner, other);
            }
          }
        }
      }
    }
  }
}

// How often a group's passes compute each pair: [owner_len, other_len].
inline std::vector<uint8_t> expand(const Plan& plan, int64_t group) {
  std::vector<uint8_t> counts(static_cast<size_t>(plan.owner_len * plan.other_len));
  for_each_pair(plan, group, [&](int32_t, int64_t owner, int64_t other) {
    ++counts[static_cast<size_t>(owner * plan.other_len + other)];
  });
  return counts;
}

}  // namespace lace::testing
