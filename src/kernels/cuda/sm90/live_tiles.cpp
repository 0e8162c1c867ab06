#include "kernels/cuda/sm90/live_tiles.h"

#include <algorithm>

#include "lace/error.h"

#include "kernels/cuda/sm90/parts.h"

namespace lace::sm90 {
namespace {

// Where the tiles of a work have their results, for blocks of one size.
struct UploadedPlaces {
  LivePlaces places;
  const LiveSource* sources = nullptr;
  const WorkPass* passes = nullptr;
};

}  // namespace

LivePlaces live_places(const Work& work, const BlockSide& owners, const BlockSide& others,
                       bool of_each_head) {
  const int32_t* offsets = work.offsets.data();
  LivePlaces places;
  for (const WorkGroup& group : work.groups) {
    const int32_t head = of_each_head ? work.heads[static_cast<size_t>(group.head_begin)] : 0;
    for (int32_t t = group.tile_begin; t < group.tile_begin + group.tiles; ++t) {
      const WorkTile& tile = work.tiles[static_cast<size_t>(t)];
      places.sources.push_back({static_cast<int32_t>(places.mask_ids),
                                static_cast<int32_t>(places.runs),
                                static_cast<int32_t>(places.masks), head});
      const bool cuts_owners = may_be_cut(tile.owners, offsets, owners);
      for (int32_t r = tile.run_begin; r < tile.run_end; ++r) {
        const WorkRun& run = work.runs[static_cast<size_t>(r)];
        places.mask_ids += run.tiles;
        places.runs += (run.tiles + 1) / 2;  // the tiles between them are dead
        if (cuts_owners || may_be_cut(run, offsets, others)) places.masks += run.tiles;
      }
    }
  }
  return places;
}

WorkTables live_tables(const Context& context, const cuda::UploadedPlan& uploaded,
                       const UploadedWork& of, const Plan& plan, const LiveBlocks& blocks,
                       Workspace& memory) {
  const auto stream = static_cast<cudaStream_t>(context.stream);
  const Work& work = of.work;
  LiveLaunch launch;
  launch.by_keys = plan.transposed;
  launch.owners = side_of(plan, blocks, true);
  launch.others = side_of(plan, blocks, false);
  const auto make = [&](UploadedPlaces& made, cuda::DevicePacker& packer) {
    made.places = live_places(work, launch.owners, launch.others, heads_apart(blocks));
    packer.add(made.places.sources, &made.sources);
    packer.add(work.passes, &made.passes);
  };
  const UploadedPlaces& places = uploaded.table<UploadedPlaces>(
      {work.variant(), blocks.size, blocks.first_query}, stream, make);

  launch.work = of.tables;
  launch.sources = places.sources;
  launch.passes = places.passes;
  launch.tile_count = static_cast<int32_t>(work.tiles.size());
  launch.pass_count = static_cast<int32_t>(work.passes.size());
  launch.owner_rows = work.owner_rows;
  const int64_t mask_words = int64_t{work.owner_rows} * 4;
  launch.mask_count =
      static_cast<int32_t>(static_cast<int64_t>(work.mask_rows.size()) / mask_words);
  launch.blocks = blocks;
  const int64_t masks = launch.mask_count + places.places.masks;
  LACE_CHECK(masks <= most_masks(work.owner_rows) && places.places.mask_ids <= INT32_MAX,
             "[attention] cuda_sm90 keeps plans of up to ", most_masks(work.owner_rows),
             " tiles that are cut to masks of blocks, got ", masks,
             "; LACE_KERNEL=cuda_portable keeps none");
  Parts parts;
  const size_t listed_at = parts.add<WorkTile>(launch.tile_count);
  const size_t tiles_at = parts.add<WorkTile>(launch.tile_count);
  const size_t runs_at = parts.add<WorkRun>(places.places.runs);
  const size_t ids_at = parts.add<int32_t>(places.places.mask_ids);
  const size_t rows_at = parts.add<uint32_t>(masks * mask_words);
  memory = context.allocate(parts.bytes());
  launch.listed = reinterpret_cast<WorkTile*>(memory.get() + listed_at);
  launch.tiles = reinterpret_cast<WorkTile*>(memory.get() + tiles_at);
  launch.runs = reinterpret_cast<WorkRun*>(memory.get() + runs_at);
  launch.mask_ids = reinterpret_cast<int32_t*>(memory.get() + ids_at);
  launch.mask_rows = reinterpret_cast<uint32_t*>(memory.get() + rows_at);
  list_live_tiles(launch, stream);

  WorkTables tables = of.tables;
  tables.tiles = launch.tiles;
  tables.runs = launch.runs;
  tables.mask_ids = launch.mask_ids;
  tables.mask_rows = launch.mask_rows;
  return tables;
}

int64_t live_table_bytes(const AttentionShape& shape) {
  constexpr TileShape kSmallest{128, 64};
  const auto tiles = [](int64_t rows, int64_t of_tile) { return rows / of_tile + 1; };
  const bool cut = shape.block_size % std::max(kSmallest.owners, kSmallest.others) != 0 ||
                   (!shape.sequences && (shape.k_len - shape.q_len) % shape.block_size != 0);
  const int64_t of_tile =
      static_cast<int64_t>(sizeof(WorkRun)) / 2 + 4 + (cut ? kSmallest.owners * 16 : 0);
  return shape.mask_heads * tiles(shape.q_len, kSmallest.owners) *
         tiles(shape.k_len, kSmallest.others) * of_tile;
}

}  // namespace lace::sm90
