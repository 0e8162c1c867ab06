#pragma once

#include <cmath>
#include <cstdlib>
#include <type_traits>

#include "kernels/cuda/emulation/emulation.h"
#include "kernels/cuda/pairs.cuh"

// In place of src/kernels/decode/cuda/machine.cuh: the same instructions, emulated.

namespace lace::cuda::decode {

inline std::byte* shared_memory() { return emulation::current->block->shared; }

template <typename T>
float half_of(uint32_t word, int half) {
  const float2 pair = unpack<T>(word);
  return half == 0 ? pair.x : pair.y;
}

template <typename T>
void multiply_add(float (&sums)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                  uint32_t b1) {
  emulation::Warp& warp = emulation::warp();
  const int lane = emulation::lane();
  const uint32_t own[6] = {a0, a1, a2, a3, b0, b1};
  std::memcpy(warp.words[lane], own, sizeof(own));
  emulation::wait(warp.barrier);
  // As PTX's "Matrix Fragments for mma.m16n8k16" has them.
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + (i >= 2 ? 8 : 0), column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k) {
      const int pair = k % 8 / 2, late = k >= 8 ? 1 : 0;
      const uint32_t a = warp.words[row % 8 * 4 + pair][(row >= 8 ? 1 : 0) + 2 * late];
      const uint32_t b = warp.words[column * 4 + pair][4 + late];
      sums[i] += half_of<T>(a, k % 2) * half_of<T>(b, k % 2);
    }
  }
  emulation::wait(warp.barrier);
}

inline void fetch_into_l2(const void* address) {
  const volatile char read = *static_cast<const char*>(address);  // it must be there
  static_cast<void>(read);
}

template <int kBytes>
void copy_async(void* to, const void* from) {
  if (reinterpret_cast<uintptr_t>(to) % kBytes != 0) std::abort();
  if (reinterpret_cast<uintptr_t>(from) % kBytes != 0) std::abort();
  emulation::current->copies.begin(to, from, kBytes);
}
inline void end_copies() { emulation::current->copies.end_group(); }
inline void wait_for_copies() {
  end_copies();
  emulation::current->copies.wait(0);
}
template <int kLeft>
void wait_for_copies_before() {
  emulation::current->copies.wait(kLeft);
}

inline void add_released(uint32_t* word, uint32_t value) { *word += value; }
inline uint32_t load_acquired(const uint32_t* word) {
  emulation::yield();
  return *word;
}

template <int kCount>
void sync_first() {
  if (emulation::current->thread.x >= kCount) std::abort();
  emulation::current->block->first.size = kCount;
  emulation::wait(emulation::current->block->first);
}
inline void store_word(uint64_t* to, uint64_t word) {
  if (reinterpret_cast<uintptr_t>(to) % 8 != 0) std::abort();
  emulation::yield();
  *to = word;
}
inline void store_words(uint64_t* to, uint64_t first, uint64_t second) {
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0) std::abort();
  store_word(to, first);
  store_word(to + 1, second);
}
// The two may be of different times.
inline void load_words(const uint64_t* from, uint64_t& first, uint64_t& second) {
  if (reinterpret_cast<uintptr_t>(from) % 16 != 0) std::abort();
  emulation::yield();
  first = from[0];
  emulation::yield();
  second = from[1];
}
inline float power_of_two(float x) { return std::exp2(x); }

}  // namespace lace::cuda::decode
