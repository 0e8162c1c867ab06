#pragma once

#include "kernels/decode/cuda/attend.cuh"
#include "kernels/decode/cuda/machine.cuh"
#include "kernels/decode/cuda/product.cuh"
#include "kernels/decode/cuda/step_params.h"

namespace lace::cuda::decode {

// A range of the keys of a query: task number `task` of kLoneKeys.
struct KeyTask {
  __device__ KeyTask(const LoneParams& p, int task) {
    const auto quotient = [](int a, int b) {
      return static_cast<int>(static_cast<unsigned>(a) / static_cast<unsigned>(b));
    };
    head = quotient(task, p.layout.key_splits);
    split = task - head * p.layout.key_splits;
    kv_head = quotient(head, quotient(p.shape.heads, p.shape.kv_heads));
  }

  int head, kv_head, split;
};

// Its keys in a layer of pattern number `pattern`.
struct KeyRange {
  __device__ KeyRange(const LoneParams& p, const int32_t* words, int pattern, const KeyTask& task) {
    const int32_t* entry = words + p.reads + kReadWords * (pattern * p.shape.heads + task.head);
    const int keys = entry[1], each = cover(keys, p.layout.key_splits);
    runs = words + entry[0];
    begin = least(keys, task.split * each);
    end = least(keys, begin + each);
    fresh = entry[2];
  }

  const int32_t* runs;
  int begin, end;
  int fresh;  // the key that is of this step, whose row is not in memory yet; −1: there is none
};

// What a thread that multiplies has of the weights of kLoneChunks chunks: of each the low and the
// high row.
struct WeightPieces {
  uint4 of[kLonePieces];
};

// Where what a block needs of weights and caches lies in shared memory. A group of copies is
// kLonePieces pieces of 16 bytes for each thread that multiplies: two chunks of weights; or of the
// rows that it looks at at once the keys (a group each) or the values. Beside the first group of a
// tile are the biases of its rows, and beside the first of a product that begins with a norm weight
// and bias of that.
template <typename T>
class LoneSlots {
 public:
  static constexpr int kRowGroups = kKeysAhead + 1;
  static_assert(kLonePieces == 2 * kLoneChunks && kLonePieces == 4 && kKeysAhead == 2 &&
                    kKeysAhead == kLoneKeysAhead && kRowGroups < kLoneAhead,
                "keys are a group, the values of both another");

  __device__ explicit LoneSlots(const LoneParams& params) : p_(params) {}

  __device__ uint4* piece(int slot, int piece, int thread) const {
    return reinterpret_cast<uint4*>(shared_memory() + p_.layout.ahead_at) +
           (slot * kLonePieces + piece) * kThreads + thread;
  }
  __device__ T* biases(int slot) const {
    return reinterpret_cast<T*>(shared_memory() + p_.layout.biases_at) + slot * kTileRows;
  }
  // [2, d_model]
  __device__ float* norm(int number) const {
    return reinterpret_cast<float*>(shared_memory() + p_.layout.norms_at) +
           number * 2 * p_.shape.d_model;
  }
  __device__ static int next(int slot) { return slot + 1 == kLoneAhead ? 0 : slot + 1; }
  // Of any kLoneAhead groups in a row four at most begin a norm, as each block has one of ff2 in
  // each layer.
  __device__ static int next_norm(int number) { return number + 1 == kLoneNorms ? 0 : number + 1; }

 private:
  const LoneParams& p_;
};

// The threads of a block that copy, kLoneAhead groups ahead, while the others multiply. All of them
// come to the same barriers: before one a group is waited for, behind the next it has been read,
// and its room is used again when the one after that is behind, where the others have to wait
// anyway.
template <typename T, int kLanes>
class LoneCopier {
 public:
  __device__ LoneCopier(const LoneParams& params, const int32_t* words, const DecodeBlock* blocks,
                        const HeadCache* caches)
      : p_(params),
        s_(params.shape),
        words_(words),
        blocks_(blocks),
        caches_(caches),
        slots_(params),
        own_keys_(params, block()) {}

