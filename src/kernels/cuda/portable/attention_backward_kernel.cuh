#pragma once

#include <cmath>

#include "kernels/cuda/add_global.cuh"
#include "kernels/cuda/portable/items.cuh"
#include "kernels/cuda/portable/softcap.cuh"
#include "kernels/cuda/portable/tile_walk.cuh"

namespace lace::cuda::portable {

// Every half of backward is one loop over a plan: owners x0, x1 stay in shared memory while others
// y0, y1 stream past, and with
//   P  = exp(scale · x0 y0ᵀ − lse),  dS = P ∘ (x1 y1ᵀ − delta)
// (with a softcap, and T = tanh(scale / softcap · x0 y0ᵀ):
//   P  = exp(softcap · T − lse),  dS = P ∘ (1 − T²) ∘ (x1 y1ᵀ − delta))
// the sums  d1 += P y1  (where owners are keys) and  d0 += dS y0  stay in registers. kKeys also
// adds dSᵀ x0 to sums of dq in global memory, atomically: five products. kKeysAlone and kQueries
// add nothing atomically, and a run repeats bit for bit, but scores are computed twice: seven
// products. A warp has 16 · kRowTiles owners and takes kColumns others at a time. Past head_dim 128
// the columns of d0 and d1 are split over kParts blocks, and there is no kKeys.
template <BackwardMode kMode, int kDim0, int kDim1>
struct BackwardConfig {
  static constexpr bool kOwnersAreKeys = kMode != BackwardMode::kQueries;
  static constexpr bool kAddsDq = kMode == BackwardMode::kKeys;
  static constexpr bool kLarge = kDim0 > 128 || kDim1 > 128;
  static constexpr bool kSmall = kDim0 <= 64 && kDim1 <= 64;
  static constexpr int kParts = kLarge && kOwnersAreKeys ? 2 : 1;
  static constexpr int kRowTiles = kSmall ? 2 : 1;
  static constexpr int kWarps = kLarge || kSmall ? 4 : 8;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kBlocks = !kSmall ? 1 : kOwnersAreKeys ? 2 : 3;  // a multiprocessor
  static constexpr int kOwners = 16 * kRowTiles * kWarps;
  static constexpr int kChunk = kLarge ? 32 : 64;
  static constexpr int kColumns = 32;
  static constexpr int kSlots = kAddsDq ? 4 : 3;  // dq of a chunk is added during the next one
  static constexpr int kOwnerBytes = 2 * kOwners * (kDim0 + kDim1);
  static constexpr int kStageBytes = 2 * kChunk * (kDim0 + kDim1);
  static constexpr int kChangesBytes = kAddsDq ? 2 * kOwners * kChunk : 0;  // dS of a chunk
  struct Memory {
    WalkMemory<kOwners, kChunk, kSmall || kLarge, kSlots> walk;
    RowStatistics statistics[2][kChunk];  // of the others, where owners are keys
  };
  static constexpr int smem_bytes(const BackwardBuffers& buffers) {
    return kOwnerBytes + buffers.changes * kChangesBytes + buffers.stages * kStageBytes +
           static_cast<int>(sizeof(Memory));
  }
  static_assert(!(kLarge && kAddsDq));
  // GPUs that have 99 KiB for a block run all but kKeys of head_dim 128.
  static_assert(kAddsDq || smem_bytes({1, 1}) + kOtherMemory <= 99 * 1024);
};

// dq of a chunk's queries: the columns of `changes` times the rows of `keys`, added to `sums` of a
// head. Warps share the 64 queries and the columns of dq.
template <typename T, int kWarps, int kOwners, int kDim>
__device__ void add_dq(SmemTile<64> changes, SmemTile<kDim> keys, const int32_t* queries,
                       float* sums, int lane) {
  constexpr int kColumns = kDim / (kWarps / 2);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int first = warp % 2 * 32, column = warp / 2 * kColumns;
  float dq[2][kColumns / 8][4] = {};
#pragma unroll
  for (int i = 0; i < kOwners / 16; i++) {
    uint32_t a[2][1][4];
#pragma unroll
    for (int r = 0; r < 2; r++) changes.left_inner(a[r][0], 16 * i, first / 8 + 2 * r, lane);
    add_weighted<T>(dq, a, keys, 16 * i, column / 8, lane);
  }
#pragma unroll
  for (int r = 0; r < 2; r++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int32_t row = queries[first + 16 * r + 8 * half + lane / 4];
      if (row < 0) continue;
      float* to = sums + static_cast<int64_t>(row) * kDim + column + 4 * (lane & 3);
#pragma unroll
      for (int m = 0; m < kColumns / 16; m++) {
        add_global(to + 16 * m, {dq[r][2 * m][2 * half], dq[r][2 * m][2 * half + 1],
                                 dq[r][2 * m + 1][2 * half], dq[r][2 * m + 1][2 * half + 1]});
      }
    }
  }
}

