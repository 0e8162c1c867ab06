#pragma once

#include <cstddef>
#include <cstdint>

namespace lace::sm90 {

// Parts of one allocation, each at a multiple of 16 bytes.
class Parts {
 public:
  template <typename T>
  size_t add(int64_t count) {
    const size_t at = bytes_;
    bytes_ += (static_cast<size_t>(count) * sizeof(T) + 15) / 16 * 16;
    return at;
  }
  size_t bytes() const { return bytes_; }

 private:
  size_t bytes_ = 0;
};

}  // namespace lace::sm90
