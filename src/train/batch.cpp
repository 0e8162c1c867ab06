#include "train/batch.h"

#include <ATen/ATen.h>

namespace lace::train {

at::Tensor read_windows(const ByteStream& stream, const std::vector<int64_t>& begins,
                        int64_t length, at::Device device) {
  at::Tensor batch = at::empty({static_cast<int64_t>(begins.size()), length}, at::kByte);
  uint8_t* row = batch.data_ptr<uint8_t>();
  for (const int64_t begin : begins) {
    stream.read(begin, {row, static_cast<size_t>(length)});
    row += length;
  }
  return batch.to(device);
}

}  // namespace lace::train
