#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cute/arch/copy_sm90_tma.hpp>
#include <cute/arch/mma_sm90_gmma.hpp>
#include <cutlass/arch/barrier.h>
#include <cutlass/arch/reg_reconfig.h>

#include "kernels/cuda/pairs.cuh"

// What the Hopper kernels share: tiles of 128-byte rows in shared memory, their descriptors, warp
// group products, barriers, reductions over a quad.

namespace lace::sm90 {

using cuda::pack;
using Barrier = cutlass::arch::ClusterTransactionBarrier;

// A tile of `rows` rows of head_dim 64 · n lies in shared memory as n slices [rows][64], each row
// 128 bytes, swizzled by 128 bytes, its start a multiple of 1024 bytes.
__device__ inline uint64_t tile_descriptor(uint32_t smem_address, uint32_t slice_bytes) {
  const uint64_t start = smem_address >> 4;
  const uint64_t leading = slice_bytes >> 4;  // between slices; read of transposed operands only
  const uint64_t stride = 1024 >> 4;          // between groups of 8 rows
  const uint64_t swizzle_128b = 1;
  return start | (leading << 16) | (stride << 32) | (swizzle_128b << 62);
}

// The descriptor `bytes` further on. Shared memory is so small that the low word never overflows.
__device__ inline uint64_t advance(uint64_t descriptor, uint32_t bytes) {
  const uint32_t low = static_cast<uint32_t>(descriptor) + (bytes >> 4);
  return descriptor >> 32 << 32 | low;
}

namespace detail {

namespace gmma = cute::SM90::GMMA;
inline constexpr auto kK = gmma::Major::K;
inline constexpr auto kMn = gmma::Major::MN;

// The instruction for 64 × kN × 16.
template <typename Element, int kN>
struct Instruction;
template <>
struct Instruction<__nv_bfloat16, 64> {
  using Ss = gmma::MMA_64x64x16_F32BF16BF16_SS<kK, kK>;
  using SsBothTransposed = gmma::MMA_64x64x16_F32BF16BF16_SS<kMn, kMn>;
  using Rs = gmma::MMA_64x64x16_F32BF16BF16_RS<kK, kMn>;
};
template <>
struct Instruction<__nv_bfloat16, 128> {
  using Ss = gmma::MMA_64x128x16_F32BF16BF16_SS<kK, kK>;
  using Rs = gmma::MMA_64x128x16_F32BF16BF16_RS<kK, kMn>;
};
template <>
struct Instruction<__nv_bfloat16, 256> {
  using Rs = gmma::MMA_64x256x16_F32BF16BF16_RS<kK, kMn>;
};
template <>
struct Instruction<__half, 64> {
  using Ss = gmma::MMA_64x64x16_F32F16F16_SS<kK, kK>;
  using SsBothTransposed = gmma::MMA_64x64x16_F32F16F16_SS<kMn, kMn>;
  using Rs = gmma::MMA_64x64x16_F32F16F16_RS<kK, kMn>;
};
template <>
struct Instruction<__half, 128> {
  using Ss = gmma::MMA_64x128x16_F32F16F16_SS<kK, kK>;
  using Rs = gmma::MMA_64x128x16_F32F16F16_RS<kK, kMn>;
};
template <>
struct Instruction<__half, 256> {
  using Rs = gmma::MMA_64x256x16_F32F16F16_RS<kK, kMn>;
};

template <typename Mma, int kCount, size_t... kIndex>
__device__ void issue_ss(uint64_t a, uint64_t b, float (&d)[kCount], bool accumulate,
                         std::index_sequence<kIndex...>) {
  Mma::fma(a, b, d[kIndex]..., accumulate ? gmma::ScaleOut::One : gmma::ScaleOut::Zero);
}
template <typename Mma, int kCount, size_t... kIndex>
__device__ void issue_rs(const uint32_t* a, uint64_t b, float (&d)[kCount],
                         std::index_sequence<kIndex...>) {
  Mma::fma(a[0], a[1], a[2], a[3], b, d[kIndex]..., gmma::ScaleOut::One);
}

}  // namespace detail

// Keeps the compiler from moving what touches these registers across a product in flight.
template <int kCount>
__device__ void fence_registers(float (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) cute::warpgroup_fence_operand(values[i]);
}

// Issues d = a bᵀ for a [64][kDepth] and b [kN][kDepth] in shared memory, slices of a and b
// a_slice and b_slice bytes apart.
template <typename Element, int kN, int kDepth>
__device__ void multiply_transposed(float (&d)[kN / 2], uint64_t a, uint32_t a_slice, uint64_t b,
                                    uint32_t b_slice) {
  using Mma = typename detail::Instruction<Element, kN>::Ss;
#pragma unroll
  for (int k = 0; k < kDepth / 16; ++k) {
    const uint32_t within = (k % 4) * 32;
    detail::issue_ss<Mma>(advance(a, (k / 4) * a_slice + within),
                          advance(b, (k / 4) * b_slice + within), d, k > 0,
                          std::make_index_sequence<kN / 2>());
  }
}

// Issues d += a b for a [64][kDepth] in registers as wgmma wants it and b [kDepth][kN] in shared
// memory.
template <typename Element, int kN, int kDepth>
__device__ void multiply_add(float (&d)[kN / 2], const uint32_t (&a)[kDepth / 4], uint64_t b) {
  using Mma = typename detail::Instruction<Element, kN>::Rs;
#pragma unroll
  for (int k = 0; k < kDepth / 16; ++k) {
    detail::issue_rs<Mma>(&a[4 * k], advance(b, k * 2048), d, std::make_index_sequence<kN / 2>());
  }
}

// Issues d = aᵀ b for a [kDepth][64] and b [kDepth][64] in shared memory, one slice each.
template <typename Element, int kDepth>
__device__ void multiply_both_transposed(float (&d)[32], uint64_t a, uint64_t b) {
  using Mma = typename detail::Instruction<Element, 64>::SsBothTransposed;
#pragma unroll
  for (int k = 0; k < kDepth / 16; ++k) {
    detail::issue_ss<Mma>(advance(a, k * 2048), advance(b, k * 2048), d, k > 0,
                          std::make_index_sequence<32>());
  }
}

// Stores four 8 × 8 matrices of 16-bit elements, as accumulators hold them: lane l gives the
// address of row l % 8 of matrix l / 8.
__device__ inline void store_matrices(uint32_t address, const uint32_t* values) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(values[0]), "r"(values[1]), "r"(values[2]), "r"(values[3])
               : "memory");
}

