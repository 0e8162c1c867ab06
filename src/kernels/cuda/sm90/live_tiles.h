#pragma once

#include <cstdint>
#include <vector>

#include <cuda_runtime_api.h>

#include "core/context.h"
#include "kernels/cuda/sm90/sets.h"
#include "kernels/cuda/sm90/uploaded_work.h"
#include "kernels/cuda/sm90/work.h"
#include "kernels/kernel.h"

namespace lace::sm90 {

// A plan's work under a mask of blocks, which only the GPU knows (LiveBlocks). Two small kernels
// before the one that works on it write tables as those of the plan: runs of the tiles of others
// that have a live block, and masks for those that have a dead one too. So the kernels of attention
// have nothing to do with blocks.

// Owners or others: position p is in block (p + first) / size.
struct BlockSide {
  int32_t first = 0, size = 1;
  int32_t length = 0;  // positions of the plan
  LACE_HOST_DEVICE int32_t block_of(int32_t position) const { return (position + first) / size; }
};

// Where the results of a tile of owners begin.
struct LiveSource {
  int32_t mask_id = 0;  // one for each tile of others
  int32_t run = 0;
  int32_t mask = 0;  // of tiles that may be cut, from those of the plan on
  int32_t head = 0;  // of the mask
};

// Those of all tiles of a work, and how much they take together.
struct LivePlaces {
  std::vector<LiveSource> sources;
  int64_t mask_ids = 0, runs = 0, masks = 0;
};
// of_each_head: the mask has one for each head, as `work` has a group (make_work).
LivePlaces live_places(const Work& work, const BlockSide& owners, const BlockSide& others,
                       bool of_each_head);

struct LiveLaunch {
  WorkTables work;  // of the plan
  const LiveSource* sources = nullptr;
  const WorkPass* passes = nullptr;
  int32_t tile_count = 0, pass_count = 0;
  int32_t owner_rows = 0, mask_count = 0;  // of the plan's masks
  LiveBlocks blocks;
  BlockSide owners, others;
  bool by_keys = false;  // owners are keys
  // Results.
  WorkTile* listed = nullptr;  // as in the plan
  WorkTile* tiles = nullptr;   // of each pass those with most live tiles first
  WorkRun* runs = nullptr;
  int32_t* mask_ids = nullptr;
  uint32_t* mask_rows = nullptr;
};

// Enqueues on `stream`.
void list_live_tiles(const LiveLaunch& launch, cudaStream_t stream);

// The tables of `of`, which is of `plan`, kept to `blocks`: in `memory`, valid as long as it and
// `uploaded`. Enqueues on context.stream what writes them. Where blocks.heads > 1, `of` has heads
// apart.
WorkTables live_tables(const Context& context, const cuda::UploadedPlan& uploaded,
                       const UploadedWork& of, const Plan& plan, const LiveBlocks& blocks,
                       Workspace& memory);

// About how many bytes they take, before there is a plan: as if it had every pair of rows, in the
// smallest tiles that a kernel has, and nothing off the grid of blocks.
int64_t live_table_bytes(const AttentionShape& shape);

// Whether heads have masks of their own, and so tiles.
inline bool heads_apart(const LiveBlocks& blocks) { return blocks.heads > 1; }

// The owners of `plan`, or its others.
inline BlockSide side_of(const Plan& plan, const LiveBlocks& blocks, bool owners) {
  const bool keys = owners == plan.transposed;
  return {keys ? 0 : blocks.first_query, blocks.size,
          static_cast<int32_t>(owners ? plan.owner_len : plan.other_len)};
}

// ---- what the kernels compute, on the host for tests

// Which pairs are in live blocks.
enum class Live : int32_t { kNone, kSome, kAll };

// Of one head.
struct LiveGrid {
  const bool* live = nullptr;  // [blocks, blocks], queries by keys
  int32_t blocks = 0;
  BlockSide owners, others;
  bool by_keys = false;

