#pragma once

#include <memory>
#include <string>

#include "lace/pattern.h"

namespace lace::pattern {

// Reads a block mask from a safetensors file: one tensor of dtype BOOL and shape
// [heads or 1, blocks, blocks] (query blocks, then key blocks), whose block size stands in the
// file's __metadata__ as {"block_size": "128"}. Where the file holds several tensors, the one named
// "mask" is meant. A leading "~/" of the file's name is the home folder.
// A file that was read before, and whose inode, size and times are what they were, is not read
// again: the same mask comes back. A file is not kept while it is so young that a change to come
// might not show in its times.
// Throws lace::Error naming the file and the rule it breaks.
std::shared_ptr<const BlockMask> read_mask(const std::string& name);

}  // namespace lace::pattern
