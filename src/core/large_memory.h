#pragma once

#include <cstddef>
#include <memory>

namespace lace {

// Memory for arrays that are read from one end to the other, or row by row far apart: aligned to 64
// bytes, in pages of 2 MB where it is large and the system has them, so that reading is not held up
// by looking for pages. Pages that nothing is written to take no room. Freed with the last copy.
// Throws std::bad_alloc.
std::shared_ptr<std::byte> allocate_large(size_t bytes);

// Asks the system to move what lies at [data, data + bytes) into such pages; it need not.
void move_to_large_pages(const void* data, size_t bytes);

// Has malloc keep what is freed, of every size, for what is asked for next: a training step then
// finds the pages of the step before, where it would get each of them from the system again,
// cleared. For the whole process and for good: for programs to call, not for libraries.
void keep_freed_memory();

}  // namespace lace