  // As LoneStep::run().
  __device__ __forceinline__ void run() {
#pragma unroll 1
    for (int kind = 0; kind < kLoneKinds; kind++) {
      if (kind != kLoneKeys) *first_rows(kind) = find_rows(kind, block());
    }
    copy(kLoneAhead);
    int room = 0;  // groups that have been read since
    int pattern = 0;
#pragma unroll 1
    for (int phase = 0; phase < s_.layers * kLoneKinds; phase++) {
      const int layer = phase / kLoneKinds, kind = phase - layer * kLoneKinds;
      int item = block();
      bool first = true;
      // The rounds of all items of this phase, each between two barriers.
#pragma unroll 1
      do {
        const bool any = item < p_.layout.tasks[kind].tiles;
        int rounds = 1, groups = 1;
        if (kind == kLoneKeys) {
          if (!any) break;
          const KeyRange range(p_, words_, pattern, keys_of(item));
          rounds = cover(range.end - range.begin, kKeysAhead * kThreads / kLanes);
          groups = rounds > 0 ? LoneSlots<T>::kRowGroups : 0;
          rounds = rounds > 0 ? rounds : 1;
          if (!first) __syncthreads();
        } else {
          rounds = p_.layout.tasks[kind].groups;
        }
        first = false;
#pragma unroll 1
        for (int round = 0; round < rounds; round++) {
          if (any && groups > 0) wait_before(kLoneAhead - room - groups);
          __syncthreads();
          copy(room);  // while the others wait for what comes from other blocks
          room = 0;
          if (!any) break;
          __syncthreads();
          room = groups;
        }
        item += blocks();
      } while (item < p_.layout.tasks[kind].tiles);
      if (kind + 1 == kLoneKinds && ++pattern == p_.patterns) pattern = 0;
    }
    if (p_.logits != nullptr) __syncthreads();
  }

 private:
  static constexpr int kHalves = kThreads / kLoneCopiers;  // threads that one copies for
  static_assert(kWarps % kHalves == 0 && kLoneCopiers % 32 == 0);

  __device__ static int thread() { return static_cast<int>(threadIdx.x) - kThreads; }
  __device__ static int block() { return static_cast<int>(blockIdx.x); }
  __device__ static int blocks() { return static_cast<int>(gridDim.x); }

  // Until at most `left` groups are on their way.
  __device__ static void wait_before(int left) {
    static_assert(kLoneAhead == 2 * LoneSlots<T>::kRowGroups);
    if (left >= 4) {
      wait_for_copies_before<4>();
    } else if (left >= 2) {
      wait_for_copies_before<2>();
    } else {
      wait_for_copies_before<0>();
    }
  }

  // The next groups, as far as there are any.
  __device__ __forceinline__ void copy(int groups) {
#pragma unroll 1
    for (; groups > 0; groups--) {
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
      free_ = LoneSlots<T>::next(free_);
    }
  }

  // Goes on to the next group that there is.
  __device__ void settle() {
#pragma unroll 1
    while (layer_ < s_.layers) {
      if (item_ >= p_.layout.tasks[kind_].tiles) {
        if (++kind_ == kLoneKinds) {
          kind_ = 0;
          layer_++;
          if (++pattern_ == p_.patterns) pattern_ = 0;
        }
        item_ = block();
      } else if (group_ == groups()) {
        group_ = 0;
        item_ += blocks();
      } else {
        return;
      }
    }
  }

  __device__ KeyTask keys_of(int item) const {
    return item == block() ? own_keys_ : KeyTask(p_, item);
  }

