#include "train/checkpoint.h"

#include <torch/torch.h>

#include "train/edit_checkpoint.h"

namespace lace::train {
namespace {

namespace fs = std::filesystem;

class CheckpointTest : public FolderTest {
 protected:
  void SetUp() override {
    FolderTest::SetUp();
    path_ = path("x.safetensors");
  }

  std::string read_error(const std::vector<NamedParameter>& tensors) const {
    return error_of([&] { CheckpointFile(path_).read(tensors); });
  }

  std::string path_;
};

TEST_F(CheckpointTest, RoundTrip) {
  const std::vector<NamedParameter> written = {{"a", torch::randn({3, 5})},
                                               {"b.c", torch::randn({4, 2}, at::kDouble).t()},
                                               {"h", torch::randn({7}).to(at::kBFloat16)},
                                               {"one", torch::ones({})}};
  write_safetensors(path_, written, {{"key", "va\"lue"}, {"fake", "\"xxh3\":\"0123456789abcdef"}});
  std::vector<NamedParameter> read;
  for (const auto& entry : written)
    read.push_back({entry.name, torch::zeros(entry.tensor.sizes(), entry.tensor.options())});
  CheckpointFile file(path_);
  EXPECT_TRUE(file.has_checksums());
  file.verify();
  file.read(read);
  EXPECT_EQ(file.metadata().at("key"), "va\"lue");
  for (size_t i = 0; i < read.size(); ++i)
    EXPECT_TRUE(torch::equal(read[i].tensor, written[i].tensor)) << read[i].name;
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1);  // no temporary file is left
}

TEST_F(CheckpointTest, NamesWhatDoesNotFit) {
  write_safetensors(path_, {{"a", torch::zeros({3, 5})}}, {});
  EXPECT_HAS(read_error({{"b", torch::zeros({3, 5})}}), "no tensor b");
  EXPECT_HAS(read_error({{"a", torch::zeros({5, 3})}}), "a is [3, 5]");
  EXPECT_HAS(read_error({{"a", torch::zeros({3, 5}, at::kDouble)}}), "F32");
  EXPECT_THROW(write_safetensors(path_, {{"i", torch::zeros({1}, at::kInt)}}, {}), Error);
  EXPECT_THROW(write_safetensors(path("no/x"), {}, {}), Error);
  EXPECT_EQ(read_error({{"a", torch::zeros({3, 5})}}),
            "");  // failed writes left the old file alone
}

TEST_F(CheckpointTest, EveryFlippedBitIsSeen) {
  const std::vector<NamedParameter> tensors = {{"a", torch::randn({2, 3})},
                                               {"b", torch::randn({5}, at::kDouble)}};
  write_safetensors(path_, tensors, {{"lace", "{\"format\":2,\"step\":7}"}, {"other", "text"}});
  const std::string sound = file_text(path_);
  const size_t data = 8 + header_bytes(sound);
  for (size_t byte = 0; byte < sound.size(); ++byte) {
    for (int bit = 0; bit < 8; ++bit) {
      write_text(path_, sound);
      flip_bit(path_, byte, bit);
      const std::string error = error_of([&] {
        CheckpointFile file(path_);
        const CheckpointState state(file);
        file.verify();
      });
      EXPECT_HAS(error, path_) << byte << ", " << bit;
      if (byte >= data) {
        const std::string name = byte < data + 24 ? "a" : "b";
        EXPECT_HAS(error, "[checkpoint] " + name + " of " + path_ + " is damaged") << byte;
      } else if (error.find("[safetensors] ") != 0) {  // no header of the format
        EXPECT_HAS(error, "[checkpoint] the header of " + path_ + " is damaged") << byte;
      }
    }
  }
  write_text(path_, sound.substr(0, sound.size() - 1));
  EXPECT_HAS(error_of([&] { CheckpointFile(path_).verify(); }), path_);
}

TEST_F(CheckpointTest, DamageIsSeenBeforeAnythingChanges) {
  write_safetensors(path_, {{"a", torch::ones({4})}, {"b", torch::ones({4})}}, {});
  flip_bit(path_, byte_of(path_, "b"), 3);
  const at::Tensor a = torch::zeros({4}), b = torch::zeros({4});
  EXPECT_HAS(read_error({{"a", a}, {"b", b}}), "b of " + path_ + " is damaged");
  EXPECT_EQ(a.sum().item<double>(), 0);
  EXPECT_EQ(read_error({{"a", a}}), "");  // what is not asked for may be damaged
  EXPECT_EQ(a.sum().item<double>(), 4);
}

TEST_F(CheckpointTest, FilesWithoutChecksumsAreRead) {
  write_safetensors(path_, {{"a", torch::ones({4})}}, {{"lace", "{\"format\":2}"}});
  make_format_1(path_);
  CheckpointFile file(path_);
  EXPECT_FALSE(file.has_checksums());
  EXPECT_EQ(CheckpointState(file).json().at("format"), 1);
  const at::Tensor a = torch::zeros({4});
  file.read({{"a", a}});
  EXPECT_EQ(a.sum().item<double>(), 4);
  // Format 2 without them is no file of an older version.
  edit_header(path_, [](auto& header) { header["__metadata__"]["lace"] = "{\"format\":2}"; });
  EXPECT_HAS(error_of([&] { CheckpointState{CheckpointFile(path_)}; }), "checksums are missing");
}

TEST_F(CheckpointTest, AnOpenFileStaysWhatItWas) {
  write_safetensors(path_, {{"a", torch::ones({4})}}, {});
  CheckpointFile old(path_);
  write_safetensors(path_, {{"a", torch::zeros({4})}}, {}, path("old.safetensors"));
  const at::Tensor a = torch::zeros({4}), kept = torch::zeros({4}), fresh = torch::ones({4});
  old.read({{"a", a}});
  CheckpointFile(path("old.safetensors")).read({{"a", kept}});
  CheckpointFile(path_).read({{"a", fresh}});
  EXPECT_EQ(a.sum().item<double>(), 4);
  EXPECT_EQ(kept.sum().item<double>(), 4);
  EXPECT_EQ(fresh.sum().item<double>(), 0);
}

TEST_F(CheckpointTest, StatesAreChecked) {
  const auto state_of = [&](const std::string& text) {
    write_safetensors(path_, {}, {{"lace", text}});
    return CheckpointState(CheckpointFile(path_));
  };
  const CheckpointState state =
      state_of(R"({"format":2,"n":3,"x":0.5,"minus":-1,"null":null,"text":"3"})");
  EXPECT_EQ(state.count("n"), 3);
  EXPECT_EQ(state.number("x"), 0.5);
  for (const char* key : {"minus", "null", "text", "x", "absent"})
    EXPECT_HAS(error_of([&] { state.count(key); }), concat(key, " of ", path_)) << key;
  for (const char* key : {"null", "text", "absent"})
    EXPECT_HAS(error_of([&] { state.number(key); }), concat(key, " of ", path_)) << key;
  for (const char* text : {"", "[]", "null", "{", "{\"format\":3}", "{\"format\":null}", "{}"})
    EXPECT_HAS(error_of([&] { state_of(text); }), path_) << text;
}

}  // namespace
}  // namespace lace::train
