#pragma once

#include "kernels/decode/cuda/machine.cuh"
#include "kernels/decode/cuda/tasks.h"
#include "kernels/elementwise/cuda/vectors.cuh"

namespace lace::cuda::decode {

// The slots that runs name, in their order, for keys that are asked for in ascending order.
class SlotWalk {
 public:
  __device__ explicit SlotWalk(const int32_t* runs) : run_(runs) {}

  __device__ int slot(int key) {
#pragma unroll 1
    while (key - before_ >= run_[1] * run_[2]) {
      before_ += run_[1] * run_[2];
      run_ += 4;
    }
    if (run_[2] == 1) return run_[0] + key - before_;
    const auto within = static_cast<unsigned>(key - before_),
               width = static_cast<unsigned>(run_[1]);
    const unsigned stretch = within / width;
    return run_[0] + static_cast<int>(stretch) * run_[3] +
           static_cast<int>(within - stretch * width);
  }

 private:
  const int32_t* run_;  // {first, width, count, stride}
  int before_ = 0;      // keys of the runs before it
};

// Some keys of one query: softmax(scale · q kᵀ) v over keys [begin, end) of `runs`, left as Σ and
// what it is to be divided by. All pointers are of this sequence and head.
struct AttendTask {
  const float* q = nullptr;  // [qk_dim]
  float scale = 1;           // with log₂ e in it
  const int32_t* runs = nullptr;
  int begin = 0, end = 0;
  const std::byte* rows = nullptr;  // of the cache
  int64_t row_bytes = 0;
  int qk_dim = 0, v_dim = 0;
  float* sums = nullptr;    // [v_dim]
  float2* stats = nullptr;  // {highest logit, Σ 2^(logit − highest)}
};

constexpr int kKeysAhead = 2;  // that each group of lanes has in the air

// How keys are dealt to a block: kLanes lanes share one, each with four vectors of four numbers of
// the key, and two of eight of the value.
template <int kLanes>
struct KeyShare {
  static constexpr int kGroups = 32 / kLanes;
  static constexpr int kBlockKeys = kWarps * kGroups;  // that a block looks at at once
  static constexpr int kMostDim = 16 * kLanes;
};

__device__ inline float finite_shift(float most) { return most == -INFINITY ? 0.0f : most; }

// The rows that a group of lanes reads at once, found one round before they are read.
template <int kLanes>
class RowsAhead {
 public:
  // Those of the round that begins with key `first`; null behind the end.
  __device__ void find(const AttendTask& task, SlotWalk& walk, int first) {
#pragma unroll
    for (int u = 0; u < kKeysAhead; u++) {
      const int key = first + u * KeyShare<kLanes>::kBlockKeys;
      row[u] = key < task.end ? task.rows + walk.slot(key) * task.row_bytes : nullptr;
    }
  }
  // Asks memory for them. A row is of no more lines than lanes.
  __device__ void fetch(const AttendTask& task) const {
    const int at = static_cast<int>(threadIdx.x) % kLanes * 128;
#pragma unroll
    for (int u = 0; u < kKeysAhead; u++) {
      if (row[u] != nullptr && at < task.row_bytes) fetch_into_l2(row[u] + at);
    }
  }

