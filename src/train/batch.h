#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "lace/data.h"

namespace lace::train {

// The bytes [begin, begin + length) of the stream for each begin: uint8 [begins, length] on
// `device`.
at::Tensor read_windows(const ByteStream& stream, const std::vector<int64_t>& begins,
                        int64_t length, at::Device device = at::kCPU);

}  // namespace lace::train
