#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/sm90/sequence_items.h"
#include "kernels/cuda/sm90/size_classes.cuh"

namespace lace::sm90 {
namespace {

constexpr int kCountThreads = 1024, kListThreads = 256;

// Adds up what lanes of a warp before this one have.
__device__ PhaseItems scan_warp(PhaseItems items, int lane) {
  for (int step = 1; step < 32; step *= 2) {
    const int32_t joined = __shfl_up_sync(~0u, items.joined, step);
    const int32_t last = __shfl_up_sync(~0u, items.last, step);
    if (lane >= step) items.joined += joined, items.last += last;
  }
  return items;
}

// One block: the order of the sequences, and how many items are before each unit.
__global__ void __launch_bounds__(kCountThreads) count_kernel(const SequenceLaunch launch) {
  __shared__ int32_t places[kSizeClasses];
  __shared__ PhaseItems warps[32];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const auto class_of = [&](int32_t s) {
    const Sequence sequence = launch.sequences[s];
    return length_class(launch.owners.of(sequence), launch.others.of(sequence));
  };
  if (thread < kSizeClasses) places[thread] = 0;
  __syncthreads();
  for (int32_t s = thread; s < launch.batch; s += kCountThreads) atomicAdd(&places[class_of(s)], 1);
  __syncthreads();
  if (warp == 0) place_classes(places, lane);
  __syncthreads();
  for (int32_t s = thread; s < launch.batch; s += kCountThreads) {
    launch.ranked[atomicAdd(&places[class_of(s)], 1)] = s;
  }
  __syncthreads();  // what this block wrote is there for all of it

  const int32_t sections = launch.tables.section_count, units = launch.batch * sections;
  PhaseItems carry;
  for (int32_t base = 0; base < units; base += kCountThreads) {
    const int32_t unit = base + thread;
    PhaseItems items;
    if (unit < units) {
      const Sequence sequence = launch.sequences[launch.ranked[unit / sections]];
      items = count_items(launch.tables, launch.tables.sections[unit % sections],
                          launch.owners.of(sequence));
    }
    const PhaseItems through = scan_warp(items, lane);
    if (lane == 31) warps[warp] = through;
    __syncthreads();
    if (warp == 0) warps[lane] = scan_warp(warps[lane], lane);
    __syncthreads();
    PhaseItems before = carry;
    if (warp > 0) before.joined += warps[warp - 1].joined, before.last += warps[warp - 1].last;
    before.joined += through.joined - items.joined, before.last += through.last - items.last;
    if (unit < units) launch.before[unit] = before;
    carry.joined += warps[31].joined, carry.last += warps[31].last;
    __syncthreads();  // warps is written again
  }
  if (thread == 0) {
    launch.before[units] = carry;
    *launch.item_count = carry.joined + carry.last;
  }
}

// How many of the block's threads before this one have `flag`, and in `total` how many do.
__device__ int32_t rank_in_block(bool flag, int32_t (&warps)[kListThreads / 32], int32_t& total) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const uint32_t flags = __ballot_sync(~0u, flag);
  if (lane == 0) warps[warp] = __popc(flags);
  __syncthreads();
  int32_t rank = __popc(flags & ((1u << lane) - 1));
  total = 0;
  for (int w = 0; w < kListThreads / 32; ++w) {
    if (w < warp) rank += warps[w];
    total += warps[w];
  }
  __syncthreads();  // warps is written again
  return rank;
}

// A block a sequence: its items, and what its passes wait for.
__global__ void __launch_bounds__(kListThreads) list_kernel(const SequenceLaunch launch) {
  __shared__ int32_t warps[kListThreads / 32];
  const SequenceTables& tables = launch.tables;
  const auto rank = static_cast<int32_t>(blockIdx.x);
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int32_t s = launch.ranked[rank];
  const Sequence sequence = launch.sequences[s];
  const Extent owners = launch.owners.of(sequence), others = launch.others.of(sequence);
  for (int32_t g = 0; g < tables.group_count; ++g) {
    const WorkGroup& group = tables.groups[g];
    for (int32_t p = group.pass_begin + thread; p < group.pass_end; p += kListThreads) {
      int32_t wait = 0;
      for (int32_t q = group.pass_begin; q < p; ++q) wait += count_tiles(tables, q, owners);
      launch.waits[s * tables.pass_count + p] = wait;
    }
  }
  for (int32_t section = 0; section < tables.section_count; ++section) {
    const WorkSection& of = tables.sections[section];
    const WorkGroup& group = tables.groups[of.group];
    PhaseItems next = start_of_unit(launch.before, launch.batch * tables.section_count,
                                    rank * tables.section_count + section);
    for (int32_t base = 0; base < group.tiles; base += kListThreads) {
      const int32_t tile = group.tile_begin + base + thread;
      const bool inside = base + thread < group.tiles;
      const bool meets =
          inside && may_meet(tables.tiles[tile].owners, tables.offsets, owners.begin, owners.end);
      const bool joined = meets && tables.tiles[tile].count > 0;
      int32_t joined_total = 0, last_total = 0;
      const int32_t of_joined = rank_in_block(joined, warps, joined_total);
      const int32_t of_last = rank_in_block(meets && !joined, warps, last_total);
      if (meets) {
        SequenceItem item = make_item(tables, tile, owners, others);
        SequenceItem* to = launch.items + (joined ? next.joined + of_joined * of.heads
                                                  : next.last + of_last * of.heads);
        for (int32_t h = 0; h < of.heads; ++h) {
          item.head = s * tables.head_count + tables.heads[of.head_begin + h];
          *reinterpret_cast<int4*>(to + h) = reinterpret_cast<const int4&>(item);
        }
      }
      next.joined += joined_total * of.heads, next.last += last_total * of.heads;
    }
  }
}

}  // namespace

void list_items(const SequenceLaunch& launch, cudaStream_t stream) {
  count_kernel<<<1, kCountThreads, 0, stream>>>(launch);
  LACE_CUDA(cudaGetLastError());
  list_kernel<<<static_cast<unsigned>(launch.batch), kListThreads, 0, stream>>>(launch);
  LACE_CUDA(cudaGetLastError());
}

}  // namespace lace::sm90