  __device__ int groups() {
    if (kind_ != kLoneKeys) return p_.layout.tasks[kind_].groups;
    if (group_ == 0) {
      const KeyTask task = keys_of(item_);
      const KeyRange range(p_, words_, pattern_, task);
      walk_ = SlotWalk(range.runs);
      key_ = range.begin + thread() / kLanes;
      end_ = range.end;
      fresh_ = range.fresh;
      rows_ = static_cast<const std::byte*>(caches_[layer_ * s_.kv_heads + task.kv_head].rows);
      row_groups_ =
          cover(range.end - range.begin, kKeysAhead * kThreads / kLanes) * LoneSlots<T>::kRowGroups;
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
      const Tile tile = projection_tile(s_, least(item, tasks.tiles - 1)).rows;
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
  // Those of the block's first tile, as whole numbers take long to divide.
  __device__ int2* first_rows(int kind) const {
    return reinterpret_cast<int2*>(shared_memory() + p_.layout.rows_at) + kind * kLoneCopiers +
           thread();
  }

  __device__ void copy_weights() {
    const DecodeBlock& w = blocks_[layer_];
    const FoldedTasks& tasks = p_.layout.tasks[kind_];
    const void* of_kind = kind_ == kLoneQkv    ? w.qkv_weight
                          : kind_ == kLoneProj ? w.proj_weight
                          : kind_ == kLoneFf1  ? w.ff1_weight
                                               : w.ff2_weight;
    const bool first = item_ == block();
    const int2 at = first ? *first_rows(kind_) : find_rows(kind_, item_);
    const T* rows[2] = {static_cast<const T*>(of_kind) + at.x,
                        static_cast<const T*>(of_kind) + at.y};
    const int warp = thread() / 32, t = thread() % 4;
#pragma unroll
    for (int u = 0; u < kLoneChunks; u++) {
#pragma unroll
      for (int half = 0; half < kHalves; half++) {
        const int chunk = warp + half * (kWarps / kHalves) + (kLoneChunks * group_ + u) * kWarps;
        const int column = chunk * kChunk + 8 * t, owner = thread() + half * kLoneCopiers;
        if (column >= tasks.columns) continue;
        copy_async<16>(slots_.piece(free_, 2 * u, owner), rows[0] + column);
        copy_async<16>(slots_.piece(free_, 2 * u + 1, owner), rows[1] + column);
      }
    }
    if (group_ > 0) return;
    if (thread() < kTileRows / 2) copy_biases(w, tasks);
    if ((kind_ == kLoneQkv || kind_ == kLoneFf1) && first) {
      float* to = slots_.norm(norm_);
      copy_norm(to, kind_ == kLoneQkv ? w.norm1_weight : w.norm2_weight);
      copy_norm(to + s_.d_model, kind_ == kLoneQkv ? w.norm1_bias : w.norm2_bias);
      norm_ = LoneSlots<T>::next_norm(norm_);
    }
  }

  // A pair of them a thread: number 2 thread and the next of the tile's rows of weights.
  __device__ void copy_biases(const DecodeBlock& w, const FoldedTasks& tasks) const {
    const int number = 2 * thread();
    T* to = slots_.biases(free_) + number;
    if (kind_ == kLoneQkv) {
      const Tile tile = projection_tile(s_, item_).rows;
      const bool high = number >= 8;
      if (number - (high ? 8 : 0) < (high ? tile.high_count : tile.low_count)) {
        copy_async<4>(to, static_cast<const T*>(w.qkv_bias) + tile.row(number));
      }
      return;
    }
    const void* of_kind = kind_ == kLoneProj  ? w.proj_bias
                          : kind_ == kLoneFf1 ? w.ff1_bias
                                              : w.ff2_bias;
    const int row = tasks.row(item_, 0) + number;
    if (number < 1 << tasks.rows_log() && row < (kind_ == kLoneFf1 ? s_.ff_width : s_.d_model)) {
      copy_async<4>(to, static_cast<const T*>(of_kind) + row);
    }
  }

  __device__ void copy_norm(float* to, const void* from) const {
#pragma unroll 1
    for (int i = thread() * 4; i < s_.d_model; i += kLoneCopiers * 4) {
      copy_async<16>(to + i, static_cast<const float*>(from) + i);
    }
  }

  __device__ void copy_keys_or_values() {
    const int lane = thread() % kLanes;
    if (row_turn_ < kKeysAhead) {
#pragma unroll
      for (int half = 0; half < kHalves; half++) {
        const std::byte* row = nullptr;
        if (key_ < end_ && key_ != fresh_) row = rows_ + walk_.slot(key_) * p_.row_bytes;
        key_ += kLoneCopiers / kLanes;
        if (row_turn_ == 0) row_[half] = row;
        row_[kHalves + half] = row;
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int column = (i * kLanes + lane) * 4;
          if (row != nullptr && column < s_.qk_dim) {
            copy_async<16>(slots_.piece(free_, i, thread() + half * kLoneCopiers),
                           row + column * 4);
          }
        }
      }
      row_turn_++;
    } else {
#pragma unroll
      for (int u = 0; u < kKeysAhead; u++) {
#pragma unroll
        for (int half = 0; half < kHalves; half++) {
          const std::byte* row = row_[u * kHalves + half];
#pragma unroll
          for (int i = 0; i < 2; i++) {
            const int column = (i * kLanes + lane) * 8;
            if (row != nullptr && column < s_.v_dim) {
              copy_async<16>(slots_.piece(free_, 2 * u + i, thread() + half * kLoneCopiers),
                             row + s_.qk_dim * 4 + column * 2);
            }
          }
        }
      }
      row_turn_ = 0;
    }
  }

  const LoneParams& p_;
  const StepShape& s_;
  const int32_t* words_;
  const DecodeBlock* blocks_;
  const HeadCache* caches_;
  const LoneSlots<T> slots_;
  const KeyTask own_keys_;  // of the block's first item
  // The next group to be copied.
  int layer_ = 0, pattern_ = 0, kind_ = 0, item_ = block(), group_ = 0;
  int free_ = 0, norm_ = 0;  // where it goes to
  // Of kLoneKeys: this thread's next key of the range, and the rows whose values come next.
  SlotWalk walk_{nullptr};
  const std::byte *rows_ = nullptr, *row_[kKeysAhead * kHalves] = {};
  int key_ = 0, end_ = 0, fresh_ = -1, row_groups_ = 0, row_turn_ = 0;
};

}  // namespace lace::cuda::decode
