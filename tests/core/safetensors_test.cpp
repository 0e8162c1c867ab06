#include "core/safetensors.h"

#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "lace/error.h"

#include "core/temporary_file.h"

namespace lace {
namespace {

using testing::safetensors_text;

// Of a header whose data are `data` bytes.
std::string error_of(const std::string& header, int64_t data = 0) {
  try {
    parse_safetensors_header(header, 100, data, "x");
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

std::string tensor(const std::string& name, int64_t begin, int64_t end) {
  return concat('"', name, R"(":{"dtype":"U8","shape":[)", end - begin, R"(],"data_offsets":[)",
                begin, ",", end, "]}");
}

std::string all(const std::string& a, const std::string& b) { return concat("{", a, ",", b, "}"); }

TEST(Safetensors, ReadsHeaderAndBytes) {
  const testing::TemporaryFile file;
  file.write(safetensors_text(
      R"({"__metadata__":{"a":"b","":"c"},"x":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]},)"
      R"("s":{"shape":[],"data_offsets":[4,8],"dtype":"F32"},)"
      R"("e":{"dtype":"F64","shape":[3,0],"data_offsets":[8,8]}}   )",
      "01234567"));
  const SafetensorsFile opened(file.path());
  const SafetensorsHeader& header = opened.header();
  EXPECT_EQ(header.metadata, (std::map<std::string, std::string>{{"a", "b"}, {"", "c"}}));
  ASSERT_EQ(header.tensors.size(), 3u);
  EXPECT_EQ(header.tensors.at("x").dtype, "BF16");
  EXPECT_EQ(header.tensors.at("x").shape, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(opened.read(header.tensors.at("s")), (std::vector<uint8_t>{'4', '5', '6', '7'}));
  EXPECT_EQ(header.tensors.at("e").bytes, 0);
  EXPECT_EQ(read_safetensors_header(file.path()).tensors.size(), 3u);
}

TEST(Safetensors, ReadsOneFileToItsEnd) {
  const testing::TemporaryFile file;
  file.write(safetensors_text(concat("{", tensor("x", 0, 3), "}"), "old"));
  const SafetensorsFile opened(file.path());
  std::filesystem::remove(file.path());
  file.write(safetensors_text(concat("{", tensor("x", 0, 3), "}"), "new"));
  EXPECT_EQ(opened.read(opened.header().tensors.at("x")), (std::vector<uint8_t>{'o', 'l', 'd'}));
}

TEST(Safetensors, FilesThatAreTooShort) {
  const testing::TemporaryFile file;
  const auto error = [&] {
    try {
      read_safetensors_header(file.path());
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  file.write("1234567");
  EXPECT_EQ(error(), "[safetensors] file must have at least 8 bytes, got 7: " + file.path());
  file.write(std::string("\x03\0\0\0\0\0\0\0{}", 10));
  EXPECT_EQ(error(), "[safetensors] header of " + file.path() +
                         " must fit into the file's 10 bytes and into 100000000, got 3");
  file.write(std::string(8, '\xff') + "{}");
  EXPECT_NE(error().find("got 18446744073709551615"), std::string::npos) << error();
}

// Each bracket once took a frame of the stack, when the value was shown in an error.
TEST(Safetensors, MillionsOfBracketsAreAnError) {
  const std::string deep(1'000'000, '['), objects = [] {
    std::string text;
    while (text.size() < 4'000'000) text += R"({"a":)";
    return text;
  }();
  const std::string closed = deep + std::string(deep.size(), ']');
  EXPECT_EQ(error_of(deep), "[safetensors] header of x must be a JSON object");
  EXPECT_EQ(error_of(closed), "[safetensors] header of x must be a JSON object");
  const std::string whole = "[safetensors] tensor a of x ";
  EXPECT_EQ(error_of(R"({"a":)" + closed + "}"), whole + "must be an object, got a list");
  EXPECT_EQ(error_of(objects), whole + "must have dtype, shape and two data_offsets, got a");
  for (const std::string& value : {closed, objects}) {
    const std::string got = value[0] == '[' ? "a list" : "an object";
    EXPECT_EQ(error_of(R"({"a":{"dtype":)" + value),
              whole + "must have dtype, shape and two data_offsets, got " + got);
    EXPECT_EQ(error_of(R"({"a":{"dtype":"U8","shape":[)" + value),
              whole + "shape must be non-negative integers, got " + got);
    EXPECT_EQ(error_of(R"({"a":{"dtype":"U8","shape":[],"data_offsets":[0,)" + value),
              whole + "data_offsets must be non-negative integers, got " + got);
    EXPECT_EQ(error_of(R"({"__metadata__":{"k":)" + value),
              "[safetensors] __metadata__ of x must hold strings, got " + got + " for k");
  }
}

TEST(Safetensors, TensorsCoverTheData) {
  EXPECT_EQ(error_of(all(tensor("b", 4, 8), tensor("a", 0, 4)), 8), "no error");
  EXPECT_EQ(error_of(all(tensor("a", 0, 4), tensor("e", 0, 0)), 4), "no error");
  EXPECT_EQ(error_of(all(tensor("a", 0, 4), tensor("e", 4, 4)), 4), "no error");
  EXPECT_EQ(error_of("{}", 0), "no error");
  const std::string tensors = "[safetensors] tensors of x must ";
  EXPECT_EQ(error_of(all(tensor("a", 0, 4), tensor("b", 3, 8)), 8),
            tensors + "not overlap, got b at byte 3 of the data, before the end of a");
  EXPECT_EQ(error_of(all(tensor("a", 0, 4), tensor("b", 0, 4)), 4),
            tensors + "not overlap, got b at byte 0 of the data, before the end of a");
  EXPECT_EQ(error_of(all(tensor("a", 0, 4), tensor("b", 5, 8)), 8),
            tensors + "leave no hole, got 1 bytes before b");
  EXPECT_EQ(error_of(concat("{", tensor("a", 2, 8), "}"), 8),
            tensors + "leave no hole, got 2 bytes before a");
  EXPECT_EQ(error_of(concat("{", tensor("a", 0, 4), "}"), 8),
            "[safetensors] x must end with its last tensor, got 4 more bytes");
  EXPECT_EQ(error_of("{}", 1), "[safetensors] x must end with its last tensor, got 1 more bytes");
}

TEST(Safetensors, OffsetsLieInOrderInsideTheData) {
  const auto offsets = [](const std::string& text) {
    return error_of(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + text + "}}", 4);
  };
  const std::string inside =
      "[safetensors] tensor a of x must lie inside the 4 bytes of data, got ";
  EXPECT_EQ(offsets("[0,4]"), "no error");
  EXPECT_EQ(offsets("[4,0]"), inside + "[4,0]");
  EXPECT_EQ(offsets("[1,5]"), inside + "[1,5]");
  EXPECT_EQ(offsets("[4611686018427387903,4611686018427387903]"),
            inside + "[4611686018427387903,4611686018427387903]");
  const std::string numbers =
      "[safetensors] tensor a of x data_offsets must be non-negative integers, got ";
  EXPECT_EQ(offsets("[-1,4]"), numbers + "-1");
  EXPECT_EQ(offsets("[0,1e30]"), numbers + "1e30");
  EXPECT_EQ(offsets("[0,4611686018427387904]"), numbers + "4611686018427387904");
  EXPECT_EQ(offsets("[0,99999999999999999999999]"), numbers + "99999999999999999999999");
  EXPECT_EQ(offsets("[0,true]"), numbers + "true");
  EXPECT_EQ(offsets("[0]"),
            "[safetensors] tensor a of x must have dtype, shape and two data_offsets, got [0]");
  EXPECT_EQ(offsets("[0,4,4]"),
            "[safetensors] tensor a of x must have at most 2 numbers in data_offsets");
}

TEST(Safetensors, ShapesFitTheBytes) {
  const auto shape = [](const std::string& text) {
    return error_of(R"({"a":{"dtype":"F32","shape":)" + text + R"(,"data_offsets":[0,8]}})", 8);
  };
  EXPECT_EQ(shape("[2]"), "no error");
  EXPECT_EQ(shape("[3]"), "[safetensors] tensor a of x must have 12 bytes (F32 [3]), got 8");
  EXPECT_EQ(shape("[4294967296,4294967296]"),
            "[safetensors] tensor a of x shape must stay below 2^55 elements, got "
            "[4294967296,4294967296]");
  std::string sizes = "[1";
  for (int more = 0; more < 1'000'000; ++more) sizes += ",1";
  EXPECT_EQ(shape(sizes + "]"),
            "[safetensors] tensor a of x must have at most 64 numbers in shape");
}

TEST(Safetensors, NothingStandsTwice) {
  EXPECT_EQ(error_of(all(tensor("a", 0, 4), tensor("a", 4, 8)), 8),
            "[safetensors] header of x must name each tensor once, got a twice");
  EXPECT_EQ(error_of(R"({"__metadata__":{},"__metadata__":{}})"),
            "[safetensors] header of x must name each tensor once, got __metadata__ twice");
  EXPECT_EQ(error_of(R"({"__metadata__":{"k":"1","k":"2"}})"),
            "[safetensors] __metadata__ of x must have each key once, got k twice");
  EXPECT_EQ(error_of(R"({"a":{"dtype":"U8","shape":[4],"shape":[4],"data_offsets":[0,4]}})", 4),
            "[safetensors] tensor a of x must have each key once, got shape twice");
}

TEST(Safetensors, NothingElseStands) {
  EXPECT_EQ(error_of(""), "[safetensors] header of x must be JSON");
  EXPECT_EQ(error_of("{}{}"), "[safetensors] header of x must be JSON");
  EXPECT_EQ(error_of("{\"\xff\":{}}"), "[safetensors] header of x must be JSON");
  EXPECT_EQ(error_of("null"), "[safetensors] header of x must be a JSON object");
  EXPECT_EQ(error_of(R"({"a":{}})"),
            "[safetensors] tensor a of x must have dtype, shape and two data_offsets, got less");
  EXPECT_EQ(error_of(R"({"a":{"dtype":1}})"),
            "[safetensors] tensor a of x must have dtype, shape and two data_offsets, got 1");
  EXPECT_EQ(error_of(R"({"a":{"strides":[1]}})"),
            "[safetensors] tensor a of x must have dtype, shape and two data_offsets, got strides");
  EXPECT_EQ(error_of(R"({"__metadata__":[]})"),
            "[safetensors] tensor __metadata__ of x must be an object, got a list");
}

TEST(Safetensors, NamesAreEscapedAndCut) {
  EXPECT_EQ(error_of(R"({"a\u001b[2J\n":{}})"),
            "[safetensors] tensor a\\x1b[2J\\x0a of x must have dtype, shape and two data_offsets, "
            "got less");
  const std::string error = error_of("{\"" + std::string(1'000'000, 'n') + "\":{}}");
  EXPECT_LT(error.size(), 500u);
  EXPECT_NE(error.find("nnn… of x"), std::string::npos) << error;
}

}  // namespace
}  // namespace lace
