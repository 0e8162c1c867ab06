#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "data/file_source.h"

namespace lace {

// A name for what `files` become by way of `how`: `stem`, for people, and a hash of `how` and of
// the path, size and time of each file.
std::string cache_name(const std::string& stem, const std::string& how,
                       std::span<const FoundFile> files);

// The file NAME of a cache's folder. Where it is not there yet, the folder is made, and `make`
// hands all of its bytes to `write`; they get the name only when they are complete and on the disk.
// Processes that want the same file wait for the one that makes it. What `make` throws leaves no
// file behind; what a killed process leaves, NAME.tmp, is written over.
// `why`: what needs the cache, for errors. Throws lace::Error if `folder` is "", or cannot be
// written.
using WriteBytes = std::function<void(std::span<const uint8_t>)>;
FoundFile cached_file(const std::string& folder, const std::string& name, const std::string& why,
                      const std::function<void(const WriteBytes& write)>& make);

}  // namespace lace
