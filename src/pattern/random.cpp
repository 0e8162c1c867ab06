#include "pattern/random.h"

#include <algorithm>
#include <numeric>
#include <tuple>

#include "lace/error.h"

namespace lace::pattern {
namespace {

// Draw number `draw` for one block of queries: uniform in [0, bound), up to a bias of bound / 2^64.
int64_t draw_below(uint64_t seed, int64_t head, int64_t query_block, int64_t draw, int64_t bound) {
  const auto words = philox({static_cast<uint32_t>(query_block), static_cast<uint32_t>(draw),
                             static_cast<uint32_t>(head), 0},
                            seed);
  const uint64_t bits = (static_cast<uint64_t>(words[1]) << 32) | words[0];
  __extension__ using Wide = unsigned __int128;
  return static_cast<int64_t>((static_cast<Wide>(bits) * static_cast<uint64_t>(bound)) >> 64);
}

}  // namespace

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, uint64_t key) {
  uint32_t key0 = static_cast<uint32_t>(key), key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57} * counter[2];
    counter = {
        static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key0, static_cast<uint32_t>(product1),
        static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key1, static_cast<uint32_t>(product0)};
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return counter;
}

// Floyd's sampling without replacement: for m candidates and r draws, draw k picks x uniform in
// [0, m − r + k] and takes it, or m − r + k where x is taken already.
void draw_blocks(int64_t count, uint64_t seed, int64_t head, int64_t query_block, int64_t blocks,
                 bool causal, std::vector<int64_t>& drawn) {
  const int64_t candidates = causal ? query_block + 1 : blocks;
  const int64_t draws = std::min(count, candidates);
  drawn.clear();
  if (draws == candidates) {  // all are taken, in whatever order
    drawn.resize(static_cast<size_t>(draws));
    std::iota(drawn.begin(), drawn.end(), 0);
    return;
  }
  for (int64_t k = 0; k < draws; ++k) {
    const int64_t top = candidates - draws + k;
    const int64_t x = draw_below(seed, head, query_block, k, top + 1);
    const auto place = std::lower_bound(drawn.begin(), drawn.end(), x);
    if (place != drawn.end() && *place == x) {
      drawn.push_back(top);  // larger than all before it
    } else {
      drawn.insert(place, x);
    }
  }
}

bool random_attends(const Atom& atom, int64_t head, bool causal, int64_t k_len, int64_t query,
                    int64_t key) {
  const auto [count, block, seed] = atom.args;
  const int64_t blocks = (k_len + block - 1) / block, query_block = query / block;
  // The loops over pairs ask for one row after the other: keep the last draw of this thread.
  using Key = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, bool>;
  thread_local Key drawn_for{};
  thread_local std::vector<int64_t> drawn;
  const Key wanted{count, seed, head, query_block, blocks, causal};
  if (wanted != drawn_for) {
    drawn = random_blocks(count, static_cast<uint64_t>(seed), head, query_block, blocks, causal);
    drawn_for = wanted;
  }
  return std::binary_search(drawn.begin(), drawn.end(), key / block);
}

}  // namespace lace::pattern

namespace lace {

std::vector<int64_t> random_blocks(int64_t count, uint64_t seed, int64_t head, int64_t query_block,
                                   int64_t blocks, bool causal) {
  LACE_CHECK(count >= 0, "[random_blocks] count must be at least 0, got ", count);
  LACE_CHECK(0 <= query_block && query_block < blocks,
             "[random_blocks] query_block must be in [0, ", blocks, "), got ", query_block);
  std::vector<int64_t> drawn;
  pattern::draw_blocks(count, seed, head, query_block, blocks, causal, drawn);
  return drawn;
}

}  // namespace lace
