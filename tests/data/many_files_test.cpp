// More files than a process may map at a time (65,530 by default). Slow: it makes them.

#include "data/temp_folder.h"

namespace lace {
namespace {

class ManyFilesTest : public TempFolderTest {};

TEST_F(ManyFilesTest, AreTrainedAllTheSame) {
  constexpr int64_t kFiles = 66'000, kBytes = 1 << 18;
  for (int64_t i = 0; i < kFiles; ++i) {
    const std::string name = std::to_string(i % 100) + "/" + std::to_string(i);
    if (i < 100) {
      write(name, std::to_string(i));
      std::filesystem::resize_file(path(name), kBytes);
    } else {
      write_sparse(name, kBytes);
    }
  }
  const Dataset data = load_text({.paths = {folder_.string()}, .whole = true});
  EXPECT_EQ(data.files, kFiles);
  EXPECT_EQ(data.train.size(), kFiles * kBytes);
  const WindowSampler sampler(data.train.size(), 2 * kBytes, 1);
  std::vector<uint8_t> window(2 * kBytes);
  for (int64_t i = 0; i < 300; ++i) data.train.bytes.read(sampler.begin(i), window);
  // Sorted by path, the first of the file "0/0", then of "0/100".
  data.train.bytes.read(0, window);
  EXPECT_EQ(window[0], '0');
  EXPECT_EQ(window[kBytes], 0);
}

}  // namespace
}  // namespace lace
