#pragma once

#include <string>

#include "data/file_source.h"

namespace lace {

// The file itself, or, if its first bytes are those of gzip, xz or zstd data, the file in `cache`
// that it is unpacked to, once. Throws lace::Error naming the file that is damaged or cut off.
FoundFile unpacked_file(const FoundFile& file, const std::string& cache);

}  // namespace lace
