#include "kernels/cuda/sm90/sequence_items.h"

#include <algorithm>

namespace lace::sm90 {

std::vector<WorkSection> sections_of(const Work& work, int64_t heads) {
  std::vector<WorkSection> sections;
  const auto most = static_cast<int32_t>(heads);
  for (size_t g = 0; g < work.groups.size(); ++g) {
    const WorkGroup& group = work.groups[g];
    const int32_t count = (group.heads + most - 1) / most;
    for (int32_t i = 0; i < count; ++i) {
      const int32_t begin = group.heads * i / count, end = group.heads * (i + 1) / count;
      sections.push_back({static_cast<int32_t>(g), group.head_begin + begin, end - begin});
    }
  }
  return sections;
}

namespace {

// Tiles of `pass` that the sequences meet. Of rows in a row a tile between the first and the last
// that a sequence meets takes as many of its rows as the smallest of them has.
int64_t most_tiles(const Work& work, const WorkPass& pass, int64_t batch, int64_t rows) {
  const int64_t all = batch * (pass.tile_end - pass.tile_begin);
  int32_t smallest = kOwnerRows, last = -1;
  for (int32_t t = pass.tile_begin; t < pass.tile_end; ++t) {
    const WorkSet& owners = work.tiles[static_cast<size_t>(t)].owners;
    if (owners.outer != 1) return all;
    last = std::max(last, owners.first);
  }
  for (int32_t t = pass.tile_begin; t < pass.tile_end; ++t) {
    const WorkSet& owners = work.tiles[static_cast<size_t>(t)].owners;
    if (owners.first != last) smallest = std::min(smallest, owners.inner);
  }
  return std::min(all, rows / smallest + 2 * batch);
}

}  // namespace

int64_t most_items(const Work& work, int64_t batch, int64_t rows) {
  int64_t items = 0;
  for (const WorkGroup& group : work.groups) {
    for (int32_t p = group.pass_begin; p < group.pass_end; ++p) {
      items += group.heads * most_tiles(work, work.passes[static_cast<size_t>(p)], batch, rows);
    }
  }
  return items;
}

}  // namespace lace::sm90