  LACE_HOST_DEVICE bool is_live(int32_t owner_block, int32_t other_block) const {
    if (owner_block >= blocks || other_block >= blocks) return false;
    const int64_t query = by_keys ? other_block : owner_block;
    const int64_t at = query * blocks + (by_keys ? owner_block : other_block);
    return read(reinterpret_cast<const uint8_t*>(live) + at) != 0;
  }
};

LACE_HOST_DEVICE inline LiveGrid live_grid(const LiveLaunch& launch, int32_t head) {
  const int64_t of_head = static_cast<int64_t>(launch.blocks.blocks) * launch.blocks.blocks;
  return {launch.blocks.live + head * of_head, launch.blocks.blocks, launch.owners, launch.others,
          launch.by_keys};
}

// Blocks [begin, end), from that of the first position of `set`, moved by `shift`, to that of the
// last one that there is.
struct BlockRange {
  int32_t begin = 0, end = 0;
};
LACE_HOST_DEVICE inline BlockRange blocks_of(const WorkSet& set, const int32_t* offsets,
                                             int32_t shift, const BlockSide& side) {
  const int32_t first = set.first + shift;
  int32_t last = first + offset_of(set, offsets, set.outer - 1) + set.inner - 1;
  if (last >= side.length) last = side.length - 1;
  return {side.block_of(first), side.block_of(last) + 1};
}

// Whether a tile of owners, or one of a run, may be in several blocks: then, and only then,
// live_pairs() may be kSome.
LACE_HOST_DEVICE inline bool may_be_cut(const WorkSet& owners, const int32_t* offsets,
                                        const BlockSide& side) {
  const BlockRange range = blocks_of(owners, offsets, 0, side);
  return range.end - range.begin > 1;
}
LACE_HOST_DEVICE inline bool may_be_cut(const WorkRun& run, const int32_t* offsets,
                                        const BlockSide& side) {
  const WorkSet& set = run.others;
  if (run.tiles <= 1 || run.step % side.size == 0) return may_be_cut(set, offsets, side);
  const bool within_steps = set.outer == 1 && set.inner <= run.step && side.size % run.step == 0 &&
                            (set.first + side.first) % run.step == 0;
  return !within_steps;
}

// Of a tile of owners with one of others, as far as a few look-ups tell: kSome where that does not
// tell.
LACE_HOST_DEVICE inline Live live_pairs(const LiveGrid& grid, const BlockRange& owners,
                                        const BlockRange& others) {
  constexpr int64_t kMost = 16;
  const int32_t count = others.end - others.begin;
  const int64_t blocks = static_cast<int64_t>(owners.end - owners.begin) * count;
  if (owners.end <= owners.begin || count <= 0) return Live::kNone;
  if (blocks > kMost) return Live::kSome;
  int32_t live = 0;
  for (int32_t i = 0; i < blocks; ++i) {
    live += grid.is_live(owners.begin + i / count, others.begin + i % count) ? 1 : 0;
  }
  return live == 0 ? Live::kNone : live == blocks ? Live::kAll : Live::kSome;
}

// Others of a tile: bit f % 32 of word f / 32.
struct OtherBits {
  static constexpr int kWords = kOtherRows / 32;
  uint32_t words[kWords] = {};

  LACE_HOST_DEVICE static uint32_t below(int32_t count) {
    return count >= 32 ? ~0u : count <= 0 ? 0u : (1u << count) - 1;
  }
  LACE_HOST_DEVICE void add(int32_t begin, int32_t end) {
    for (int w = 0; w < kWords; ++w) words[w] |= below(end - 32 * w) & ~below(begin - 32 * w);
  }
  LACE_HOST_DEVICE bool any() const { return (words[0] | words[1] | words[2] | words[3]) != 0; }
  LACE_HOST_DEVICE bool has_first(int32_t count) const {
    bool all = true;
    for (int w = 0; w < kWords; ++w) {
      const uint32_t of_word = below(count - 32 * w);
      all &= (words[w] & of_word) == of_word;
    }
    return all;
  }
};

// The others of `set`, moved by `shift`, that an owner's block is live with.
LACE_HOST_DEVICE inline OtherBits live_others(const LiveGrid& grid, int32_t owner,
                                              const WorkSet& set, const int32_t* offsets,
                                              int32_t shift) {
  OtherBits bits;
  const int32_t own = grid.owners.block_of(owner);
  for (int32_t o = 0; o < set.outer; ++o) {
    const int32_t first = set.first + shift + offset_of(set, offsets, o);
    int32_t i = 0;
    while (i < set.inner && first + i < grid.others.length) {
      const int32_t block = grid.others.block_of(first + i);
      // Positions of the block and the stretch from here on.
      const int64_t of_block = int64_t{block + 1} * grid.others.size - grid.others.first;
      const int64_t left = of_block - (first + i);
      int32_t end = left < set.inner - i ? i + static_cast<int32_t>(left) : set.inner;
      if (first + end > grid.others.length) end = grid.others.length - first;
      if (grid.is_live(own, block)) bits.add(o * set.inner + i, o * set.inner + end);
      i = end;
    }
  }
  return bits;
}

// The mask of tile t of a run, by its name in the plan; −1: none.
LACE_HOST_DEVICE inline int32_t mask_of(const WorkTables& work, const WorkRun& run, int32_t t) {
  if (run.mask_cycle == 0) return -1;
  if (run.mask_cycle == 1) return run.mask_begin;
  return read(work.mask_ids + run.mask_begin + t % run.mask_cycle);
}

// A run of the `tiles` tiles from t on, whose masks are named from mask_ids[mask_id] on; the first
// is `mask`.
LACE_HOST_DEVICE inline WorkRun part_of(const WorkRun& run, int32_t t, int32_t tiles, bool masked,
                                        int32_t mask, int32_t mask_id) {
  WorkRun part = run;
  part.others.first += t * run.step;
  part.tiles = tiles;
  part.mask_cycle = masked ? tiles : 0;
  part.mask_begin = !masked ? 0 : tiles == 1 ? mask : mask_id;
  return part;
}

}  // namespace lace::sm90
