// Splits and records, and what becomes of files between load_text() and a read.

#include <atomic>
#include <fstream>
#include <thread>

#include <fcntl.h>

#include <sys/resource.h>
#include <sys/stat.h>

#include "data/temp_folder.h"

namespace lace {
namespace {

namespace fs = std::filesystem;

class TextTest : public TempFolderTest {
 protected:
  // The path of a file that load_text() leaves where it is: the byte at o is (o + first) mod 251.
  std::string write_large(const std::string& name, int first = 0, size_t bytes = 1 << 18) const {
    std::string content(bytes, '\0');
    for (size_t i = 0; i < bytes; ++i)
      content[i] = static_cast<char>((i + static_cast<size_t>(first)) % 251);
    return write(name, content);
  }
};

// All bytes for training.
Dataset load_whole(const std::string& path) {
  return load_text({.paths = {path}, .validation_fraction = 0, .test_fraction = 0});
}

// What reading [offset, offset + bytes) throws, or "".
std::string read_error(const DataSplit& split, int64_t offset, size_t bytes) {
  std::vector<uint8_t> out(bytes);
  try {
    split.bytes.read(offset, out);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST_F(TextTest, FolderSplitsEvery20thFile) {
  std::string train, validation, test;
  for (int i = 0; i < 43; ++i) {
    std::string name = "f00";
    name[1] = static_cast<char>('0' + i / 10);
    name[2] = static_cast<char>('0' + i % 10);
    write("sub/" + name, name);
    (i == 19 || i == 39 ? test : i == 20 || i == 40 ? validation : train) += name;
  }
  const Dataset data = load_text({.paths = {folder_.string()}});
  EXPECT_EQ(data.files, 43);
  EXPECT_EQ(text(data.train), train);
  EXPECT_EQ(text(data.validation), validation);
  EXPECT_EQ(text(data.test), test);
  EXPECT_TRUE(data.notes.empty());

  // A split of which nothing is wanted gets no files either.
  const Dataset without_test = load_text({.paths = {folder_.string()}, .test_fraction = 0});
  EXPECT_EQ(without_test.test.size(), 0);
  EXPECT_EQ(text(without_test.validation), validation);
  EXPECT_EQ(load_whole(folder_.string()).train.size(), 43 * 3);
  EXPECT_EQ(load_text({.paths = {folder_.string()}, .whole = true}).train.size(), 43 * 3);
}

TEST_F(TextTest, FileIsCutByFractions) {
  std::string content;
  for (int i = 0; i < 1000; ++i) content += static_cast<char>(i % 251);
  const Dataset data = load_text({.paths = {write("one", content)}});
  EXPECT_EQ(text(data.train), content.substr(0, 900));
  EXPECT_EQ(text(data.validation), content.substr(900, 50));
  EXPECT_EQ(text(data.test), content.substr(950));
  EXPECT_EQ(text(load_text({.paths = {path("one")}, .whole = true}).train), content);
}

TEST_F(TextTest, RecordsAreNotCut) {
  const Dataset data = load_text({.paths = {write("records", std::string(1005, 'r'))},
                                  .validation_fraction = 0.05,
                                  .test_fraction = 0.1,
                                  .record_bytes = 30});
  EXPECT_EQ(data.train.size(), 990 - 30 - 90);
  EXPECT_EQ(data.validation.size(), 30);
  EXPECT_EQ(data.test.size(), 90);
  ASSERT_EQ(data.notes.size(), 1u);
  EXPECT_TRUE(contains(data.notes[0], "torn")) << data.notes[0];
  EXPECT_TRUE(contains(data.notes[0], path("records") + ": 15 bytes")) << data.notes[0];
}

// Each record is its number four times; some files end in a part of one.
TEST_F(TextTest, ATornRecordShiftsNone) {
  for (const int files : {3, 21, 45}) {
    const fs::path below = folder_ / std::to_string(files);
    int64_t records = 0;
    for (int i = 0; i < files; ++i) {
      std::string content;
      for (int r = 0; r < 7 + i % 3; ++r) content += std::string(4, static_cast<char>(records++));
      if (i % 2 == 1) content += std::string(static_cast<size_t>(1 + i % 3), '!');
      write(below.filename().string() + "/" + std::to_string(100 + i), content);
    }
    write(below.filename().string() + "/999", "!!!");  // holds no record
    const Dataset data = load_text({.paths = {below.string()},
                                    .validation_fraction = 0.2,
                                    .test_fraction = 0.1,
                                    .record_bytes = 4});
    EXPECT_EQ(data.files, files);
    int64_t seen = 0;
    for (const DataSplit* split : {&data.train, &data.validation, &data.test}) {
      const std::string bytes = text(*split);
      ASSERT_EQ(bytes.size() % 4, 0u);
      EXPECT_GT(bytes.size(), 0u);
      for (size_t at = 0; at < bytes.size(); at += 4, ++seen)
        EXPECT_EQ(bytes.substr(at, 4), std::string(4, bytes[at])) << files << " files, " << at;
    }
    EXPECT_EQ(seen, records);
    ASSERT_EQ(data.notes.size(), 1u);
    EXPECT_TRUE(
        contains(data.notes[0], concat("torn records at the end of a file: ", files / 2 + 1)))
        << data.notes[0];
    EXPECT_TRUE(contains(data.notes[0], (below / "101").string() + ": 2 bytes")) << data.notes[0];
  }
  const std::string error = load_error({.paths = {write("short", "abc")}, .record_bytes = 4});
  EXPECT_TRUE(contains(error, "no bytes")) << error;
  EXPECT_TRUE(contains(error, "torn")) << error;
}

TEST_F(TextTest, LargeFilesAreReadWhereTheyAre) {
  const std::string file = write_large("large", 3, 3 << 18);
  std::ifstream in(file, std::ios::binary);
  const std::string content((std::istreambuf_iterator<char>(in)), {});
  const Dataset data =
      load_text({.paths = {file}, .validation_fraction = 0.25, .test_fraction = 0.25});
  EXPECT_EQ(text(data.train) + text(data.validation) + text(data.test), content);
}

TEST_F(TextTest, AFileThatShrinksIsAnErrorThatNamesIt) {
  for (const bool open : {true, false}) {
    const std::string file = write_large("shrinking");
    const Dataset data = load_whole(file);
    if (open) {
      EXPECT_EQ(read_error(data.train, 1000, 500), "");
    }
    fs::resize_file(file, 1200);
    const std::string error = read_error(data.train, 1000, 500);
    EXPECT_TRUE(contains(error, file)) << error;
    EXPECT_TRUE(contains(error, "262144") && contains(error, "1200")) << error;
    EXPECT_EQ(read_error(data.train, 700, 500), "");  // this part is as it was
    fs::resize_file(file, 0);
    EXPECT_TRUE(contains(read_error(data.train, 0, 1), file));
  }
}

TEST_F(TextTest, AFileThatGrowsKeepsItsBytes) {
  const std::string file = write_large("growing");
  const Dataset data = load_whole(file);
  std::ofstream(file, std::ios::app) << "more";
  EXPECT_EQ(data.train.size(), 1 << 18);
  EXPECT_EQ(read_error(data.train, (1 << 18) - 10, 10), "");
}

TEST_F(TextTest, AFileThatIsReplacedOrGoneIsAnErrorThatNamesIt) {
  const std::string file = write_large("replaced");
  const Dataset replaced = load_whole(file), gone = load_whole(file), pipe = load_whole(file);
  write_large("new", 1);
  fs::rename(path("new"), file);
  EXPECT_TRUE(contains(read_error(replaced.train, 0, 10), file + " is another file"));
  fs::remove(file);
  EXPECT_TRUE(contains(read_error(gone.train, 0, 10), file + ": No such file"));
  ASSERT_EQ(::mkfifo(file.c_str(), 0600), 0);
  EXPECT_TRUE(contains(read_error(pipe.train, 0, 10), file + " is another file"));  // and no wait
}

TEST_F(TextTest, SmallFilesAreReadAtOnce) {
  const std::string file = write("small", "as it was");
  const Dataset data = load_whole(file);
  write("small", "otherwise");
  fs::remove(file);
  EXPECT_EQ(text(data.train), "as it was");
}

int open_descriptors() {
  int count = 0;
  for (int descriptor = 0; descriptor < 4096; ++descriptor)
    count += ::fcntl(descriptor, F_GETFD) >= 0;
  return count;
}

TEST_F(TextTest, MoreFilesThanMayBeOpen) {
  constexpr int kFiles = 300;
  for (int i = 0; i < kFiles; ++i) write_large(concat("f", 1000 + i), i);
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  const auto check = [&](rlim_t free) {
    const int before = open_descriptors();
    rlimit low = limit;
    low.rlim_cur = static_cast<rlim_t>(before) + free;
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
    const Dataset data = load_whole(folder_.string());
    EXPECT_EQ(data.files, kFiles);
    for (const int64_t i : {0, 5, 299, 100, 5, 0, 250}) {
      std::vector<uint8_t> out(3);
      data.train.bytes.read((i << 18) + 40, out);
      EXPECT_EQ(out[0], (40 + i) % 251);
    }
    std::vector<uint8_t> joint(2 << 18);  // across three files
    data.train.bytes.read(1000, joint);
    EXPECT_EQ(joint.back(), ((1000 - 1) + 2) % 251);
    EXPECT_LE(open_descriptors(), before + 64);
    // Before the data go: a sanitizer needs descriptors of its own to look at what is destroyed.
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
  };
  check(4);
  check(200);
}

TEST_F(TextTest, SeveralThreadsRead) {
  constexpr int kFiles = 150;  // more than are kept open
  for (int i = 0; i < kFiles; ++i) write_large(concat("f", 1000 + i), i);
  const Dataset data = load_whole(folder_.string());
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::vector<uint8_t> out(100);
      for (int64_t k = 0; k < 2000; ++k) {
        const int64_t file = (k * 37 + t * 11) % kFiles, place = k * 101 % 262000;
        data.train.bytes.read((file << 18) + place, out);
        for (int64_t b = 0; b < 100; ++b)
          wrong += out[static_cast<size_t>(b)] != (place + b + file) % 251;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  int64_t total = 0, resident = 0;
  file >> total >> resident;
  return resident * 4096;
}

TEST_F(TextTest, MemoryIsBoundedByWhatIsLookedAt) {
  constexpr int64_t kBytes = 200'000'000'000;
  const std::string file = write_sparse("sparse", kBytes);
  const int64_t before = resident_bytes();
  const Dataset data = load_text({.paths = {file}});
  const WindowSampler sampler(data.train.size(), 1024, 1);
  std::vector<uint8_t> out(1024);
  for (int64_t i = 0; i < 2000; ++i) data.train.bytes.read(sampler.begin(i), out);
  EXPECT_LT(resident_bytes() - before, 50'000'000);
  EXPECT_EQ(data.train.size() + data.validation.size() + data.test.size(), kBytes);
}

TEST_F(TextTest, WrongOptionsAreNamed) {
  EXPECT_TRUE(contains(load_error({}), "no paths"));
  const std::string file = write("f", "abc");
  EXPECT_TRUE(contains(load_error({.paths = {file}, .test_fraction = 1.5}), "1.5"));
  EXPECT_TRUE(contains(load_error({.paths = {file}, .record_bytes = -1}), "record_bytes"));
}

}  // namespace
}  // namespace lace
