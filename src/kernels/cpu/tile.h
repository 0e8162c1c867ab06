#pragma once

#include <cstdint>

namespace lace::cpu {

// Elements of the 16-bit dtypes.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// In what form a kernel multiplies the rows of its tensors.
enum class Operands {
  kInPlace,  // floats, read where they are
  kWidened,  // 16-bit elements, turned into floats in scratch
  kPairs,    // bf16, two neighbours at a time; head_dims are even
};

// Owners in a tile: the lanes of every packed operand. A packed operand X^T of a tile is
// [depth][kTileOwners], 64-byte aligned; element (d, e) belongs to owner e.
inline constexpr int kTileOwners = 64;
// Others in a batch: rows reached through pointers, of any tiles of the plan.
inline constexpr int kBatchOthers = 64;
// Owners are skipped in granules of this many lanes, the same for every instruction set.
inline constexpr int kGranule = 16;
inline constexpr int kTileGranules = kTileOwners / kGranule;
// The largest head_dim, of q and k or of v.
inline constexpr int kMaxHeadDim = 512;

// Others [begin, end) of a batch and the granules [granule_begin, granule_end) of owners outside
// which all their pairs are dead. masked: inside, some pair may be dead.
struct Segment {
  int16_t begin, end;
  int8_t granule_begin, granule_end;
  bool masked;
};

// The owners of a tile: lane e is the row at positions[e], −1 if there is none.
struct OwnerLanes {
  int count = 0;      // lanes in use: highest + 1
  uint64_t rows = 0;  // bit e: lane e has a row
  int64_t positions[kTileOwners];
};

// Up to kBatchOthers live rows of others. A row is live if any owner of the tile attends to it, so
// no row of a batch is dead as a whole.
struct OtherBatch {
  int count = 0;
  int segment_count = 0;            // they cover [0, count) in ascending order
  int64_t positions[kBatchOthers];  // of the rows
  uint64_t live[kBatchOthers];      // bit e: the pair with owner e is live
  Segment segments[kBatchOthers / 8];
};

}  // namespace lace::cpu