  const std::byte* row[kKeysAhead];
};

// Asks for the rows that attend() reads first.
template <int kLanes>
__device__ void fetch_first_rows(const AttendTask& task) {
  SlotWalk walk(task.runs);
  RowsAhead<kLanes> rows;
  rows.find(task, walk, task.begin + static_cast<int>(threadIdx.x) / kLanes);
  rows.fetch(task);
}

// What the lanes that share a key hold of it and of its value, of each key that they look at at
// once. Keys that are not live are zero.
struct KeyVectors {
  float4 keys[kKeysAhead][4];
  uint4 values[kKeysAhead][2];
  bool live[kKeysAhead];
};

// softmax(scale · q kᵀ) v over the keys that are added, by all threads of a block: this lane's
// vector i is of numbers 4 (i kLanes + lane) … of a key, 8 (i kLanes + lane) … of a value.
template <typename T, int kLanes>
class QuerySums {
 public:
  // The query, before all else: load(column) gives four numbers of it.
  template <typename Load>
  __device__ void ask(int qk_dim, float scale, const Load& load) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int column = (i * kLanes + lane()) * 4;
      float4 four = make_float4(0, 0, 0, 0);
      if (column < qk_dim) four = load(column);
      q_[i][0] = four.x * scale, q_[i][1] = four.y * scale;
      q_[i][2] = four.z * scale, q_[i][3] = four.w * scale;
    }
  }

  __device__ void add(const KeyVectors& of) {
    float logits[kKeysAhead];
    float now = most_;
#pragma unroll
    for (int u = 0; u < kKeysAhead; u++) {
      float dot = 0;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        dot += q_[i][0] * of.keys[u][i].x;
        dot += q_[i][1] * of.keys[u][i].y;
        dot += q_[i][2] * of.keys[u][i].z;
        dot += q_[i][3] * of.keys[u][i].w;
      }
#pragma unroll
      for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) {
        dot += __shfl_xor_sync(~0u, dot, lanes);
      }
      logits[u] = of.live[u] ? dot : -INFINITY;
      now = fmaxf(now, logits[u]);
    }
    const float shift = finite_shift(now), kept = power_of_two(most_ - shift);
    most_ = now;
    total_ *= kept;
#pragma unroll
    for (float& x : out_) x *= kept;
#pragma unroll
    for (int u = 0; u < kKeysAhead; u++) {
      const float weight = power_of_two(logits[u] - shift);
      total_ += weight;
#pragma unroll
      for (int i = 0; i < 2; i++) {
        float value[8];
        elementwise::Vector<T, 8>{of.values[u][i]}.unpack_to(value);
#pragma unroll
        for (int c = 0; c < 8; c++) out_[8 * i + c] += weight * value[c];
      }
    }
  }

  // Joins the groups of each warp and leaves its sums in scratch [kWarps, kMergeWords + v_dim].
  __device__ void leave(int v_dim, float* scratch) {
    float highest = most_;
#pragma unroll
    for (int lanes = kLanes; lanes < 32; lanes *= 2) {
      highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, lanes));
    }
    const float kept = power_of_two(most_ - finite_shift(highest));
    total_ *= kept;
#pragma unroll
    for (int lanes = kLanes; lanes < 32; lanes *= 2) total_ += __shfl_xor_sync(~0u, total_, lanes);
#pragma unroll
    for (float& x : out_) x *= kept;
    constexpr int kLeft = 16 * kLanes / 32;  // numbers that a lane ends with
    const int first = share_sums<8, kLanes>();
    float* own = scratch + static_cast<int>(threadIdx.x) / 32 * (kMergeWords + v_dim);
    if (static_cast<int>(threadIdx.x) % 32 == 0) own[0] = highest, own[1] = total_;
    const int column = (first / 8 * kLanes + lane()) * 8 + first % 8;
    if (column >= v_dim) return;
#pragma unroll
    for (int i = 0; i < kLeft; i++) own[kMergeWords + column + i] = out_[i];
  }

 private:
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % kLanes; }

  // Adds up what the groups of a warp have, from 2 · kHalf numbers on: of two groups, kAway lanes
  // apart, one goes on with the first half of them, the other with the second. Gives the number
  // that is out_[0] at the end.
  template <int kHalf, int kAway>
  __device__ int share_sums() {
    if constexpr (kAway < 32) {
      const bool second = (static_cast<int>(threadIdx.x) & kAway) != 0;
#pragma unroll
      for (int i = 0; i < kHalf; i++) {
        const float other = __shfl_xor_sync(~0u, second ? out_[i] : out_[kHalf + i], kAway);
        out_[i] = (second ? out_[kHalf + i] : out_[i]) + other;
      }
      return (second ? kHalf : 0) + share_sums<kHalf / 2, 2 * kAway>();
    }
    return 0;
  }

  float q_[4][4];
  float out_[16] = {};
  float most_ = -INFINITY, total_ = 0;
};

