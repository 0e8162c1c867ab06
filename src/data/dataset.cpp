#include <array>

#include "lace/data.h"

#include "core/safe_text.h"

namespace lace {
namespace {

constexpr std::array<std::string_view, 3> kKinds = {"text", "images", "audio"};
constexpr std::array<std::string_view, 3> kSplits = {"auto", "bytes", "files"};
constexpr std::array<std::string_view, 3> kResizes = {"none", "stretch", "crop"};

size_t place_of(std::string_view text, const std::array<std::string_view, 3>& names,
                const char* key) {
  for (size_t i = 0; i < names.size(); ++i)
    if (names[i] == text) return i;
  throw Error(concat("[data] ", key, " is ", names[0], ", ", names[1], " or ", names[2], ", got ",
                     printable(text)));
}

}  // namespace

std::string_view name(DataKind kind) { return kKinds[static_cast<size_t>(kind)]; }

DataKind parse_data_kind(std::string_view text) {
  return static_cast<DataKind>(place_of(text, kKinds, "kind"));
}

std::string_view name(SplitBy by) { return kSplits[static_cast<size_t>(by)]; }

SplitBy parse_split_by(std::string_view text) {
  return static_cast<SplitBy>(place_of(text, kSplits, "split"));
}

std::string_view name(ImageResize resize) { return kResizes[static_cast<size_t>(resize)]; }

ImageResize parse_image_resize(std::string_view text) {
  return static_cast<ImageResize>(place_of(text, kResizes, "resize"));
}

int64_t DataSplit::pieces() const {
  return piece_ends.empty() ? (size() > 0 ? 1 : 0) : static_cast<int64_t>(piece_ends.size());
}

int64_t DataSplit::piece_begin(int64_t i) const {
  return i == 0 ? 0 : piece_ends[static_cast<size_t>(i) - 1];
}

int64_t DataSplit::piece_end(int64_t i) const {
  return piece_ends.empty() ? size() : piece_ends[static_cast<size_t>(i)];
}

std::string DataSplit::piece_name(int64_t i) const {
  return piece_names.empty() ? "" : piece_names[static_cast<size_t>(i)];
}

void DataSplit::append_piece(const ByteStream& piece, const std::string& name) {
  if (piece.size() == 0) return;
  if (piece_ends.empty() && size() > 0) piece_ends.push_back(size());
  bytes.append(piece);
  piece_ends.push_back(size());
  piece_names.resize(piece_ends.size());
  piece_names.back() = name;
}

}  // namespace lace
