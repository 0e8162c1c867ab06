#include "pattern/mask.h"

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "lace/error.h"
#include "lace/pattern.h"

#include "core/regular_file.h"

namespace lace {
namespace {

// Of every pattern, heads(…) and bidirectional(…) too, the pairs in live blocks.
TEST(MaskInMemory, KeepsPatternsWithinLiveBlocks) {
  const std::vector<uint8_t> live = {1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 0, 0, 1};
  const auto both = block_mask(2, 3, 5, live);
  for (const char* text : {"dense", "local(4) | sinks(1)", "bidirectional(strided(3))",
                           "heads(1*local(6), 1*dense)", "bidirectional(dense)"}) {
    const Pattern pattern = Pattern::parse(text);
    const BoundPattern whole = pattern.bind(2, 17, 17),
                       kept = within(pattern, both).bind(2, 17, 17);
    for (int64_t head = 0; head < 2; ++head) {
      for (int64_t query = 0; query < 17; ++query) {
        for (int64_t key = 0; key < 17; ++key) {
          const bool in_blocks = query < 15 && key < 15 && both->at(head, query / 5, key / 5);
          EXPECT_EQ(kept.attends(head, query, key), whole.attends(head, query, key) && in_blocks)
              << text << " " << head << " " << query << " " << key;
        }
      }
    }
  }
}

TEST(MaskInMemory, IsEqualIfItsContentIs) {
  const std::vector<uint8_t> live = {1, 0, 0, 1, 1, 0, 1, 1, 1};
  const Pattern one = within(dense(), block_mask(1, 3, 8, live));
  EXPECT_EQ(one, within(dense(), block_mask(1, 3, 8, live)));
  EXPECT_FALSE(one == within(dense(), block_mask(1, 3, 16, live)));
  for (size_t i = 0; i < live.size(); ++i) {
    std::vector<uint8_t> other = live;
    other[i] ^= 1;
    EXPECT_FALSE(one == within(dense(), block_mask(1, 3, 8, other))) << i;
  }
  EXPECT_FALSE(one == within(local(4), block_mask(1, 3, 8, live)));
}

TEST(MaskInMemory, WrongNumbersAreErrors) {
  EXPECT_THROW(block_mask(1, 3, 8, {1, 0}), Error);
  EXPECT_THROW(block_mask(1, 0, 8, {}), Error);
  EXPECT_THROW(block_mask(1, 1, 0, {1}), Error);
  EXPECT_THROW(within(dense(), nullptr), Error);
  EXPECT_THROW(within(dense(), block_mask(2, 1, 8, {1, 1})).bind(3, 8, 8), Error);
}

class MaskFile : public ::testing::Test {
 protected:
  // One file a test, so that tests may run at once.
  std::string path_ = ::testing::TempDir() + "lace_" +
                      ::testing::UnitTest::GetInstance()->current_test_info()->name() +
                      ".safetensors";

  ~MaskFile() override { std::filesystem::remove(path_); }

  void write(const std::string& header, const std::string& data) const {
    std::ofstream out(path_, std::ios::binary);
    for (int shift = 0; shift < 64; shift += 8) out.put(static_cast<char>(header.size() >> shift));
    out << header << data;
  }

  // Waits until a change to come will show.
  void settle() const {
    while (!identity_of(path_)->settled()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }

  // BOOL [heads, blocks, blocks] with the bits of `live`, query by query.
  void write_mask(int heads, int blocks, int block_size, const std::vector<int>& live) const {
    const std::string shape =
        std::to_string(heads) + "," + std::to_string(blocks) + "," + std::to_string(blocks);
    write(R"({"__metadata__":{"block_size":")" + std::to_string(block_size) +
              R"("},"m":{"dtype":"BOOL","shape":[)" + shape + R"(],"data_offsets":[0,)" +
              std::to_string(live.size()) + "]}}",
          std::string(live.begin(), live.end()));
  }

