#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "lace/error.h"

namespace lace {

// A file has not what it should have: fetching it again may help, keeping it does not.
class WrongContent : public Error {
 public:
  using Error::Error;
};

// Unpacks a zip or tar archive (plain, gzip, bzip2, xz, zstd) into the folder `to`, which exists
// and is empty. Only files and folders with relative names without "..": a link, a device, an
// absolute name, a name that comes twice is an error, and so are more than `most_bytes` bytes or
// 100,000 entries. `progress` is told how many bytes have been unpacked.
// Throws WrongContent `[unpack] …` naming the archive and the entry, also where the archive is torn
// or damaged; lace::Error where something cannot be written. What was unpacked until then stays.
void unpack_archive(
    const std::string& archive, const std::string& to, int64_t most_bytes,
    const std::function<void(int64_t)>& progress = [](int64_t) {});

}  // namespace lace
