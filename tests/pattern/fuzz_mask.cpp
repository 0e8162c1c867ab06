#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include <unistd.h>

#include <sys/mman.h>

#include "lace/error.h"

#include "pattern/mask.h"

// Any content of a mask file either is a mask whose blocks can all be looked at, or throws
// lace::Error. The file lies in memory.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const int file = memfd_create("mask", MFD_CLOEXEC);
  static const std::string path = "/proc/self/fd/" + std::to_string(file);
  if (ftruncate(file, 0) != 0 || pwrite(file, data, size, 0) != static_cast<ssize_t>(size)) {
    std::abort();
  }
  try {
    const auto mask = lace::pattern::read_mask(path);
    int64_t live = 0;
    for (int64_t head = 0; head < mask->heads; ++head) {
      for (int64_t query = 0; query < mask->blocks; ++query) {
        for (int64_t key = 0; key < mask->blocks; ++key) live += mask->at(head, query, key);
      }
    }
    int64_t ones = 0;
    for (const uint8_t bit : mask->live) ones += bit;
    if (live != ones || mask->block_size < 1) std::abort();
  } catch (const lace::Error&) {
  }
  return 0;
}
