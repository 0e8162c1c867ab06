#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "lace/pattern.h"

#include "core/executor.h"

namespace lace {

// A plan says in which tiles and in which order the pairs of a pattern are computed.
//
// A plan has *owners* and *others*. In a forward plan owners are query rows (0 … q_len−1, row 0 is
// the query at position k_len − q_len) and others are keys (0 … k_len−1); in the plan of the
// transposed pattern, which backward runs, owners are keys and others are query rows. A tile of
// owners stays on chip while runs of tiles of others stream past it.

// A two-level affine set of positions. Element e = o · inner + i, 0 <= o < outer, 0 <= i < inner,
// is the position  first + offset(o) + i,  offset(o) = o · outer_stride, or
// Plan::offsets[offsets + o] if offsets >= 0 (offset 0 is then 0).
//   128 rows in a row            inner 128, outer 1
//   every l-th row               inner 1,   outer 128, outer_stride l
//   last c rows of four blocks   inner c,   outer 4,   outer_stride l
// first >= 0 and positions ascend with e, so that the elements at or past the end of the sequence,
// which kernels skip by position, are the last ones.
struct IndexSet {
  int64_t first = 0;
  int64_t outer_stride = 0;
  int32_t inner = 0;
  int32_t outer = 1;
  int32_t offsets = -1;
  int64_t size() const { return static_cast<int64_t>(inner) * outer; }
  bool operator==(const IndexSet&) const = default;
};

// `tiles` tiles of others for one tile of owners: tile t is `others` moved by t · step.
// mask_cycle 0: every pair of every tile is live. Otherwise tile t has the mask
// Plan::mask_ids[mask_begin + t mod mask_cycle], −1 meaning full.
struct Run {
  IndexSet others;
  int64_t step = 0;
  int32_t tiles = 0;
  int32_t mask_begin = 0;
  int32_t mask_cycle = 0;
};

// A tile of owners and its runs [run_begin, run_end) in Plan::runs. No run: the rows are still
// listed (in the first pass), so that out = 0 and lse = −∞ get written. The first pass of a group
// lists every row once, later ones at most once. Runs ascend by first.
// Tiles with equal chain (of one pass) may share others with each other; tiles of different chains
// of one pass never do.
struct OwnerTile {
  IndexSet owners;
  int32_t run_begin = 0;
  int32_t run_end = 0;
  int32_t chain = 0;
};

enum class RowOrder {
  kGlobalRows,  // a subset of owners that see (nearly) everything
  kNatural,     // owners in a row
  kColumns,     // owners are the columns of blocks: inner c, outer_stride l
  kResidue,     // owners of one residue class, or of a few neighbouring ones
};

// Owners and others of a tile, at most. The kernels of one device ask for few different ones.
struct TileShape {
  int32_t owners = 64;
  int32_t others = 64;
  bool operator==(const TileShape&) const = default;
};

// Live bits of a tile: bit (owner e, other f) is words[f · words_per_other + e / 64] >> (e % 64).
// Evaluated for whole tiles, as if the sequence had no end: owners and others are at least those of
// the tiles that use it, which are its first ones.
struct Mask {
  int32_t owners = 0;
  int32_t others = 0;
  int32_t words_per_other = 0;
  std::vector<uint64_t> words;
};

struct Pass {
  RowOrder order = RowOrder::kNatural;
  int64_t period = 0;                    // kColumns, kResidue: l
  int32_t tile_begin = 0, tile_end = 0;  // in Plan::tiles, most work first where that is free
  int64_t live_pairs = 0;                // of one head
  int64_t computed_pairs = 0;            // of one head: whole tiles, owners × others inside the
                                         // sequence's end, others rounded up to 16
};

struct HeadGroup {
  int32_t pass_begin = 0, pass_end = 0;  // in Plan::passes; computed in this order, joined by lse
  int64_t heads = 0;                     // how many heads share it
};

// What the kernels of a device keep with a plan: copies of its arrays in their memory, say. It is
// theirs alone and no part of the plan's value: a copy of a plan starts without.
class PlanAttachment {
 public:
  PlanAttachment() = default;
  PlanAttachment(const PlanAttachment&) {}
  PlanAttachment& operator=(const PlanAttachment&) {
    kept_ = nullptr;
    return *this;
  }

  // What is kept, made by make() -> std::shared_ptr<void> at the first call. Thread-safe.
  template <typename Make>
  std::shared_ptr<void> get(const Make& make) const {
    std::lock_guard lock(mutex_);
    if (!kept_) kept_ = make();
    return kept_;
  }

 private:
  mutable std::mutex mutex_;
  mutable std::shared_ptr<void> kept_;
};

// Immutable after compile; shared between threads.
struct Plan {
  bool transposed = false;
  int64_t heads = 0, owner_len = 0, other_len = 0;
  TileShape tile;                   // as asked
  std::vector<int32_t> head_group;  // [heads] → groups
  std::vector<HeadGroup> groups;
  std::vector<Pass> passes;
  std::vector<OwnerTile> tiles;
  std::vector<Run> runs;
  std::vector<int32_t> mask_ids;  // −1: full
  std::vector<Mask> masks;
  std::vector<int64_t> offsets;
  std::shared_ptr<const BoundPattern> pattern;  // only the reference kernel and tests read it
  double compile_ms = 0;
  PlanAttachment attachment;

  // Bytes of the arrays above.
  int64_t size_bytes() const;
  // Position of element (o, i).
  int64_t position(const IndexSet& set, int32_t o, int32_t i) const {
    const int64_t offset =
        set.offsets >= 0 ? offsets[static_cast<size_t>(set.offsets + o)] : o * set.outer_stride;
    return set.first + offset + i;
  }
};

// Compiles the pattern (or its transpose) for tiles of at most `tile`: for every head, the passes
// of its group cover exactly the pairs of `pattern.attends`, each once.
// tile: owners and others each a multiple of 16 in [16, 256] for kernels; tests ask for any in
// [1, 1024], past which lace::Error is thrown.
// Pairs that passes could share stay with the first of: global rows, natural, columns, residue. The
// pass that lists every row is put first all the same.
// executor: its threads compile different heads; none: this thread. The plan is the same.
Plan compile(const BoundPattern& pattern, TileShape tile, bool transposed,
             const Executor* executor = nullptr);

// compile() through a bounded cache of the process, keyed by the pattern's text (and the content of
// its mask files), heads, lengths, tile and direction. Thread-safe.
std::shared_ptr<const Plan> cached_plan(const Pattern& pattern, int64_t heads, int64_t q_len,
                                        int64_t k_len, TileShape tile, bool transposed);

struct PlanCacheStats {
  int64_t plans = 0, bytes = 0, hits = 0, misses = 0;
};
PlanCacheStats plan_cache_stats();
void clear_plan_cache();

}  // namespace lace
