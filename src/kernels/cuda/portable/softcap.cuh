#pragma once

#include "kernels/cuda/softcap.h"

namespace lace::cuda::portable {

// logits = tanh(scale · logits).
template <int kRowTiles, int kColumnTiles>
__device__ void cap_logits(float (&logits)[kRowTiles][kColumnTiles][4], float scale) {
#pragma unroll
  for (int r = 0; r < kRowTiles; r++) {
#pragma unroll
    for (int j = 0; j < kColumnTiles; j++) {
#pragma unroll
      for (int t = 0; t < 4; t++) logits[r][j][t] = precise_tanh(scale * logits[r][j][t]);
    }
  }
}

}  // namespace lace::cuda::portable