  std::string error() const {
    try {
      pattern::read_mask(path_);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }
};

TEST_F(MaskFile, SaysWhichBlocksAreLive) {
  const std::vector<int> live{1, 0, 1, 1, 1, 0, 0, 1, 1, /**/ 0, 0, 0, 1, 0, 0, 1, 1, 1};
  write_mask(2, 3, 4, live);
  const Pattern text = mask(path_);
  EXPECT_EQ(Pattern::parse(text.to_string()), text);
  const BoundPattern causal = text.bind(2, 15, 15), both = bidirectional(text).bind(2, 15, 15);
  EXPECT_EQ(causal.groups(), 2);
  for (int64_t head = 0; head < 2; ++head) {
    for (int64_t i = 0; i < 15; ++i) {
      for (int64_t j = 0; j < 15; ++j) {
        const bool inside = i < 12 && j < 12;
        const bool bit = inside && live[static_cast<size_t>(head * 9 + i / 4 * 3 + j / 4)] == 1;
        ASSERT_EQ(both.attends(head, i, j), bit);
        ASSERT_EQ(causal.attends(head, i, j), bit && j <= i);
      }
    }
  }
}

TEST_F(MaskFile, HeadsOfEqualBitsShareAGroup) {
  write_mask(3, 1, 8, {1, 0, 1});
  const BoundPattern bound = mask(path_).bind(3, 8, 8);
  EXPECT_EQ(bound.groups(), 2);
  EXPECT_EQ(bound.group(2), 0);
  EXPECT_THROW(mask(path_).bind(4, 8, 8), Error);
  write_mask(1, 1, 8, {1});
  EXPECT_EQ(mask(path_).bind(4, 8, 8).groups(), 1);
}

TEST_F(MaskFile, ContentTellsPatternsApart) {
  write_mask(1, 2, 8, {1, 0, 1, 1});
  const Pattern first = mask(path_);
  write_mask(1, 2, 8, {1, 0, 0, 1});
  const Pattern other = mask(path_);
  EXPECT_EQ(first.to_string(), other.to_string());
  EXPECT_FALSE(first == other);
  write_mask(1, 2, 8, {1, 0, 1, 1});
  EXPECT_TRUE(mask(path_) == first);
}

TEST_F(MaskFile, UnchangedFileIsReadOnce) {
  write_mask(1, 2, 8, {1, 0, 1, 1});
  settle();
  const auto first = pattern::read_mask(path_);
  EXPECT_EQ(pattern::read_mask(path_), first);  // the same mask, not an equal one
  EXPECT_EQ(Pattern::parse(mask(path_).to_string()).entries()[0].expr.atom.mask, first);

  write_mask(1, 2, 8, {1, 0, 0, 1});  // in place, of the same size
  const auto second = pattern::read_mask(path_);
  EXPECT_NE(second->content_hash, first->content_hash);
  settle();
  const auto kept = pattern::read_mask(path_);
  EXPECT_EQ(kept->content_hash, second->content_hash);
  EXPECT_EQ(pattern::read_mask(path_), kept);
  EXPECT_EQ(first->live, (std::vector<uint8_t>{1, 0, 1, 1}));  // who holds the old one keeps it
}

TEST_F(MaskFile, ChangesThatKeepSizeAndTimeAreNoticed) {
  write_mask(1, 2, 8, {1, 0, 1, 1});
  settle();
  const auto first = pattern::read_mask(path_);
  const auto time = std::filesystem::last_write_time(path_);
  write_mask(1, 2, 8, {1, 0, 0, 1});
  std::filesystem::last_write_time(path_, time);  // as cp -p does
  EXPECT_NE(pattern::read_mask(path_)->content_hash, first->content_hash);
}

// A file that is changed at every step is never mistaken for the one before, however fast.
TEST_F(MaskFile, ChangesInQuickSuccessionAreNoticed) {
  for (int round = 0; round < 200; ++round) {
    const int bit = round % 3 == 0;
    write_mask(1, 1, 8, {bit});
    ASSERT_EQ(pattern::read_mask(path_)->live[0], bit) << round;
  }
}

TEST_F(MaskFile, WhatItSaysIsEscaped) {
  path_ = ::testing::TempDir() + "lace\x1b[2J.safetensors";
  write(R"({"__metadata__":{"block_size":"\u001b[2J"},
            "m":{"dtype":"BOOL","shape":[1,1,1],"data_offsets":[0,1]}})",
        "\1");
  EXPECT_EQ(error(), "[mask] block_size of " + ::testing::TempDir() +
                         "lace\\x1b[2J.safetensors must be a positive integer, got \"\\x1b[2J\"");
}

TEST_F(MaskFile, MillionsOfBracketsAreAnError) {
  const std::string deep = std::string(1'000'000, '[') + std::string(1'000'000, ']');
  write("{\"m\":" + deep + "}", "\1");
  EXPECT_EQ(error(), "[safetensors] tensor m of " + path_ + " must be an object, got a list");
  EXPECT_THROW(Pattern::parse(R"(local(4) & mask(")" + path_ + R"("))"), Error);
}

TEST_F(MaskFile, TensorNamedMaskIsMeant) {
  write(R"({"__metadata__":{"block_size":"2"},
            "a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
            "mask":{"dtype":"BOOL","shape":[1,1,1],"data_offsets":[1,2]}})",
        std::string("\5\1", 2));
  EXPECT_TRUE(pattern::read_mask(path_)->at(0, 0, 0));
}

