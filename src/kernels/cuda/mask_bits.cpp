#include "kernels/cuda/mask_bits.h"

#include <bit>

namespace lace::cuda {

MaskBits bits_by_owner(const Mask& mask) {
  MaskBits bits;
  bits.words_per_owner = (mask.others + 63) / 64;
  bits.words.resize(static_cast<size_t>(mask.owners * bits.words_per_owner));
  for (int32_t f = 0; f < mask.others; ++f) {
    for (int32_t w = 0; w < mask.words_per_other; ++w) {
      uint64_t owners = mask.words[static_cast<size_t>(f * mask.words_per_other + w)];
      for (; owners != 0; owners &= owners - 1) {
        const int32_t e = 64 * w + std::countr_zero(owners);
        if (e >= mask.owners) break;
        bits.words[static_cast<size_t>(e * bits.words_per_owner + f / 64)] |= uint64_t{1}
                                                                              << (f % 64);
      }
    }
  }
  return bits;
}

}  // namespace lace::cuda
