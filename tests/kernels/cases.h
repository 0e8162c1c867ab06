#pragma once

#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "kernels/kernel.h"
#include "plan/plan.h"

namespace lace::test {

// How the tensors of a case lie in memory.
enum class Layout {
  kContiguous,  // [batch, heads, rows, dim]
  kRowsFirst,   // [batch, rows, heads, dim]
  kFused,       // q, k and v, and their gradients, side by side in the rows of one buffer
  kUnaligned,   // rows dim + 3 apart, from an odd element on
  kReversed,    // inputs with negative row strides
  kShared,      // inputs with batch stride 0
};

// A mask of blocks beside the plan (LiveBlocks), drawn: `share` of them are live.
struct CaseBlocks {
  int64_t size = 0;     // 0: no mask
  int64_t heads = 1;    // or as many as the case
  int64_t missing = 0;  // as many fewer than would cover all positions
  double share = 0.5;
};

struct Case {
  std::string pattern = "dense";
  DType dtype = DType::kFloat32;
  int64_t batch = 1, heads = 2, kv_heads = 2;
  int64_t q_len = 0, k_len = 0;
  int64_t qk_dim = 16, v_dim = 16;
  Layout layout = Layout::kContiguous;
  TileShape tile{64, 64};            // asked of the plan, instead of what the kernel asks
  double magnitude = 1;              // of the elements of q and k
  std::optional<double> scale = {};  // default: 1 / √qk_dim
  double softcap = 0;                // 0: none
  bool dlse = false;                 // the loss depends on lse too
  // One a batch element, with a plan of `plan_len` positions; none: all of q and k. q_len and k_len
  // are the rows in memory, of all sequences together where `packed`.
  std::vector<Sequence> sequences = {};
  bool packed = false;
  int64_t plan_len = 0;
  CaseBlocks blocks = {};

  // Unique in the list, and fit for the name of a test.
  std::string name() const;
};
void PrintTo(const Case& problem, std::ostream* out);

// The one list: every kernel is compared with the reference on all of it.
std::vector<Case> all_cases();

}  // namespace lace::test
