#pragma once

#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/pairs.cuh"

namespace lace::cuda::portable {

// The instructions of sm_80 that the kernels are made of (PTX ISA, "Matrix fragments for
// mma.m16n8k16"). A thread of a warp has g = lane / 4 and c = 2 · (lane % 4). A 16 × 8 accumulator
// holds (g, c), (g, c + 1), (g + 8, c), (g + 8, c + 1).

inline __device__ uint32_t smem_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Four 8 × 8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8.
inline __device__ void load_matrices(uint32_t (&out)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address));
}
inline __device__ void load_matrices_transposed(uint32_t (&out)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address));
}

// d += a b, a 16 × 16, b 16 × 8.
template <typename T>
__device__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <>
inline __device__ void multiply<__nv_bfloat16>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                               uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
inline __device__ void multiply<__half>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                        uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 16 bytes to shared memory, zeros unless `valid`.
inline __device__ void copy_async(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}
// 8 bytes likewise.
inline __device__ void copy_async_8(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(from),
               "r"(valid ? 8 : 0)
               : "memory");
}
inline __device__ void wait_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// A tile of rows of kDim elements in shared memory, its 16-byte granules swizzled so that the eight
// rows of a matrix lie in different banks.
template <int kDim>
struct SmemTile {
  static constexpr int kGranules = kDim / 8;
  uint32_t base;

  __device__ uint32_t granule(int row, int index) const {
    const int swizzle = kGranules >= 8 ? row & 7 : (row >> 1) & 3;
    return base + static_cast<uint32_t>((row * kGranules + (index ^ swizzle)) * 16);
  }
  // The 16 × 16 block at (row, 8 · index) as a left operand.
  __device__ void left(uint32_t (&out)[4], int row, int index, int lane) const {
    load_matrices(out, granule(row + (lane & 15), index + (lane >> 4)));
  }
  // Rows [row, row + 16) as 16 columns of a right operand, over the 16 elements from 8 · index on:
  // out[0..1] for the first 8 columns, out[2..3] for the others.
  __device__ void right(uint32_t (&out)[4], int row, int index, int lane) const {
    load_matrices(out, granule(row + (lane & 7) + ((lane >> 4) << 3), index + ((lane >> 3) & 1)));
  }
  // Columns [8 · index, 8 · index + 16) as 16 rows of a left operand, over the 16 rows from `row`
  // on.
  __device__ void left_inner(uint32_t (&out)[4], int row, int index, int lane) const {
    load_matrices_transposed(
        out, granule(row + (lane & 7) + ((lane >> 4) << 3), index + ((lane >> 3) & 1)));
  }
  // Rows [row, row + 16) as the inner dimension of a right operand of the 16 columns from
  // 8 · index on.
  __device__ void right_inner(uint32_t (&out)[4], int row, int index, int lane) const {
    load_matrices_transposed(out, granule(row + (lane & 15), index + (lane >> 4)));
  }
  __device__ void store(int row, int index, const uint4& words) const {
    asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(granule(row, index)), "r"(words.x),
                 "r"(words.y), "r"(words.z), "r"(words.w)
                 : "memory");
  }
  __device__ uint4 load(int row, int index) const {
    uint4 words;
    asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
                 : "r"(granule(row, index))
                 : "memory");
    return words;
  }
  // Columns 8 · index + 2 · (lane % 4) and the next of a row.
  __device__ void store_pair(int row, int index, int lane, uint32_t pair) const {
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(granule(row, index) + 4 * (lane & 3)), "r"(pair)
                 : "memory");
  }
};

// sums[r][j] += the 16 rows of `left` from row + 16 r on times the 8 rows of `right` from
// column + 8 j on, over all kDim elements.
template <typename T, int kRowTiles, int kColumnTiles, int kDim>
__device__ void add_scores(float (&sums)[kRowTiles][kColumnTiles][4], SmemTile<kDim> left, int row,
                           SmemTile<kDim> right, int column, int lane) {
#pragma unroll
  for (int d = 0; d < kDim / 16; d++) {
    uint32_t a[kRowTiles][4];
#pragma unroll
    for (int r = 0; r < kRowTiles; r++) left.left(a[r], row + 16 * r, 2 * d, lane);
#pragma unroll
    for (int j = 0; j < kColumnTiles / 2; j++) {
      uint32_t b[4];
      right.right(b, column + 16 * j, 2 * d, lane);
#pragma unroll
      for (int r = 0; r < kRowTiles; r++) {
        multiply<T>(sums[r][2 * j], a[r], b[0], b[1]);
        multiply<T>(sums[r][2 * j + 1], a[r], b[2], b[3]);
      }
    }
  }
}

// Accumulators as left operands of 16 columns each.
template <typename T, int kRowTiles, int kColumnTiles>
__device__ void pack_left(uint32_t (&out)[kRowTiles][kColumnTiles / 2][4],
                          const float (&values)[kRowTiles][kColumnTiles][4]) {
#pragma unroll
  for (int r = 0; r < kRowTiles; r++) {
#pragma unroll
    for (int j = 0; j < kColumnTiles; j++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        out[r][j / 2][2 * (j & 1) + half] =
            pack<T>(values[r][j][2 * half], values[r][j][2 * half + 1]);
      }
    }
  }
}

// sums[r][j] += weights[r] times the 16 · kInner rows of `right` from `row` on, columns
// 8 · (index + j).
template <typename T, int kRowTiles, int kInner, int kColumnTiles, int kDim>
__device__ void add_weighted(float (&sums)[kRowTiles][kColumnTiles][4],
                             const uint32_t (&weights)[kRowTiles][kInner][4], SmemTile<kDim> right,
                             int row, int index, int lane) {
#pragma unroll
  for (int i = 0; i < kInner; i++) {
#pragma unroll
    for (int j = 0; j < kColumnTiles / 2; j++) {
      uint32_t b[4];
      right.right_inner(b, row + 16 * i, index + 2 * j, lane);
#pragma unroll
      for (int r = 0; r < kRowTiles; r++) {
        multiply<T>(sums[r][2 * j], weights[r][i], b[0], b[1]);
        multiply<T>(sums[r][2 * j + 1], weights[r][i], b[2], b[3]);
      }
    }
  }
}

}  // namespace lace::cuda::portable
