#pragma once

#include <cmath>

#include "kernels/cuda/portable/items.cuh"
#include "kernels/cuda/portable/softcap.cuh"
#include "kernels/cuda/portable/tile_walk.cuh"

namespace lace::cuda::portable {

// One tile of queries a block; K and V stream past it in chunks, each in one buffer: V is on its
// way while the logits are computed, the next K while they weigh V (FlashAttention-2, Dao 2023).
// A warp has kRowTiles · 16 queries; logits, weights and out stay in registers.
template <int kQkDim, int kVDim>
struct ForwardConfig {
  static constexpr bool kLarge = kQkDim > 128 || kVDim > 128;
  static constexpr bool kSmall = kQkDim <= 64 && kVDim <= 64;
  static constexpr int kWarps = 4;
  static constexpr int kRowTiles = kLarge ? 1 : 2;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kBlocks = kSmall ? 3 : kLarge ? 1 : 2;  // a multiprocessor
  static constexpr int kOwners = 16 * kRowTiles * kWarps;
  static constexpr int kChunk = 64;
  static constexpr int kTileBytes = 2 * (kOwners * kQkDim + kChunk * (kQkDim + kVDim));
  static constexpr int kSmemBytes = kTileBytes + sizeof(WalkMemory<kOwners, kChunk>);
  static_assert(2 * kOwners * kVDim <= kTileBytes);       // out, at the end
  static_assert(kSmemBytes + kOtherMemory <= 99 * 1024);  // for GPUs that have no more for a block
};

// The online softmax of 16 · kRowTiles queries a warp, two of each 16 a thread: maxima and sums of
// the thread's own columns, base 2.
template <int kRowTiles>
struct OnlineSoftmax {
  float row_max[kRowTiles][2], row_sum[kRowTiles][2] = {};

  __device__ OnlineSoftmax() {
#pragma unroll
    for (int r = 0; r < kRowTiles; r++) row_max[r][0] = row_max[r][1] = -INFINITY;
  }

  // Logits become weights 2^(scale · logit − max), and `out` so far is rescaled.
  template <int kColumnTiles, int kOutTiles>
  __device__ void step(float (&logits)[kRowTiles][kColumnTiles][4],
                       float (&out)[kRowTiles][kOutTiles][4], float scale) {
#pragma unroll
    for (int r = 0; r < kRowTiles; r++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float peak = -INFINITY;
#pragma unroll
        for (int j = 0; j < kColumnTiles; j++) {
          peak = fmaxf(peak, fmaxf(logits[r][j][2 * half], logits[r][j][2 * half + 1]));
        }
        peak = fmaxf(peak, __shfl_xor_sync(~0u, peak, 1));
        peak = fmaxf(peak, __shfl_xor_sync(~0u, peak, 2));
        const float next = fmaxf(row_max[r][half], peak * scale);
        const float origin = next == -INFINITY ? 0 : next;
        const float factor = exp2f(row_max[r][half] - origin);
        row_max[r][half] = next;
        float sum = 0;
#pragma unroll
        for (int j = 0; j < kColumnTiles; j++) {
#pragma unroll
          for (int side = 0; side < 2; side++) {
            float& x = logits[r][j][2 * half + side];
            x = exp2f(fmaf(x, scale, -origin));
            sum += x;
          }
        }
        row_sum[r][half] = row_sum[r][half] * factor + sum;
#pragma unroll
        for (int j = 0; j < kOutTiles; j++) {
          out[r][j][2 * half] *= factor;
          out[r][j][2 * half + 1] *= factor;
        }
      }
    }
  }
};

// A block: a tile of queries of one head. All threads call each function.
template <typename T, int kQkDim, int kVDim>
struct ForwardBlock {
  using Config = ForwardConfig<kQkDim, kVDim>;
  using Memory = WalkMemory<Config::kOwners, Config::kChunk>;
  static constexpr int kRowTiles = Config::kRowTiles, kOwners = Config::kOwners;
  static constexpr int kChunk = Config::kChunk, kThreads = Config::kThreads;
  static constexpr int kColumnTiles = kChunk / 8;
  using Logits = float[kRowTiles][kColumnTiles][4];

