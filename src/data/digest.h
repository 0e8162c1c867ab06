#pragma once

#include <string>

namespace lace {

// The digest of a file as hexadecimal digits, by "md5", "sha1" or "sha256". Throws lace::Error if
// it cannot be read.
std::string file_digest(const std::string& path, const std::string& algorithm);

}  // namespace lace
