#include "core/large_memory.h"

#include <cstdint>
#include <new>

#include <malloc.h>

#include <sys/mman.h>

namespace lace {

namespace {

constexpr size_t kPage = size_t{2} << 20;

size_t round_up(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

#ifndef MADV_COLLAPSE  // Linux 6.1
#define MADV_COLLAPSE 25
#endif

}  // namespace

std::shared_ptr<std::byte> allocate_large(size_t bytes) {
  constexpr std::align_val_t kLine{64};
  if (bytes < 2 * kPage) {
    return {static_cast<std::byte*>(operator new(round_up(bytes + 1, 64), kLine)),
            [](std::byte* data) { operator delete(data, kLine); }};
  }
  const size_t whole = round_up(bytes, kPage) + kPage;
  void* mapped = mmap(nullptr, whole, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  const auto start = reinterpret_cast<uintptr_t>(mapped);
  auto* data = reinterpret_cast<std::byte*>(round_up(start, kPage));
  madvise(data, round_up(bytes, kPage), MADV_HUGEPAGE);
  return {data, [mapped, whole](std::byte*) { munmap(mapped, whole); }};
}

void move_to_large_pages(const void* data, size_t bytes) {
  const auto start = reinterpret_cast<uintptr_t>(data);
  const uintptr_t first = round_up(start, kPage), last = (start + bytes) / kPage * kPage;
  if (first >= last) return;
  void* pages = reinterpret_cast<void*>(first);
  madvise(pages, last - first, MADV_HUGEPAGE);
  madvise(pages, last - first, MADV_COLLAPSE);
}

void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_MAX, 0);         // nothing is mapped for itself, and unmapped when freed
  mallopt(M_TRIM_THRESHOLD, -1);  // the heap never shrinks
#endif
}

}  // namespace lace
