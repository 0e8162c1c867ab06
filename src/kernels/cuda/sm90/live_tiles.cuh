#pragma once

#include "kernels/cuda/sm90/live_tiles.h"
#include "kernels/cuda/sm90/size_classes.cuh"

namespace lace::sm90 {

// What list_live_tiles() runs.

inline constexpr int kListThreads = 256, kWarps = kListThreads / 32, kSortThreads = 1024;

// In the place of a mask's name.
inline constexpr int32_t kDeadTile = INT32_MIN, kUnknown = INT32_MIN + 1;

// A tile of owners and its tiles of others that a block looks at together, each by its mask.
struct ListMemory {
  WorkTile tile;
  WorkRun run;
  int32_t masks[kListThreads];
  uint32_t live[kWarps], starts[kWarps], masked[kWarps];  // bits, by tile
};

// Writes the mask of tile t of memory.run, of whose pairs only some may be in live blocks, at place
// `mask` of those of all tiles. Returns its name; kDeadTile where no pair is live, and the plan's
// where all of its pairs are. By a warp.
__device__ inline int32_t cut_tile(const LiveLaunch& launch, const LiveGrid& grid,
                                   const ListMemory& memory, int32_t t, int32_t mask, int lane) {
  const int32_t* offsets = launch.work.offsets;
  const WorkSet &owners = memory.tile.owners, &others = memory.run.others;
  const int32_t shift = t * memory.run.step;
  const int32_t count = count_before(others, offsets, shift, launch.others.length);
  const int32_t of_plan = mask_of(launch.work, memory.run, t);
  const int64_t first_row = static_cast<int64_t>(mask) * launch.owner_rows;
  int32_t flags = 0;
  bool any = false, unchanged = true;
  for (int32_t group = 0; group < launch.owner_rows / 64; ++group) {
    bool dead = true, full = true;
    for (int32_t e = 64 * group + lane; e < 64 * group + 64; e += 32) {
      OtherBits bits;
      const int32_t position =
          e < owners.inner * owners.outer ? position_in(owners, offsets, e) : launch.owners.length;
      if (position < launch.owners.length) {
        bits = live_others(grid, position, others, offsets, shift);
        unchanged &= bits.has_first(count);
        if (of_plan >= 0) {
          const int64_t row = static_cast<int64_t>(of_plan & kMaskIndex) * launch.owner_rows + e;
          const uint4 words = __ldg(reinterpret_cast<const uint4*>(launch.work.mask_rows) + row);
          bits.words[0] &= words.x, bits.words[1] &= words.y;
          bits.words[2] &= words.z, bits.words[3] &= words.w;
        }
        dead &= !bits.any();
        full &= bits.has_first(count);
      }
      reinterpret_cast<uint4*>(launch.mask_rows)[first_row + e] =
          make_uint4(bits.words[0], bits.words[1], bits.words[2], bits.words[3]);
    }
    if (__all_sync(~0u, dead)) {
      flags |= kDeadRows << group;
    } else {
      any = true;
      if (__all_sync(~0u, full)) flags |= kFullRows << group;
    }
  }
  if (!any) return kDeadTile;
  return __all_sync(~0u, unchanged) ? of_plan : mask | flags;
}

// A bit for each tile of the block.
__device__ inline void vote(uint32_t (&bits)[kWarps], bool flag) {
  const uint32_t own = __ballot_sync(~0u, flag);
  if (threadIdx.x % 32 == 0) bits[threadIdx.x / 32] = own;
}

// How many of the first `end` bits are set.
__device__ inline int32_t count_bits(const uint32_t (&bits)[kWarps], int32_t end) {
  int32_t count = 0;
  for (int w = 0; w < kWarps; ++w) count += __popc(bits[w] & OtherBits::below(end - 32 * w));
  return count;
}

// The first bit from `begin` on that is not set.
__device__ inline int32_t end_of_bits(const uint32_t (&bits)[kWarps], int32_t begin) {
  for (int w = begin / 32; w < kWarps; ++w) {
    const uint32_t clear = ~bits[w] & ~OtherBits::below(begin - 32 * w);
    if (clear != 0) return 32 * w + __ffs(static_cast<int>(clear)) - 1;
  }
  return kListThreads;
}

// A block a tile of owners.
__device__ inline void list_tiles(const LiveLaunch& launch, ListMemory& memory) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int lane = thread % 32, warp = thread / 32;
  const int32_t* offsets = launch.work.offsets;
  // The plan's masks come first.
  const int64_t rows = static_cast<int64_t>(launch.mask_count) * launch.owner_rows;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kListThreads + thread; i < rows;
       i += static_cast<int64_t>(gridDim.x) * kListThreads) {
    reinterpret_cast<uint4*>(launch.mask_rows)[i] =
        reinterpret_cast<const uint4*>(launch.work.mask_rows)[i];
  }

  const WorkTile* source = launch.work.tiles + blockIdx.x;
  if (thread < kTileWords) {
    reinterpret_cast<uint32_t*>(&memory.tile)[thread] =
        __ldg(reinterpret_cast<const uint32_t*>(source) + thread);
  }
  LiveSource place = launch.sources[blockIdx.x];
  const LiveGrid grid = live_grid(launch, place.head);
  __syncthreads();
  const WorkTile& tile = memory.tile;
  const BlockRange owners = blocks_of(tile.owners, offsets, 0, launch.owners);
  const bool cuts_owners = may_be_cut(tile.owners, offsets, launch.owners);
  const int32_t run_begin = place.run;
  int32_t tiles = 0;
  for (int32_t r = tile.run_begin; r < tile.run_end; ++r) {
    __syncthreads();  // the run before is read no more
    if (thread < kRunWords) {
      reinterpret_cast<uint32_t*>(&memory.run)[thread] =
          __ldg(reinterpret_cast<const uint32_t*>(launch.work.runs + r) + thread);
    }
    __syncthreads();
    const WorkRun& run = memory.run;
    const bool cuts = cuts_owners || may_be_cut(run, offsets, launch.others);
    for (int32_t begin = 0; begin < run.tiles; begin += kListThreads) {
      const int32_t t = begin + thread;
      int32_t mask = kDeadTile;
      if (t < run.tiles) {
        const Live live =
            live_pairs(grid, owners, blocks_of(run.others, offsets, t * run.step, launch.others));
        if (live == Live::kAll) mask = mask_of(launch.work, run, t);
        if (live == Live::kSome) mask = kUnknown;
      }
      memory.masks[thread] = mask;
      __syncthreads();
      for (int i = warp; i < kListThreads && begin + i < run.tiles; i += kWarps) {
        if (memory.masks[i] != kUnknown) continue;
        const int32_t at = launch.mask_count + place.mask + begin + i;
        const int32_t name = cut_tile(launch, grid, memory, begin + i, at, lane);
        __syncwarp();
        if (lane == 0) memory.masks[i] = name;
      }
      __syncthreads();
      mask = memory.masks[thread];
      const bool live = mask != kDeadTile;
      const bool starts = live && (thread == 0 || memory.masks[thread - 1] == kDeadTile);
      vote(memory.live, live);
      vote(memory.starts, starts);
      vote(memory.masked, live && mask >= 0);
      __syncthreads();
      if (live) {
        const int32_t mask_id = place.mask_id + count_bits(memory.live, thread);
        launch.mask_ids[mask_id] = mask;
        if (starts) {
          const int32_t end = end_of_bits(memory.live, thread);
          const bool masked = count_bits(memory.masked, end) > count_bits(memory.masked, thread);
          launch.runs[place.run + count_bits(memory.starts, thread)] =
              part_of(run, t, end - thread, masked, mask, mask_id);
        }
      }
      const int32_t count = count_bits(memory.live, kListThreads);
      place.mask_id += count, tiles += count;
      place.run += count_bits(memory.starts, kListThreads);
      __syncthreads();  // masks and bits are written again
    }
    if (cuts) place.mask += run.tiles;
  }
  __syncthreads();
  if (thread == 0) {
    WorkTile made = tile;
    made.run_begin = run_begin, made.run_end = place.run;
    made.tiles = tiles;
    made.first_run = place.run > run_begin ? launch.runs[run_begin] : WorkRun{};
    launch.listed[blockIdx.x] = made;
  }
}

// A block a pass: its tiles, those with most tiles of others first.
__device__ inline void sort_tiles(const LiveLaunch& launch, int32_t (&places)[kSizeClasses]) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int lane = thread % 32, warp = thread / 32;
  const WorkPass pass = launch.passes[blockIdx.x];
  const auto class_of = [&](int32_t t) { return size_class(launch.listed[t].tiles); };
  if (thread < kSizeClasses) places[thread] = 0;
  __syncthreads();
  for (int32_t t = pass.tile_begin + thread; t < pass.tile_end; t += kSortThreads) {
    atomicAdd(&places[class_of(t)], 1);
  }
  __syncthreads();
  if (warp == 0) place_classes(places, lane);
  __syncthreads();
  for (int32_t t = pass.tile_begin + warp; t < pass.tile_end; t += kSortThreads / 32) {
    int32_t place = 0;
    if (lane == 0) place = pass.tile_begin + atomicAdd(&places[class_of(t)], 1);
    place = __shfl_sync(~0u, place, 0);
    reinterpret_cast<uint32_t*>(launch.tiles + place)[lane] =
        reinterpret_cast<const uint32_t*>(launch.listed + t)[lane];
  }
}

}  // namespace lace::sm90