// Four floats of shared memory, at a multiple of 16 bytes.
__device__ inline float4 load_shared_4(uint32_t address) {
  float4 x;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
               : "r"(address)
               : "memory");
  return x;
}

__device__ inline void store_shared_4(uint32_t address, const float4& x) {
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(x.x), "f"(x.y),
               "f"(x.z), "f"(x.w)
               : "memory");
}
__device__ inline void clear_shared_4(uint32_t address) {
  asm volatile("st.shared.v4.f32 [%0], {%1, %1, %1, %1};" ::"r"(address), "f"(0.f) : "memory");
}

// Copies `bytes`, a multiple of 16, from global to shared memory; `full` counts them.
__device__ inline void copy_bulk(uint32_t target, const void* source, uint32_t bytes,
                                 Barrier& full) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(target),
      "l"(source), "r"(bytes), "r"(cute::cast_smem_ptr_to_uint(&full))
      : "memory");
}
// Adds `bytes` of floats, a multiple of 16, from shared to global memory, in no order that repeats.
// commit_bulk() ends a group of such calls of this thread.
__device__ inline void add_bulk(float* target, uint32_t source, uint32_t bytes) {
  asm volatile(
      "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(target),
      "r"(source), "r"(bytes)
      : "memory");
}
__device__ inline void commit_bulk() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Waits until this thread's groups have read shared memory; have been added.
__device__ inline void wait_until_bulk_is_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}
__device__ inline void wait_until_bulk_is_added() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}
// Orders what others wrote to global memory before copies of it by this thread.
__device__ inline void fence_copies() { asm volatile("fence.proxy.async.global;" ::: "memory"); }

__device__ inline void store_16_bytes(void* target, const uint32_t (&v)[4]) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(target), "r"(v[0]), "r"(v[1]),
               "r"(v[2]), "r"(v[3])
               : "memory");
}

__device__ inline void store_16_bytes(void* target, const float4& v) {
  asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(target), "f"(v.x), "f"(v.y),
               "f"(v.z), "f"(v.w)
               : "memory");
}

// Over the four lanes that share the rows of an accumulator.
__device__ inline float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

// Lane c of a quad holds element c of the columns; afterwards value i of lane c is what lane i had
// in value c.
__device__ inline void quad_transpose(uint32_t (&v)[4], int lane) {
  const bool odd = lane & 1;
  const uint32_t a = __shfl_xor_sync(~0u, odd ? v[0] : v[1], 1);
  const uint32_t b = __shfl_xor_sync(~0u, odd ? v[2] : v[3], 1);
  if (odd) {
    v[0] = a, v[2] = b;
  } else {
    v[1] = a, v[3] = b;
  }
  const bool high = lane & 2;
  const uint32_t c = __shfl_xor_sync(~0u, high ? v[0] : v[2], 2);
  const uint32_t d = __shfl_xor_sync(~0u, high ? v[1] : v[3], 2);
  if (high) {
    v[0] = c, v[1] = d;
  } else {
    v[2] = c, v[3] = d;
  }
}

// A value that is the same in all lanes. ptxas then keeps it, and what is made of it, in uniform
// registers, and does not work out addresses anew between a barrier and the product behind it.
__device__ inline uint32_t uniform(uint32_t x) { return __shfl_sync(~0u, x, 0); }

// Holds always, as scales are positive. ptxas moves what no later branch depends on behind the next
// wait for a product, exponentials above all, so that nothing is left to run beside the product;
// what stands in a branch it leaves there.
__device__ inline bool pin(float scale) { return scale >= 0; }

__device__ inline float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace lace::sm90
