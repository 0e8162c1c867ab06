// The table of decoding: of CPUs.

#include "lace/error.h"

#include "kernels/decode/cpu/cpu_decode.h"

namespace lace {

int64_t row_bytes(const DecodeShape& shape) {
  const int64_t wide = shape.compute == DType::kFloat64 ? 8 : 4;
  const int64_t used = shape.qk_dim * wide + shape.v_dim * size_bytes(shape.compute);
  return (used + 15) / 16 * 16;
}

const DecodeKernels& decode_kernels(Device device) {
  LACE_CHECK(device == Device::kCpu, "[decode] device must be a CPU, got a GPU");
  return cpu::decode_kernels();
}

}  // namespace lace