  const ForwardLaunch& launch;
  const BlockTask& task;
  Memory& memory;
  TileWalk<Memory> walk;
  SmemTile<kQkDim> q_tile, k_tile;
  SmemTile<kVDim> v_tile;
  const int qk_dim, v_dim;
  const int lane, first_row;  // the first of this warp's rows
  const T *k, *v;             // of the key head
  float out[kRowTiles][kVDim / 8][4] = {};
  OnlineSoftmax<kRowTiles> softmax;

  __device__ ForwardBlock(const ForwardLaunch& of, const BlockTask& tile, unsigned char* smem)
      : launch(of),
        task(tile),
        memory(*reinterpret_cast<Memory*>(smem + Config::kTileBytes)),
        walk(memory, of.plan),
        q_tile{smem_address(smem)},
        k_tile{q_tile.base + 2 * kOwners * kQkDim},
        v_tile{k_tile.base + 2 * kChunk * kQkDim},
        qk_dim(static_cast<int>(of.shape.qk_dim)),
        v_dim(static_cast<int>(of.shape.v_dim)),
        lane(static_cast<int>(threadIdx.x) & 31),
        first_row(static_cast<int>(threadIdx.x) / 32 * 16 * kRowTiles) {
    const int kv_head = tile.head / static_cast<int>(of.shape.heads / of.shape.kv_heads);
    k = of.k.head<T>(tile.batch, kv_head);
    v = of.v.head<T>(tile.batch, kv_head);
  }

  __device__ void load_keys(int slot) {
    load_rows<kQkDim, kChunk, kThreads>(k_tile, memory.others[slot], k, launch.k, qk_dim);
  }

  // Asks for the queries and the first keys.
  __device__ void start(const Sequence& sequence) {
    walk.begin(task.tile->source, sequence.q, sequence.k);
    walk.restart(task.tile->source, 2);
    __syncthreads();
    load_rows<kQkDim, kOwners, kThreads>(q_tile, memory.owners,
                                         launch.q.head<T>(task.batch, task.head), launch.q, qk_dim);
    walk.advance(2, 0);
    __syncthreads();
    if (walk.valid(0)) load_keys(0);
  }

  // All chunks of keys.
  __device__ void run() {
    for (int slot = 0; walk.valid(slot); slot ^= 1) {
      wait_copies();
      __syncthreads();
      load_rows<kVDim, kChunk, kThreads>(v_tile, memory.others[slot], v, launch.v, v_dim);
      walk.advance(slot, slot ^ 1);

      const Live live = walk.template live_pairs<16 * kRowTiles, kChunk>(slot, first_row, 0, lane);
      Logits logits = {};
      if (live != Live::kNone) {
        add_scores<T>(logits, q_tile, first_row, k_tile, 0, lane);
      }
      wait_copies();
      __syncthreads();
      if (walk.valid(slot ^ 1)) load_keys(slot ^ 1);
      if (live != Live::kNone) weigh(logits, slot, live);
    }
    wait_copies();
  }

  // Logits become weights, which meet the values.
  __device__ void weigh(Logits& logits, int slot, Live live) {
    if (launch.capped) cap_logits(logits, launch.cap_scale);
#pragma unroll
    for (int r = 0; r < kRowTiles; r++) {
      if (launch.negative) {
#pragma unroll
        for (int j = 0; j < kColumnTiles; j++) {
#pragma unroll
          for (int t = 0; t < 4; t++) logits[r][j][t] = -logits[r][j][t];
        }
      }
      if (live == Live::kSome) {
        walk.template for_dead<kColumnTiles>(slot, first_row + 16 * r + lane / 4, 0, lane,
                                             [&](int j, int t) { logits[r][j][t] = -INFINITY; });
      }
    }
    softmax.step(logits, out, launch.scale);
    uint32_t weights[kRowTiles][kColumnTiles / 2][4];
    pack_left<T>(weights, logits);
    add_weighted<T>(out, weights, v_tile, 0, 0, lane);
  }

