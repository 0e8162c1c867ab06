#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "train/folder_test.h"

namespace lace {

inline size_t header_bytes(const std::string& file) {
  size_t length = 0;
  for (size_t i = 0; i < 8; ++i) length |= size_t{static_cast<unsigned char>(file[i])} << (8 * i);
  return length;
}

// Writes a safetensors file anew with a changed header: edit(header).
template <typename Edit>
void edit_header(const std::string& path, const Edit& edit) {
  const std::string file = file_text(path);
  auto header = nlohmann::ordered_json::parse(file.substr(8, header_bytes(file)));
  edit(header);
  const std::string text = header.dump();
  std::string length(8, '\0');
  for (size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(text.size() >> (8 * i) & 0xff);
  write_text(path, length + text + file.substr(8 + header_bytes(file)));
}

// Makes of a checkpoint what lace wrote before it wrote checksums: edit_state(state) changes its
// state further.
template <typename Edit>
void make_format_1(const std::string& path, const Edit& edit_state) {
  edit_header(path, [&](nlohmann::ordered_json& header) {
    auto& metadata = header["__metadata__"];
    auto state = nlohmann::ordered_json::parse(metadata["lace"].get<std::string>());
    state["format"] = 1;
    state.erase("data");
    state.erase("best_validation_bits_per_byte");
    edit_state(state);
    metadata = {{"lace", state.dump()}};
  });
}

inline void make_format_1(const std::string& path) {
  make_format_1(path, [](const auto&) {});
}

inline void flip_bit(const std::string& path, size_t byte, int bit = 0) {
  std::string file = file_text(path);
  ASSERT_LT(byte, file.size());
  file[byte] = static_cast<char>(file[byte] ^ (1 << bit));
  write_text(path, file);
}

// Where a byte in the middle of a tensor stands in the file.
inline size_t byte_of(const std::string& path, const std::string& tensor) {
  const std::string file = file_text(path);
  const auto header = nlohmann::json::parse(file.substr(8, header_bytes(file)));
  const auto& offsets = header.at(tensor).at("data_offsets");
  return 8 + header_bytes(file) + (offsets[0].get<size_t>() + offsets[1].get<size_t>()) / 2;
}

}  // namespace lace