// A block: a tile of owners of one head, or part of its columns. All threads call each function.
template <typename T, BackwardMode kMode, int kDim0, int kDim1>
struct BackwardBlock {
  using Config = BackwardConfig<kMode, kDim0, kDim1>;
  using Memory = typename Config::Memory;
  static constexpr bool kKeys = Config::kOwnersAreKeys;
  static constexpr int kOwners = Config::kOwners, kChunk = Config::kChunk;
  static constexpr int kThreads = Config::kThreads, kParts = Config::kParts;
  static constexpr int kRowTiles = Config::kRowTiles, kColumns = Config::kColumns;
  static constexpr int kColumnTiles = kColumns / 8;
  static constexpr int kSumDim0 = kDim0 / kParts, kSumDim1 = kKeys ? kDim1 / kParts : 16;
  using Scores = float[kRowTiles][kColumnTiles][4];
  using Packed = uint32_t[kRowTiles][kColumnTiles / 2][4];

  // What is read of one query head.
  struct Member {
    const T *y0, *y1;
    const RowStatistics* statistics;
    float* dq_sums;
  };

  const BackwardLaunch& launch;
  const BlockTask& task;
  Memory& memory;
  TileWalk<decltype(Memory::walk), kKeys> walk;
  SmemTile<kDim0> x0_tile;
  SmemTile<kDim1> x1_tile;
  uint32_t changes_base, stages_base;
  const int dim0, dim1;
  const int lane, first_row;  // the first of this warp's rows
  Member member{};
  RowStatistics own[kRowTiles][2] = {};  // where owners are queries, of this thread's rows
  float sum0[kRowTiles][kSumDim0 / 8][4] = {};
  float sum1[kRowTiles][kSumDim1 / 8][4] = {};

  __device__ BackwardBlock(const BackwardLaunch& of, const BlockTask& tile, unsigned char* smem)
      : launch(of),
        task(tile),
        memory(*reinterpret_cast<Memory*>(smem + Config::smem_bytes(of.buffers) - sizeof(Memory))),
        walk(memory.walk, of.plan, of.blocks),
        x0_tile{smem_address(smem)},
        x1_tile{x0_tile.base + 2 * kOwners * kDim0},
        changes_base(x0_tile.base + Config::kOwnerBytes),
        stages_base(changes_base + of.buffers.changes * Config::kChangesBytes),
        dim0(static_cast<int>(of.shape.qk_dim)),
        dim1(static_cast<int>(of.shape.v_dim)),
        lane(static_cast<int>(threadIdx.x) & 31),
        first_row(static_cast<int>(threadIdx.x) / 32 * 16 * kRowTiles) {}

  // The first query head of the launch's head.
  static __device__ int query_head(const BackwardLaunch& launch, int head) {
    const int ratio = static_cast<int>(launch.shape.heads / launch.shape.kv_heads);
    return kKeys ? head * ratio + launch.member : head;
  }
  __device__ bool delays_dq() const { return Config::kAddsDq && launch.buffers.changes == 2; }
  __device__ SmemTile<64> changes_at(int step) const {
    const int buffer = delays_dq() ? step & 1 : 0;
    return {changes_base + buffer * Config::kChangesBytes};
  }
  __device__ SmemTile<kDim0> y0_at(int stage) const {
    return {stages_base + stage * Config::kStageBytes};
  }
  __device__ SmemTile<kDim1> y1_at(int stage) const {
    return {y0_at(stage).base + 2 * kChunk * kDim0};
  }

