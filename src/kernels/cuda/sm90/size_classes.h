#pragma once

#include <bit>
#include <cstdint>

#include "kernels/cuda/section_order.h"  // LACE_HOST_DEVICE

namespace lace::sm90 {

// Sizes that are about alike: eighths of powers of two.
constexpr int32_t kSizeClasses = 256;
LACE_HOST_DEVICE inline int32_t size_class(int32_t size) {
  if (size <= 0) return 0;
#ifdef __CUDA_ARCH__
  const int32_t width = 32 - __clz(size);
#else
  const int32_t width = std::bit_width(static_cast<uint32_t>(size));
#endif
  return width <= 3 ? size : (width - 3) * 8 + (size >> (width - 4) & 7);
}

}  // namespace lace::sm90
