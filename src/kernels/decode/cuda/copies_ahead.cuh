#pragma once

#include "kernels/decode/cuda/attend.cuh"
#include "kernels/decode/cuda/machine.cuh"
#include "kernels/decode/cuda/product.cuh"
#include "kernels/decode/cuda/step_params.h"

namespace lace::cuda::decode {

// A range of the keys of a query.
struct KeyTask {
  int head = 0, kv_head = 0, split = 0;
};

// Its keys in a layer.
struct KeyRange {
  const int32_t* runs = nullptr;
  int begin = 0, end = 0;
  int fresh = -1;  // the key that is of this step; its row is not in memory yet
};

__device__ inline KeyRange key_range(const LoneParams& p, const int32_t* words, int pattern,
                                     const KeyTask& task) {
  const int32_t* entry = words + p.reads + kReadWords * (pattern * p.shape.heads + task.head);
  const int keys = entry[1],
            each = p.layout.key_splits == 16 ? cover(keys, 16) : cover(keys, p.layout.key_splits);
  KeyRange range;
  range.runs = words + entry[0];
  range.begin = least(keys, task.split * each);
  range.end = least(keys, range.begin + each);
  range.fresh = entry[2];
  return range;
}

// What a block has of a phase: items first(), first() + step(), … before end(). What there is to
// know of its first ones is worked out once, as whole numbers take long to divide.
class OwnItems {
 public:
  __device__ explicit OwnItems(const LoneParams& params) : p_(params) {
    head_ = quotient(block(), p_.layout.cluster);
    rank_ = block() - head_ * p_.layout.cluster;
    const bool any = !own(kLoneQkv) || head_ < p_.shape.heads;
    qkv_end_ = !own(kLoneQkv) ? p_.layout.tasks[kLoneQkv].tiles : any ? head_tiles(p_.shape) : 0;
    if (any) projection_ = find_projection(first(kLoneQkv));
    keys_ = find_keys(block());
  }

  __device__ int first(int kind) const { return own(kind) ? rank_ : block(); }
  __device__ int step(int kind) const {
    return own(kind) ? p_.layout.cluster : static_cast<int>(gridDim.x);
  }
  __device__ int end(int kind) const {
    return kind == kLoneQkv ? qkv_end_ : p_.layout.tasks[kind].tiles;
  }
  __device__ ProjectionTile projection(int item) const {
    return item == first(kLoneQkv) ? projection_ : find_projection(item);
  }
  __device__ KeyTask keys(int item) const { return item == block() ? keys_ : find_keys(item); }

  // Of the cluster; some have none.
  __device__ int head() const { return head_; }
  __device__ int rank() const { return rank_; }

 private:
  __device__ static int block() { return static_cast<int>(blockIdx.x); }
  __device__ static int quotient(int a, int b) {
    return static_cast<int>(static_cast<unsigned>(a) / static_cast<unsigned>(b));
  }
  // The items are of the cluster's head.
  __device__ bool own(int kind) const { return p_.layout.cluster > 1 && kind == kLoneQkv; }

  __device__ ProjectionTile find_projection(int item) const {
    return projection_tile(p_.shape, own(kLoneQkv) ? head_tile(p_.shape, head_, item) : item);
  }
  __device__ KeyTask find_keys(int item) const {
    KeyTask task;
    task.head = quotient(item, p_.layout.key_splits);
    task.split = item - task.head * p_.layout.key_splits;
    task.kv_head = quotient(task.head, quotient(p_.shape.heads, p_.shape.kv_heads));
    return task;
  }

  const LoneParams& p_;
  int head_, rank_, qkv_end_;
  ProjectionTile projection_;
  KeyTask keys_;
};

// A thread's share of the weights of kLoneChunks chunks: of each the low and the high row.
struct WeightPieces {
  uint4 of[kLonePieces];
};

// What a block needs of weights and caches, copied into shared memory in the order in which it is
// needed, kLoneAhead groups ahead: each thread copies what it will read itself, so that it waits
// for itself alone. A group is kLonePieces pieces of 16 bytes a thread: two chunks of weights; or
// of the rows that a thread looks at at once the keys (a group each) or the values.
//
// What has been taken makes room for as much, which is asked for before more is taken.
template <typename T, int kLanes>
class CopiesAhead {
 public:
  // words, blocks, caches: as the step has them.
  __device__ CopiesAhead(const LoneParams& params, const OwnItems& items, const int32_t* words,
                         const DecodeBlock* blocks, const HeadCache* caches)
      : p_(params),
        s_(params.shape),
        items_(items),
        words_(words),
        blocks_(blocks),
        caches_(caches),
        item_(items.first(0)) {
#pragma unroll 1
    for (int kind = 0; kind < kLoneKinds; kind++) {
      if (kind != kLoneKeys && items.first(kind) < items.end(kind)) {
        *first_rows(kind) = find_rows(kind, items.first(kind));
      }
    }
  }

