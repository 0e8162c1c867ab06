#include "core/large_memory.h"

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include <gtest/gtest.h>
#include <sys/resource.h>

namespace lace {
namespace {

TEST(LargeMemory, HoldsWhatIsWritten) {
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{100'000}, (size_t{9} << 20) + 5}) {
    const std::shared_ptr<std::byte> memory = allocate_large(bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.get()) % 64, 0u);
    std::memset(memory.get(), 7, bytes);
    const std::vector<std::byte> copy(memory.get(), memory.get() + bytes);
    move_to_large_pages(memory.get(), bytes);
    EXPECT_TRUE(bytes == 0 || std::memcmp(copy.data(), memory.get(), bytes) == 0);
  }
}

TEST(LargeMemory, MovesWhatLiesAnywhere) {
  std::vector<int> numbers(3 << 20);
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<int>(i);
  move_to_large_pages(numbers.data() + 1, (numbers.size() - 1) * sizeof(int));
  for (size_t i = 0; i < numbers.size(); ++i) ASSERT_EQ(numbers[i], static_cast<int>(i));
}

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__)
TEST(LargeMemory, KeepsWhatIsFreed) {
  constexpr size_t kBytes = size_t{80} << 20, kPage = 4096;
  const auto faults_of_use = [] {
    rusage before{}, after{};
    getrusage(RUSAGE_SELF, &before);
    const auto memory = std::make_unique_for_overwrite<char[]>(kBytes);
    for (size_t i = 0; i < kBytes; i += kPage) const_cast<volatile char&>(memory[i]) = 1;
    getrusage(RUSAGE_SELF, &after);
    return after.ru_minflt - before.ru_minflt;
  };
  faults_of_use();
  EXPECT_GT(faults_of_use(), 0);  // freed memory goes back to the system
  keep_freed_memory();
  faults_of_use();
  EXPECT_LT(faults_of_use(), 16);
}
#endif

}  // namespace
}  // namespace lace
