#pragma once

#include <cstdint>

#include "pattern/key_runs.h"

namespace lace::cpu {

// What a step of decoding computes on one thread, for one instruction set and dtype. An operand is
// what products take: wide, or bf16 where the instruction set has dot products of those.

// out[b, o] (+)= weight[o] · x[b] + bias[o]
struct DecodeProduct {
  const void* weight = nullptr;  // [rows, in] row by row, as `bias` [rows]
  const void* bias = nullptr;    // or null
  int64_t rows = 0, in = 0;
  int64_t batch = 0;
  const void* x = nullptr;  // operands [batch, in]
  void* out = nullptr;      // wide [batch, rows], rows of b `out_stride` apart
  int64_t out_stride = 0;
  bool add = false;  // to what is there, instead of in its place
};

// out = softmax(scale · q kᵀ) v over the rows of a cache that `runs` name; 0 where it names none.
struct DecodeAttention {
  const void* q = nullptr;  // wide [qk_dim]
  double scale = 1;
  const pattern::KeyRun* runs = nullptr;
  int64_t run_count = 0;
  const void* rows = nullptr;  // of the cache: a key, wide, then a value
  int64_t row_bytes = 0;
  int64_t qk_dim = 0, v_dim = 0;  // at most 512
  void* out = nullptr;            // operand [v_dim]
};

struct DecodeFunctions {
  int64_t operand_bytes, wide_bytes, compute_bytes;
  // y = (x − mean) · rstd · weight + bias, all wide [n], y an operand or wide
  void (*norm)(const void* x, const void* weight, const void* bias, double eps, int64_t n, void* y);
  void (*norm_wide)(const void* x, const void* weight, const void* bias, double eps, int64_t n,
                    void* y);
  // Weights in compute, operands as such; and both wide.
  void (*product)(const DecodeProduct&);
  void (*product_wide)(const DecodeProduct&);
  // y = x · σ(1.702 x), x wide [n], y an operand
  void (*gelu)(const void* x, int64_t n, void* y);
  // (a, b) becomes (a cos − b sin, b cos + a sin), in place: head wide [2 · half]
  void (*rotate)(void* head, const void* cos, const void* sin, int64_t half);
  void (*attend)(const DecodeAttention&);
  // y = x, wide [n] to compute; and back
  void (*narrow)(const void* x, int64_t n, void* y);
  void (*widen)(const void* x, int64_t n, void* y);
};

// By dtype; those of an instruction set are to be called only on a machine that has it.
struct DecodeFunctionSet {
  DecodeFunctions float32, bfloat16, float16;
};
extern const DecodeFunctionSet kDecodePortable, kDecodeAvx2, kDecodeAvx512, kDecodeAvx512Bf16;
extern const DecodeFunctions kDecodeFloat64;

}  // namespace lace::cpu