  __device__ void take(WeightPieces& pieces) {
    copy();
    wait_for_copies_before<kLoneAhead - 1>();
#pragma unroll
    for (int i = 0; i < kLonePieces; i++) pieces.of[i] = *slot(taken_, i);
    taken_ = next_slot(taken_);
    room_ = 1;
  }

  // Keys key, key + KeyShare::kBlockKeys, … of a range. The one of this step is left out.
  __device__ void take_rows(const KeyRange& range, int key, KeyVectors& vectors) {
    copy();
    wait_for_copies_before<kLoneAhead - kRowGroups>();
    const int lane = thread() % kLanes;
    const int values = next_slot(next_slot(taken_));
#pragma unroll
    for (int u = 0; u < kKeysAhead; u++) {
      const int own = key + u * KeyShare<kLanes>::kBlockKeys;
      vectors.live[u] = own < range.end;
      const bool there = own < range.end && own != range.fresh;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        vectors.keys[u][i] = make_float4(0, 0, 0, 0);
        if (there && (i * kLanes + lane) * 4 < s_.qk_dim) {
          vectors.keys[u][i] = *reinterpret_cast<const float4*>(slot(taken_, i));
        }
      }
#pragma unroll
      for (int i = 0; i < 2; i++) {
        vectors.values[u][i] = make_uint4(0, 0, 0, 0);
        if (there && (i * kLanes + lane) * 8 < s_.v_dim) {
          vectors.values[u][i] = *slot(values, 2 * u + i);
        }
      }
      taken_ = next_slot(taken_);
    }
    taken_ = next_slot(taken_);
    room_ = kRowGroups;
  }

  // Weight and bias [2, d_model] of the norm that begins the product at hand: there once all
  // threads have taken its first group.
  __device__ const float* norm() const { return norm_slot(norm_taken_); }
  __device__ void end_norm() { norm_taken_ = next_norm(norm_taken_); }

 private:
  static constexpr int kRowGroups = kKeysAhead + 1;
  static_assert(kLonePieces == 2 * kLoneChunks && kLonePieces == 4 && kKeysAhead == 2 &&
                    kRowGroups < kLoneAhead,
                "keys are a group, the values of both another");

  __device__ static int thread() { return static_cast<int>(threadIdx.x); }
  __device__ static int warp() { return thread() / 32; }
  __device__ static int next_slot(int slot) { return slot + 1 == kLoneAhead ? 0 : slot + 1; }
  // Of any kLoneAhead groups in a row four at most begin a norm, as each block has one of ff2 in
  // each layer.
  __device__ static int next_norm(int slot) { return slot + 1 == kLoneNorms ? 0 : slot + 1; }

  __device__ uint4* slot(int number, int piece) const {
    return reinterpret_cast<uint4*>(shared_memory() + p_.layout.ahead_at) +
           (number * kLonePieces + piece) * kThreads + thread();
  }
  __device__ float* norm_slot(int number) const {
    return reinterpret_cast<float*>(shared_memory() + p_.layout.norms_at) + number * 2 * s_.d_model;
  }

  // Asks for what there is room for.
  __device__ __forceinline__ void copy() {
#pragma unroll 1
    for (; room_ > 0; room_--) {
      settle();
      if (layer_ < s_.layers) {
        if (kind_ == kLoneKeys) {
          copy_keys_or_values();
        } else {
          copy_weights();
        }
        group_++;
      }
      end_copies();
      free_ = next_slot(free_);
    }
  }

  // Goes on to the next group that there is.
  __device__ void settle() {
#pragma unroll 1
    while (layer_ < s_.layers) {
      if (item_ >= items_.end(kind_)) {
        if (++kind_ == kLoneKinds) {
          kind_ = 0;
          layer_++;
          if (++pattern_ == p_.patterns) pattern_ = 0;
        }
        item_ = items_.first(kind_);
      } else if (group_ == groups()) {
        group_ = 0;
        item_ += items_.step(kind_);
      } else {
        return;
      }
    }
  }

  __device__ int groups() {
    if (kind_ != kLoneKeys) return p_.layout.tasks[kind_].groups;
    if (group_ == 0) {
      const KeyTask task = items_.keys(item_);
      const KeyRange range = key_range(p_, words_, pattern_, task);
      walk_ = SlotWalk(range.runs);
      key_ = range.begin + thread() / kLanes;
      end_ = range.end;
      fresh_ = range.fresh;
      rows_ = static_cast<const std::byte*>(caches_[layer_ * s_.kv_heads + task.kv_head].rows);
      row_groups_ = cover(range.end - range.begin, kKeysAhead * kThreads / kLanes) * kRowGroups;
      row_turn_ = 0;
    }
    return row_groups_;
  }

