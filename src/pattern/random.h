#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "lace/pattern.h"

namespace lace::pattern {

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): 128 random
// bits for a 128-bit counter under a 64-bit key.
std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, uint64_t key);

// As random_blocks, into `drawn`, whose memory is used again.
void draw_blocks(int64_t count, uint64_t seed, int64_t head, int64_t query_block, int64_t blocks,
                 bool causal, std::vector<int64_t>& drawn);

// Whether random(…) of `head` lets `query` see `key`, causality aside.
bool random_attends(const Atom& atom, int64_t head, bool causal, int64_t k_len, int64_t query,
                    int64_t key);

}  // namespace lace::pattern