  __device__ void choose_member(int index) {
    const AttentionShape& shape = launch.shape;
    const int head = query_head(launch, task.head) + index;
    const int other_head = kKeys ? head : head / static_cast<int>(shape.heads / shape.kv_heads);
    const int64_t query_rows = head_row(shape, task.batch, shape.heads, head, shape.q_len);
    member = {launch.y0.template head<T>(task.batch, other_head),
              launch.y1.template head<T>(task.batch, other_head), launch.statistics + query_rows,
              Config::kAddsDq ? launch.dq_sums + query_rows * kDim0 : nullptr};
  }

  __device__ void load_owners() {
    load_rows<kDim0, kOwners, kThreads>(x0_tile, memory.walk.owners,
                                        launch.x0.template head<T>(task.batch, task.head),
                                        launch.x0, dim0);
    load_rows<kDim1, kOwners, kThreads>(x1_tile, memory.walk.owners,
                                        launch.x1.template head<T>(task.batch, task.head),
                                        launch.x1, dim1);
  }
  __device__ void load_chunk(int slot, int stage) {
    const int32_t* positions = memory.walk.others[slot];
    load_rows<kDim0, kChunk, kThreads>(y0_at(stage), positions, member.y0, launch.y0, dim0);
    load_rows<kDim1, kChunk, kThreads>(y1_at(stage), positions, member.y1, launch.y1, dim1);
    if (kKeys && threadIdx.x < kChunk) {
      const int32_t row = positions[threadIdx.x];
      copy_async_8(smem_address(&memory.statistics[stage][threadIdx.x]),
                   member.statistics + max(row, 0), row >= 0);
    }
  }
  __device__ void add_chunk(int slot, int step) {
    if constexpr (Config::kAddsDq) {
      add_dq<T, Config::kWarps, kOwners>(changes_at(step), x0_tile, memory.walk.others[slot],
                                         member.dq_sums, lane);
    }
  }

  // Asks for the owners, if this is the first query head, and for the first chunk.
  __device__ void start(int index) {
    if (index > 0) __syncthreads();
    walk.restart(task.tile->source, Config::kSlots - 1, query_head(launch, task.head) + index);
    __syncthreads();
    if (index == 0) load_owners();
    walk.advance(Config::kSlots - 1, 0);
    __syncthreads();
    if (walk.valid(0)) load_chunk(0, 0);
    walk.advance(0, 1);
    if constexpr (!kKeys) load_own_statistics();
  }

