// gzip, xz and zstd files: what they unpack to, whole, cut off anywhere, damaged anywhere; and the
// cache that keeps it.

#include <random>
#include <thread>

#include <sys/stat.h>

#include "data/packers.h"
#include "data/temp_folder.h"
#include "data/unpack.h"

namespace lace {
namespace {

namespace fs = std::filesystem;

struct Packer {
  const char* name;
  std::string (*pack)(const std::string&);
};
constexpr Packer kPackers[] = {{"gzip", gzipped}, {"xz", xzed}, {"zstd", zstded}};

std::string sample_text(size_t bytes, uint32_t seed = 1) {
  std::mt19937 random(seed);
  const char* words[] = {"sparse ", "attention ", "reads ", "few ", "keys, ", "\xc3\xa9\n"};
  std::string text;
  while (text.size() < bytes) text += words[random() % 6] + std::to_string(random() % 50);
  return text.substr(0, bytes);
}

// What a packed file in memory unpacks to; the error begins with "error: ".
std::string unpacked(const std::string& packed, size_t at_once = 1 << 16) {
  size_t at = 0;
  std::string result;
  try {
    const Packing packing =
        packing_of({reinterpret_cast<const uint8_t*>(packed.data()), packed.size()});
    unpack(
        packing, "FILE",
        [&](std::span<uint8_t> out) {
          const size_t count = std::min({out.size(), packed.size() - at, at_once});
          std::copy_n(packed.data() + at, count, out.data());
          at += count;
          return count;
        },
        [&](std::span<const uint8_t> bytes) { result.append(bytes.begin(), bytes.end()); });
  } catch (const Error& error) {
    return std::string("error: ") + error.what();
  }
  return result;
}

TEST(Unpack, GivesBackEveryText) {
  for (const Packer& packer : kPackers) {
    for (const size_t bytes : {0u, 1u, 1000u, 1200000u}) {
      const std::string text = sample_text(bytes), packed = packer.pack(text);
      EXPECT_TRUE(unpacked(packed) == text) << packer.name << " " << bytes;
      if (bytes <= 1000) {
        EXPECT_TRUE(unpacked(packed, 1) == text) << packer.name << " " << bytes;
      }
      // Several, one after the other.
      EXPECT_TRUE(unpacked(packed + packer.pack("and more")) == text + "and more") << packer.name;
    }
  }
}

TEST(Unpack, FilesThatAreCutOffAnywhereAreErrors) {
  const std::string text = sample_text(700);
  for (const Packer& packer : kPackers) {
    const std::string packed = packer.pack(text);
    ASSERT_GT(packed.size(), 100u);
    for (size_t bytes = kPackingBytes; bytes < packed.size(); ++bytes) {
      const std::string got = unpacked(packed.substr(0, bytes));
      ASSERT_TRUE(got.starts_with("error: [unpack] FILE ")) << packer.name << " " << bytes;
      ASSERT_NE(got.find(concat(" byte ", bytes, " ")), std::string::npos) << got;
    }
  }
}

TEST(Unpack, DamageAnywhereIsAnError) {
  const std::string text = sample_text(700);
  for (const Packer& packer : kPackers) {
    const std::string packed = packer.pack(text);
    int unnoticed = 0;
    for (size_t at = kPackingBytes; at < packed.size(); ++at) {
      for (const int bit : {0, 3, 7}) {
        std::string damaged = packed;
        damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
        const std::string got = unpacked(damaged);
        ASSERT_TRUE(got.starts_with("error: ") || got == text)
            << packer.name << " byte " << at << " bit " << bit;
        unnoticed += got == text;
      }
    }
    // gzip's time and system are covered by no checksum, nor are bits that mean nothing.
    EXPECT_LE(unnoticed, packer.pack == xzed ? 0 : 21) << packer.name;
    for (const std::string& tail : {std::string("rubbish"), std::string(packed, 0, 9)})
      EXPECT_TRUE(unpacked(packed + tail).starts_with("error: ")) << packer.name;
  }
}

TEST(Unpack, TarArchivesAreNamed) {
  std::string tar(1024, '\0');
  tar.replace(257, 5, "ustar");
  for (const Packer& packer : kPackers) {
    EXPECT_EQ(unpacked(packer.pack(tar)),
              "error: [unpack] FILE holds a tar archive: unpack it first");
  }
}

class PackedTest : public TempFolderTest {
 protected:
  std::string cache() const { return path("cache"); }
  size_t cached() const {
    if (!fs::exists(cache())) return 0;
    return static_cast<size_t>(
        std::distance(fs::directory_iterator(cache()), fs::directory_iterator()));
  }
};

TEST_F(PackedTest, FoldersMayMixThem) {
  const std::string texts[] = {sample_text(5000, 1), sample_text(400'000, 2), sample_text(90, 3),
                               sample_text(70'000, 4), "plain"};
  write("in/a.gz", gzipped(texts[0]));
  write("in/b", xzed(texts[1]));
  write("in/c.zst", zstded(texts[2]));
  write("in/d.gz", gzipped(texts[3]));
  write("in/e.gz", texts[4]);  // whatever it is called
  write("in/f.gz", gzipped(""));
  const TextOptions options = {.paths = {path("in")}, .whole = true, .cache = cache()};
  std::string all;
  for (const std::string& text : texts) all += text;
  const Dataset data = load_text(options);
  EXPECT_TRUE(text(data.train) == all);
  EXPECT_EQ(data.files, 5);
  ASSERT_EQ(data.notes.size(), 1u);
  EXPECT_EQ(data.notes[0], "empty: 1 (" + path("in/f.gz") + ")");
  EXPECT_EQ(cached(), 5u);

  // The next load makes nothing anew, and reads no packed byte.
  for (const auto& entry : fs::directory_iterator(cache()))
    ASSERT_EQ(::chmod(entry.path().c_str(), 0444), 0);
  EXPECT_TRUE(text(load_text(options).train) == all);
  EXPECT_EQ(cached(), 5u);

  // A file of another size or time is another file.
  write("in/b", xzed("short"));
  EXPECT_TRUE(text(load_text(options).train) == texts[0] + "short" + texts[2] + texts[3] + "plain");
  EXPECT_EQ(cached(), 6u);
  fs::last_write_time(path("in/b"), fs::file_time_type::clock::now() - std::chrono::hours(1));
  load_text(options);
  EXPECT_EQ(cached(), 7u);
}

TEST_F(PackedTest, RecordsAndSplitsAreOfWhatIsUnpacked) {
  const std::string content = sample_text(1005);
  const TextOptions options = {.paths = {write("r.xz", xzed(content))},
                               .validation_fraction = 0.1,
                               .test_fraction = 0,
                               .record_bytes = 10,
                               .cache = cache()};
  const Dataset data = load_text(options);
  EXPECT_EQ(text(data.train), content.substr(0, 900));
  EXPECT_EQ(text(data.validation), content.substr(900, 100));
  ASSERT_EQ(data.notes.size(), 1u);
  EXPECT_NE(data.notes[0].find(path("r.xz") + ": 5 bytes"), std::string::npos) << data.notes[0];
}

TEST_F(PackedTest, WhatFailsLeavesNothing) {
  const std::string whole = xzed(sample_text(300'000));
  const std::string file = write("cut.xz", whole.substr(0, whole.size() / 2));
  const TextOptions options = {.paths = {file}, .cache = cache()};
  EXPECT_EQ(load_error(options), concat("[unpack] ", file, " is cut off: its xz data end at byte ",
                                        whole.size() / 2, " before they are complete"));
  EXPECT_EQ(cached(), 0u);
  EXPECT_EQ(load_error({.paths = {file}}),
            concat("[cache] ", file,
                   " is xz data and must be unpacked: data.cache must name a folder to keep that "
                   "in"));
  const std::string blocked = write("blocked", "");
  EXPECT_NE(load_error({.paths = {file}, .cache = blocked + "/x"}).find("[cache] cannot create "),
            std::string::npos);
}

TEST_F(PackedTest, WhatAKilledProcessLeftIsWrittenOver) {
  const std::string content = sample_text(300'000);
  const TextOptions options = {
      .paths = {write("a.gz", gzipped(content))}, .whole = true, .cache = cache()};
  load_text(options);
  const fs::path made = fs::directory_iterator(cache())->path();
  fs::remove(made);
  write("cache/" + made.filename().native() + ".tmp", std::string(500'000, '?'));
  EXPECT_TRUE(text(load_text(options).train) == content);
  EXPECT_EQ(cached(), 1u);
}

TEST_F(PackedTest, SeveralThreadsShareOneCache) {
  const std::string content = sample_text(2'000'000);
  const TextOptions options = {
      .paths = {write("a.zst", zstded(content))}, .whole = true, .cache = cache()};
  std::vector<std::thread> threads;
  std::vector<std::string> got(4);
  for (size_t t = 0; t < 4; ++t)
    threads.emplace_back([&, t] { got[t] = text(load_text(options).train); });
  for (std::thread& thread : threads) thread.join();
  for (const std::string& one : got) EXPECT_TRUE(one == content);
  EXPECT_EQ(cached(), 1u);
}

}  // namespace
}  // namespace lace