  // Where in a product's weights this thread's rows of a tile begin, the low and the high one.
  __device__ int2 find_rows(int kind, int item) const {
    const FoldedTasks& tasks = p_.layout.tasks[kind];
    const int lane = thread() % 32;
    // Rows that a tile lacks are others of it: their sums are left out.
    if (kind == kLoneQkv) {
      const Tile tile = items_.projection(item).rows;
      const int low = tile.low + least(lane / 4, tile.low_count - 1);
      const int high = lane / 4 < tile.high_count ? tile.high + lane / 4 : low;
      return make_int2(low * tasks.in(), high * tasks.in());
    }
    const int last = (kind == kLoneFf1 ? s_.ff_width : s_.d_model) - 1;
    int at[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int number = lane / 4 + 8 * half;
      at[half] =
          least(tasks.row(item, number), last) * tasks.in() + tasks.stretch(number) * tasks.columns;
    }
    return make_int2(at[0], at[1]);
  }
  __device__ int2* first_rows(int kind) const {
    return reinterpret_cast<int2*>(shared_memory() + p_.layout.rows_at) + kind * kThreads +
           thread();
  }

  __device__ void copy_weights() {
    const DecodeBlock& w = blocks_[layer_];
    const FoldedTasks& tasks = p_.layout.tasks[kind_];
    const void* of_kind = kind_ == kLoneQkv    ? w.qkv_weight
                          : kind_ == kLoneProj ? w.proj_weight
                          : kind_ == kLoneFf1  ? w.ff1_weight
                                               : w.ff2_weight;
    const int lane = thread() % 32;
    const bool first = item_ == items_.first(kind_);
    const int2 at = first ? *first_rows(kind_) : find_rows(kind_, item_);
    const T* rows[2] = {static_cast<const T*>(of_kind) + at.x,
                        static_cast<const T*>(of_kind) + at.y};
#pragma unroll
    for (int u = 0; u < kLoneChunks; u++) {
      const int column = (warp() + (kLoneChunks * group_ + u) * kWarps) * kChunk + lane % 4 * 8;
      if (column >= tasks.columns) break;
      copy_async<16>(slot(free_, 2 * u), rows[0] + column);
      copy_async<16>(slot(free_, 2 * u + 1), rows[1] + column);
    }
    if ((kind_ == kLoneQkv || kind_ == kLoneFf1) && first && group_ == 0) {
      float* to = norm_slot(norm_free_);
      copy_norm(to, kind_ == kLoneQkv ? w.norm1_weight : w.norm2_weight);
      copy_norm(to + s_.d_model, kind_ == kLoneQkv ? w.norm1_bias : w.norm2_bias);
      norm_free_ = next_norm(norm_free_);
    }
  }

  __device__ void copy_norm(float* to, const void* from) const {
#pragma unroll 1
    for (int i = thread() * 4; i < s_.d_model; i += kThreads * 4) {
      copy_async<16>(to + i, static_cast<const float*>(from) + i);
    }
  }

  __device__ void copy_keys_or_values() {
    const int lane = thread() % kLanes;
    if (row_turn_ < kKeysAhead) {
      const std::byte* row = nullptr;
      if (key_ < end_ && key_ != fresh_) row = rows_ + walk_.slot(key_) * p_.row_bytes;
      key_ += kThreads / kLanes;
      if (row_turn_ == 0) row_[0] = row;
      row_[1] = row;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int column = (i * kLanes + lane) * 4;
        if (row != nullptr && column < s_.qk_dim) copy_async<16>(slot(free_, i), row + column * 4);
      }
      row_turn_++;
    } else {
#pragma unroll
      for (int u = 0; u < kKeysAhead; u++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
          const int column = (i * kLanes + lane) * 8;
          if (row_[u] != nullptr && column < s_.v_dim) {
            copy_async<16>(slot(free_, 2 * u + i), row_[u] + s_.qk_dim * 4 + column * 2);
          }
        }
      }
      row_turn_ = 0;
    }
  }

  const LoneParams& p_;
  const StepShape& s_;
  const OwnItems items_;
  const int32_t* words_;
  const DecodeBlock* blocks_;
  const HeadCache* caches_;
  // The next group to be copied.
  int layer_ = 0, pattern_ = 0, kind_ = 0, item_, group_ = 0;
  int room_ = kLoneAhead;  // groups
  int free_ = 0, taken_ = 0, norm_free_ = 0, norm_taken_ = 0;
  // Of kLoneKeys: this thread's next key of the range, and the rows whose values come next.
  SlotWalk walk_{nullptr};
  const std::byte *rows_ = nullptr, *row_[2] = {nullptr, nullptr};
  int key_ = 0, end_ = 0, fresh_ = -1, row_groups_ = 0, row_turn_ = 0;
};

}  // namespace lace::cuda::decode