  // What passes before left of a row is joined like one key, whose logit is their log-sum-exp.
  __device__ void join(int r, int half, float left_lse, const float* partial) {
    const float lse = left_lse * kLog2E;
    const float top = fmaxf(softmax.row_max[r][half], lse);
    const float origin = top == -INFINITY ? 0 : top;
    const float factor = exp2f(softmax.row_max[r][half] - origin);
    const float weight = exp2f(lse - origin);
    softmax.row_max[r][half] = top;
    softmax.row_sum[r][half] = softmax.row_sum[r][half] * factor + ((lane & 3) == 0 ? weight : 0);
#pragma unroll
    for (int j = 0; j < kVDim / 8; j++) {
      const int column = 8 * j + 2 * (lane & 3);
      if (column >= v_dim) continue;
      const float2 pair = __ldcg(reinterpret_cast<const float2*>(partial + column));
      out[r][j][2 * half] = out[r][j][2 * half] * factor + pair.x * weight;
      out[r][j][2 * half + 1] = out[r][j][2 * half + 1] * factor + pair.y * weight;
    }
  }

  // Joins passes, and leaves each row's result in the tile of the queries, which are read by then.
  __device__ void finish_rows() {
    const SmemTile<kVDim> out_tile{q_tile.base};
    const AttentionShape& shape = launch.shape;
    const int64_t head_rows = head_row(shape, task.batch, shape.heads, task.head, shape.q_len);
#pragma unroll
    for (int r = 0; r < kRowTiles; r++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int in_tile = first_row + 16 * r + 8 * half + lane / 4;
        const int32_t row = memory.owners[in_tile];
        float* partial = launch.partial + (head_rows + row) * v_dim;
        if (row >= 0 && has_earlier(launch.queue, task, in_tile)) {
          join(r, half, __ldcg(launch.lse + head_rows + row), partial);
        }
        __syncwarp();  // the rows of a quad are together again
        float sum = softmax.row_sum[r][half];
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        const float factor = sum > 0 ? 1 / sum : 0;
        const bool later = row >= 0 && has_later(launch.queue, task, in_tile);
        if (row >= 0 && (lane & 3) == 0) {
          launch.lse[head_rows + row] =
              sum > 0 ? (softmax.row_max[r][half] + log2f(sum)) / kLog2E : -INFINITY;
        }
#pragma unroll
        for (int j = 0; j < kVDim / 8; j++) {
          const float low = out[r][j][2 * half] * factor, high = out[r][j][2 * half + 1] * factor;
          out_tile.store_pair(in_tile, j, lane, pack<T>(low, high));
          const int column = 8 * j + 2 * (lane & 3);
          if (later && column < v_dim) *reinterpret_cast<float2*>(partial + column) = {low, high};
        }
      }
    }
  }

  __device__ void finish() {
    wait_for_passes(launch.queue, task, 1);
    __syncthreads();  // the tiles are read
    finish_rows();
    __syncthreads();
    // A later pass stores the rows that it finishes once more.
    if (!is_left(launch.queue, task)) {
      store_rows<kVDim, kOwners, kThreads>(SmemTile<kVDim>{q_tile.base}, memory.owners,
                                           launch.out.head<T>(task.batch, task.head), launch.out,
                                           v_dim);
    }
    tell_done(launch.queue, task);
  }
};

template <typename T, int kQkDim, int kVDim>
__global__ void __launch_bounds__(ForwardConfig<kQkDim, kVDim>::kThreads,
                                  ForwardConfig<kQkDim, kVDim>::kBlocks)
    forward_kernel(const __grid_constant__ ForwardLaunch launch) {
  const BlockTask task = task_of_block(launch.queue, launch.plan, 1, [](int head) { return head; });
  if (task.tile == nullptr) return;
  const Sequence sequence = sequence_of(launch, task.batch);
  if (launch.sequences != nullptr && !may_touch(launch.plan, task.tile->source, sequence.q)) {
    return skip_tile(launch.queue, task, 1);
  }
  extern __shared__ __align__(128) unsigned char smem[];
  ForwardBlock<T, kQkDim, kVDim> block(launch, task, smem);
  block.start(sequence);
  block.run();
  block.finish();
}

}  // namespace lace::cuda::portable