  // Of this thread's rows, where owners are queries.
  __device__ void load_own_statistics() {
#pragma unroll
    for (int r = 0; r < kRowTiles; r++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int32_t row = memory.walk.owners[first_row + 16 * r + 8 * half + lane / 4];
        own[r][half] = row >= 0 ? member.statistics[row] : RowStatistics{};
      }
    }
  }

  // All chunks of others of one query head.
  __device__ void run() {
    int slot = 0, before = 0;
    for (int step = 0; walk.valid(slot); step++) {
      const int next = (slot + 1) % Config::kSlots;
      const int stage = launch.buffers.stages == 2 ? step & 1 : 0;
      wait_copies();
      __syncthreads();
      if (launch.buffers.stages == 2 && walk.valid(next)) load_chunk(next, stage ^ 1);
      walk.advance(next, (next + 1) % Config::kSlots);
      if (delays_dq() && step > 0) add_chunk(before, step - 1);
#pragma unroll 1
      for (int first = 0; first < kChunk; first += kColumns) {
        take_columns(slot, stage, first, changes_at(step));
      }
      const bool adds_now = Config::kAddsDq && (!delays_dq() || !walk.valid(next));
      if (launch.buffers.stages == 1 || adds_now) __syncthreads();
      if (launch.buffers.stages == 1 && walk.valid(next)) load_chunk(next, 0);
      if (adds_now) add_chunk(slot, step);
      before = slot, slot = next;
    }
  }

  __device__ RowStatistics statistics_of(int stage, int first, int r, int j, int t) const {
    return kKeys ? memory.statistics[stage][first + 8 * j + 2 * (lane & 3) + (t & 1)]
                 : own[r][t >> 1];
  }

  // kColumns others of a chunk, from `first` on: their part of the sums, and of `changes`.
  __device__ void take_columns(int slot, int stage, int first, SmemTile<64> changes) {
    const Live live =
        walk.template live_pairs<16 * kRowTiles, kColumns>(slot, first_row, first, lane);
    Packed packed = {};
    if (live == Live::kNone) return store_changes(changes, first, packed);
    Scores p = {};
    add_scores<T>(p, x0_tile, first_row, y0_at(stage), first, lane);
    if (launch.capped) {
      weigh_capped(p, packed, slot, stage, first, live);
    } else {
      weigh(p, slot, stage, first, live);
      if constexpr (kKeys) pack_left<T>(packed, p);
    }
    if constexpr (kKeys) {
      add_weighted<T>(sum1, packed, y1_at(stage), first, task.part * kSumDim1 / 8, lane);
    }
    Scores ds = {};
    add_scores<T>(ds, x1_tile, first_row, y1_at(stage), first, lane);
#pragma unroll
    for (int r = 0; r < kRowTiles; r++) {
#pragma unroll
      for (int j = 0; j < kColumnTiles; j++) {
#pragma unroll
        for (int t = 0; t < 4; t++) {
          ds[r][j][t] = p[r][j][t] * (ds[r][j][t] - statistics_of(stage, first, r, j, t).delta);
        }
      }
    }
    pack_left<T>(packed, ds);
    store_changes(changes, first, packed);
    add_weighted<T>(sum0, packed, y0_at(stage), first, task.part * kSumDim0 / 8, lane);
  }

  // Scores become weights.
  __device__ void weigh(Scores& p, int slot, int stage, int first, Live live) {
#pragma unroll
    for (int r = 0; r < kRowTiles; r++) {
#pragma unroll
      for (int j = 0; j < kColumnTiles; j++) {
#pragma unroll
        for (int t = 0; t < 4; t++) {
          p[r][j][t] =
              exp2f(fmaf(p[r][j][t], launch.scale_log2, -statistics_of(stage, first, r, j, t).lse));
        }
      }
      if (live == Live::kSome) {
        walk.template for_dead<kColumnTiles>(slot, first_row + 16 * r + lane / 4, first, lane,
                                             [&](int j, int t) { p[r][j][t] = 0; });
      }
    }
  }

  // The same with a softcap; the weights go to `packed`, and are left times the slopes of the cap.
  __device__ void weigh_capped(Scores& p, Packed& packed, int slot, int stage, int first,
                               Live live) {
    cap_logits(p, launch.cap_scale);
    Scores weights;
#pragma unroll
    for (int r = 0; r < kRowTiles; r++) {
      if (live == Live::kSome) {
        walk.template for_dead<kColumnTiles>(slot, first_row + 16 * r + lane / 4, first, lane,
                                             [&](int j, int t) { p[r][j][t] = -INFINITY; });
      }
#pragma unroll
      for (int j = 0; j < kColumnTiles; j++) {
#pragma unroll
        for (int t = 0; t < 4; t++) {
          float& share = p[r][j][t];
          const float weight =
              exp2f(fmaf(share, launch.scale_log2, -statistics_of(stage, first, r, j, t).lse));
          weights[r][j][t] = weight;
          share = share == -INFINITY ? 0 : weight * slope_of_tanh(share);
        }
      }
    }
    if constexpr (kKeys) pack_left<T>(packed, weights);
  }

  // dS for dq.
  __device__ void store_changes(SmemTile<64> changes, int first, const Packed& packed) {
    if constexpr (Config::kAddsDq) {
#pragma unroll
      for (int r = 0; r < kRowTiles; r++) {
#pragma unroll
        for (int j = 0; j < kColumnTiles; j++) {
          const int row = first_row + 16 * r + lane / 4, index = first / 8 + j;
          changes.store_pair(row, index, lane, packed[r][j / 2][2 * (j & 1)]);
          changes.store_pair(row + 8, index, lane, packed[r][j / 2][2 * (j & 1) + 1]);
        }
      }
    }
  }

  // A gradient leaves through a tile of the owners, which nobody reads any more. partial: of the
  // head's rows.
  template <int kSumDim>
  __device__ void write(const float (&sum)[kRowTiles][kSumDim / 8][4], SmemTile<kSumDim> tile,
                        int dim, float scale, const StridedRows& to, float* partial) {
    const int begin = task.part * kSumDim;
    const AttentionShape& shape = launch.shape;
    const int64_t owner_heads = kKeys ? shape.kv_heads : shape.heads;
    const int64_t head_rows =
        head_row(shape, task.batch, owner_heads, task.head, kKeys ? shape.k_len : shape.q_len);
#pragma unroll
    for (int r = 0; r < kRowTiles; r++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int in_tile = first_row + 16 * r + 8 * half + lane / 4;
        const int32_t row = memory.walk.owners[in_tile];
        const bool earlier =
            row >= 0 && (!launch.first || has_earlier(launch.queue, task, in_tile));
        const bool later = row >= 0 && (!launch.last || has_later(launch.queue, task, in_tile));
#pragma unroll
        for (int j = 0; j < kSumDim / 8; j++) {
          const int column = begin + 8 * j + 2 * (lane & 3);
          float low = sum[r][j][2 * half] * scale, high = sum[r][j][2 * half + 1] * scale;
          auto* before = reinterpret_cast<float2*>(partial + (head_rows + row) * dim + column);
          if (earlier && column < dim) {
            const float2 pair = __ldcg(before);
            low += pair.x;
            high += pair.y;
          }
          if (later && column < dim) *before = {low, high};
          tile.store_pair(in_tile, j, lane, pack<T>(low, high));
        }
      }
    }
    __syncthreads();
    // A later pass or launch stores the rows that it finishes once more.
    if (!launch.last || is_left(launch.queue, task)) return;
    store_rows<kSumDim, kOwners, kThreads>(tile, memory.walk.owners,
                                           to.template head<T>(task.batch, task.head) + begin, to,
                                           dim - begin);
  }

  __device__ void finish() {
    wait_copies();
    wait_for_passes(launch.queue, task, kParts);
    __syncthreads();
    write(sum0, SmemTile<kSumDim0>{x0_tile.base}, dim0, launch.scale, launch.d0, launch.partial0);
    if constexpr (kKeys) {
      write(sum1, SmemTile<kSumDim1>{x1_tile.base}, dim1, 1.0f, launch.d1, launch.partial1);
    }
    tell_done(launch.queue, task);
  }
};