// What the warps of a block have left, joined.
class WarpsJoined {
 public:
  __device__ WarpsJoined(int v_dim, const float* scratch)
      : scratch_(scratch), stride_(kMergeWords + v_dim) {
#pragma unroll
    for (int w = 0; w < kWarps; w++) {
      weights_[w] = scratch_[w * stride_];
      most_ = fmaxf(most_, weights_[w]);
    }
#pragma unroll
    for (int w = 0; w < kWarps; w++) weights_[w] = power_of_two(weights_[w] - finite_shift(most_));
  }

  __device__ float sum(int column) const { return joined(kMergeWords + column); }
  // {highest logit, Σ 2^(logit − highest)}
  __device__ float2 stats() const { return make_float2(most_, joined(1)); }

 private:
  __device__ float joined(int at) const {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; w++) sum += weights_[w] * scratch_[w * stride_ + at];
    return sum;
  }

  const float* scratch_;
  int stride_;
  float weights_[kWarps], most_ = -INFINITY;
};

// By all threads of a block. scratch: [kWarps, kMergeWords + v_dim].
template <typename T, int kLanes>
__device__ void attend(const AttendTask& task, float* scratch) {
  using Share = KeyShare<kLanes>;
  const int warp = static_cast<int>(threadIdx.x) / 32,
            lane = static_cast<int>(threadIdx.x) % kLanes;
  const int group = static_cast<int>(threadIdx.x) % 32 / kLanes;
  const int64_t value_at = static_cast<int64_t>(task.qk_dim) * 4;
  QuerySums<T, kLanes> sums;
  sums.ask(task.qk_dim, task.scale,
           [&](int column) { return __ldcg(reinterpret_cast<const float4*>(task.q + column)); });
  SlotWalk walk(task.runs);
  RowsAhead<kLanes> ahead;
  ahead.find(task, walk, task.begin + warp * Share::kGroups + group);
#pragma unroll 1
  for (int first = task.begin + warp * Share::kGroups; first < task.end;
       first += kKeysAhead * Share::kBlockKeys) {
    KeyVectors vectors;
#pragma unroll
    for (int u = 0; u < kKeysAhead; u++) {
      const std::byte* row = ahead.row[u];
      vectors.live[u] = row != nullptr;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int column = (i * kLanes + lane) * 4;
        vectors.keys[u][i] = make_float4(0, 0, 0, 0);
        if (vectors.live[u] && column < task.qk_dim) {
          vectors.keys[u][i] = __ldcg(reinterpret_cast<const float4*>(row) + column / 4);
        }
      }
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int column = (i * kLanes + lane) * 8;
        vectors.values[u][i] = make_uint4(0, 0, 0, 0);
        if (vectors.live[u] && column < task.v_dim) {
          vectors.values[u][i] =
              __ldcg(reinterpret_cast<const uint4*>(row + value_at) + column / 8);
        }
      }
    }
    ahead.find(task, walk, first + kKeysAhead * Share::kBlockKeys + group);
    ahead.fetch(task);
    sums.add(vectors);
  }
  sums.leave(task.v_dim, scratch);
  __syncthreads();
  const WarpsJoined joined(task.v_dim, scratch);
#pragma unroll 1
  for (int column = static_cast<int>(threadIdx.x); column < task.v_dim; column += kThreads) {
    task.sums[column] = joined.sum(column);
  }
  if (threadIdx.x == 0) *task.stats = joined.stats();
  __syncthreads();  // before scratch is another task's
}

}  // namespace lace::cuda::decode
