#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <type_traits>
#include <vector>

#include <cuda_runtime_api.h>
#include <ucontext.h>

// A launch of a kernel without a GPU: its threads are fibres of one thread of the CPU, each of
// which runs until it waits for others, in an order drawn anew each time. So barriers that not all
// reach, reads and writes out of bounds and in the wrong order show; memory that is seen late does
// not.
//
// Included before the headers of kernels, which then are C++ of the host.

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __launch_bounds__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)
#define __grid_constant__

namespace lace::emulation {

struct Barrier {
  int size = 0, arrived = 0;
  uint64_t generation = 0;
};

struct Warp {
  Barrier barrier;
  uint32_t words[32][6];  // of its lanes, for one another
};

struct Block {
  uint3 index;
  Barrier barrier, first;  // of all threads, of the first ones
  std::vector<Warp> warps;
  std::byte* shared = nullptr;
};

// A thread's copies into shared memory that it does not wait for, in groups.
struct Copies {
  struct Copy {
    void* to;
    const void* from;
    size_t bytes;
  };
  std::vector<std::vector<Copy>> groups{1};  // the last one has not ended

  void begin(void* to, const void* from, size_t bytes);
  void end_group() { groups.emplace_back(); }
  // Does those of all groups but the last `left` that have ended.
  void wait(size_t left);
};

struct Fiber {
  ucontext_t context;
  Copies copies;
  std::unique_ptr<char[]> stack;
  uint3 thread;
  Block* block = nullptr;
  const Barrier* waits = nullptr;
  uint64_t generation = 0;
  bool done = false;
};

inline Fiber* current = nullptr;
inline ucontext_t scheduler;
inline dim3 grid;

inline std::mt19937 random;

inline void yield() { swapcontext(&current->context, &scheduler); }

inline void wait(Barrier& barrier) {
  if (++barrier.arrived == barrier.size) {
    barrier.arrived = 0;
    ++barrier.generation;
    return;
  }
  current->waits = &barrier;
  current->generation = barrier.generation;
  yield();
}

inline Warp& warp() { return current->block->warps[current->thread.x / 32]; }
inline int lane() { return static_cast<int>(current->thread.x % 32); }

// Runs `kernel` by blocks · threads threads. False if they wait for one another for ever: if they
// are not done after all have had `most_rounds` turns.
bool launch(int blocks, int threads, size_t shared_bytes, uint32_t seed,
            const std::function<void()>& kernel, int most_rounds = 1 << 20);

}  // namespace lace::emulation

#define threadIdx (::lace::emulation::current->thread)
#define blockIdx (::lace::emulation::current->block->index)
#define gridDim (::lace::emulation::grid)

inline void __syncthreads() { lace::emulation::wait(lace::emulation::current->block->barrier); }
int __syncthreads_or(int);

inline void __syncwarp() { lace::emulation::wait(lace::emulation::warp().barrier); }
// `value` of another lane.
template <typename T>
T value_of_lane(T value, int lane) {
  lace::emulation::Warp& warp = lace::emulation::warp();
  std::memcpy(&warp.words[lace::emulation::lane()][0], &value, sizeof(value));
  lace::emulation::wait(warp.barrier);
  std::memcpy(&value, &warp.words[lane][0], sizeof(value));
  lace::emulation::wait(warp.barrier);
  return value;
}
inline float __shfl_xor_sync(unsigned, float value, int mask) {
  return value_of_lane(value, lace::emulation::lane() ^ mask);
}
template <typename T>
T __shfl_sync(unsigned, T value, int lane) {
  return value_of_lane(value, lane);
}
template <typename T>
T __shfl_up_sync(unsigned, T value, int distance) {
  const int lane = lace::emulation::lane();
  return value_of_lane(value, lane < distance ? lane : lane - distance);
}
inline unsigned __ballot_sync(unsigned, bool flag) {
  lace::emulation::Warp& warp = lace::emulation::warp();
  warp.words[lace::emulation::lane()][0] = flag ? 1 : 0;
  lace::emulation::wait(warp.barrier);
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane) bits |= warp.words[lane][0] << lane;
  lace::emulation::wait(warp.barrier);
  return bits;
}
inline bool __all_sync(unsigned mask, bool flag) { return __ballot_sync(mask, flag) == ~0u; }
inline int __popc(unsigned bits) { return std::popcount(bits); }
inline int __ffs(int bits) {
  return bits == 0 ? 0 : std::countr_zero(static_cast<unsigned>(bits)) + 1;
}

template <typename T>
T __ldg(const T* from) {
  return *from;
}
template <typename T>
T __ldcg(const T* from) {
  return *from;
}
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
template <typename T>
T atomicAdd(T* word, std::type_identity_t<T> value) {
  const T before = *word;
  *word += value;
  return before;
}
// Of functions that the kernels under test do not call.
unsigned __byte_perm(unsigned, unsigned, unsigned);
float __uint_as_float(unsigned);
float __fdiv_rn(float, float);
float __fsqrt_rn(float);
