#include "lace/data.h"

#include "core/safe_text.h"

namespace lace {
namespace {

// The value of a hexadecimal digit, or −1.
int digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// The byte that a group \xNN at the beginning of `text` stands for, or −1.
int group(std::string_view text) {
  if (!text.starts_with("\\x") || text.size() < 4) return -1;
  const int high = digit(text[2]), low = digit(text[3]);
  return high < 0 || low < 0 ? -1 : 16 * high + low;
}

}  // namespace

std::string path_text(std::string_view path) {
  SafeText safe;
  std::string text;
  for (size_t i = 0; i < path.size(); ++i) {
    const std::string_view rest = path.substr(i);
    if (rest[0] == '\n') {
      text += safe.finish() + "\\x0a";
    } else if (rest[0] == '\t') {
      text += safe.finish() + "\\x09";
    } else if (group(rest) >= 0) {
      text += safe.finish() + "\\x5c";
    } else {
      text += safe.add(static_cast<uint8_t>(rest[0]));
    }
  }
  return text + safe.finish();
}

std::string path_bytes(std::string_view text) {
  std::string path;
  while (!text.empty()) {
    const int byte = group(text);
    path += byte >= 0 ? static_cast<char>(byte) : text[0];
    text.remove_prefix(byte >= 0 ? 4 : 1);
  }
  return path;
}

}  // namespace lace