TEST_F(MaskFile, NamesMayHoldAnything) {
  path_ = ::testing::TempDir() + "lace odd \"name\"), (\\.safetensors";
  write_mask(1, 1, 8, {1});
  const Pattern text = mask(path_) | sinks(1);
  EXPECT_EQ(Pattern::parse(text.to_string()), text);
}

TEST_F(MaskFile, TildeIsTheHomeFolder) {
  write_mask(1, 1, 8, {1});
  const char* set = std::getenv("HOME");
  const std::string before = set == nullptr ? "" : set, folder = ::testing::TempDir();
  const std::string text = "mask(~/" + path_.substr(folder.size()) + ")";
  ::setenv("HOME", folder.substr(0, folder.size() - 1).c_str(), 1);
  EXPECT_EQ(Pattern::parse(text).entries()[0].expr.atom.mask->content_hash,
            pattern::read_mask(path_)->content_hash);
  EXPECT_EQ(Pattern::parse(text).to_string(), text);  // as it was written
  set == nullptr ? ::unsetenv("HOME") : ::setenv("HOME", before.c_str(), 1);
}

TEST_F(MaskFile, ErrorsNameTheRule) {
  const std::string meta = R"({"__metadata__":{"block_size":"8"},)";
  EXPECT_EQ(error(), "[safetensors] file must exist, got " + path_);
  write("{}", "");
  EXPECT_EQ(error(), "[mask] " + path_ + " must hold one tensor, or one named \"mask\", got 0");
  write("{", "");
  EXPECT_EQ(error(), "[safetensors] header of " + path_ + " must be JSON");
  write(R"({"m":{"dtype":"BOOL","shape":[1,1,1],"data_offsets":[0,1]}})", "\1");
  EXPECT_EQ(error(), "[mask] __metadata__ of " + path_ + " must have a block_size, got none");
  write(R"({"__metadata__":{"block_size":"8x"},
            "m":{"dtype":"BOOL","shape":[1,1,1],"data_offsets":[0,1]}})",
        "\1");
  EXPECT_EQ(error(), "[mask] block_size of " + path_ + " must be a positive integer, got \"8x\"");
  write(meta + R"("m":{"dtype":"U8","shape":[1,1,1],"data_offsets":[0,1]}})", "\1");
  EXPECT_EQ(error(), "[mask] tensor of " + path_ + " must be BOOL, got U8");
  write(meta + R"("m":{"dtype":"BOOL","shape":[1,2],"data_offsets":[0,2]}})", "\1\1");
  EXPECT_EQ(error(),
            "[mask] tensor of " + path_ + " must be [heads or 1, blocks, blocks], got [1, 2]");
  write(meta + R"("m":{"dtype":"BOOL","shape":[1,1,1],"data_offsets":[0,9]}})", "\1");
  EXPECT_EQ(error(), "[safetensors] tensor m of " + path_ +
                         " must lie inside the 1 bytes of data, got [0,9]");
  write(meta + R"("m":{"dtype":"BOOL","shape":[1,1,1],"data_offsets":[0,1]}})", "\2");
  EXPECT_EQ(error(), "[mask] elements of " + path_ + " must be 0 or 1, got 2");
}

}  // namespace
}  // namespace lace