template <typename T, BackwardMode kMode, int kDim0, int kDim1>
__global__ void __launch_bounds__(BackwardConfig<kMode, kDim0, kDim1>::kThreads,
                                  BackwardConfig<kMode, kDim0, kDim1>::kBlocks)
    backward_kernel(const __grid_constant__ BackwardLaunch launch) {
  using Block = BackwardBlock<T, kMode, kDim0, kDim1>;
  const BlockTask task = task_of_block(launch.queue, launch.plan, Block::kParts,
                                       [&](int head) { return Block::query_head(launch, head); });
  if (task.tile == nullptr) return;
  const Sequence sequence = sequence_of(launch, task.batch);
  const Extent& owners = Block::kKeys ? sequence.k : sequence.q;
  if (launch.sequences != nullptr && !may_touch(launch.plan, task.tile->source, owners)) {
    return skip_tile(launch.queue, task, Block::kParts);
  }
  extern __shared__ __align__(128) unsigned char smem[];
  Block block(launch, task, smem);
  block.walk.begin(task.tile->source, owners, Block::kKeys ? sequence.q : sequence.k);
  for (int index = 0; index < launch.members; index++) {
    block.choose_member(index);
    block.start(index);
    block.run();
  }
  block.finish();
}

}  // namespace lace::cuda::portable
