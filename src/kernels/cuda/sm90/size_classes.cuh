#pragma once

#include "kernels/cuda/sm90/size_classes.h"

namespace lace::sm90 {

// Where the next one of each class (size_class) goes, classes of large ones first; of counts. By a
// warp.
__device__ inline void place_classes(int32_t (&places)[kSizeClasses], int lane) {
  constexpr int kOwn = kSizeClasses / 32;
  int32_t total = 0;
  for (int i = 0; i < kOwn; ++i) total += places[kSizeClasses - 1 - lane * kOwn - i];
  int32_t end = total;
  for (int step = 1; step < 32; step *= 2) {
    const int32_t before = __shfl_up_sync(~0u, end, step);
    if (lane >= step) end += before;
  }
  int32_t place = end - total;
  for (int i = 0; i < kOwn; ++i) {
    int32_t& of_class = places[kSizeClasses - 1 - lane * kOwn - i];
    const int32_t count = of_class;
    of_class = place;
    place += count;
  }
}

}  // namespace lace::sm90
