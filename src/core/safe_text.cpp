#include "core/safe_text.h"

#include <utility>

namespace lace {

namespace {

std::string escaped(uint8_t byte) {
  constexpr char kDigits[] = "0123456789abcdef";
  return {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
}

// Bytes of the character that starts with `byte`; 0 if none does.
size_t character_bytes(uint8_t byte) {
  if (byte < 0x80) return 1;
  if (byte >= 0xc2 && byte <= 0xdf) return 2;
  if (byte >= 0xe0 && byte <= 0xef) return 3;
  return byte >= 0xf0 && byte <= 0xf4 ? 4 : 0;
}

// Whether `second` may follow `first`: neither overlong, nor a surrogate, nor past U+10FFFF, nor a
// control character of U+0080 to U+009F.
bool may_follow(uint8_t first, uint8_t second) {
  const uint8_t low = first == 0xc2 || first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
  const uint8_t high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
  return second >= low && second <= high;
}

}  // namespace

std::string SafeText::add(uint8_t byte) {
  if (!pending_.empty()) {
    const auto first = static_cast<uint8_t>(pending_[0]);
    const bool fits = pending_.size() == 1 ? may_follow(first, byte) : (byte & 0xc0) == 0x80;
    if (fits) {
      pending_ += static_cast<char>(byte);
      return pending_.size() == needed_ ? std::exchange(pending_, {}) : std::string();
    }
    const std::string broken = finish();
    return broken + add(byte);
  }
  needed_ = character_bytes(byte);
  if (needed_ > 1) {
    pending_ = static_cast<char>(byte);
    return {};
  }
  const bool control = (byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7f;
  return needed_ == 0 || control ? escaped(byte) : std::string(1, static_cast<char>(byte));
}

std::string SafeText::finish() {
  std::string text;
  for (const char c : std::exchange(pending_, {})) text += escaped(static_cast<uint8_t>(c));
  return text;
}

std::string printable(std::string_view text, size_t most) {
  SafeText safe;
  std::string shown;
  for (const char c : text) {
    if (shown.size() >= most) return shown + "…";
    const bool breaks = c == '\n' || c == '\t';
    shown += breaks ? safe.finish() + escaped(static_cast<uint8_t>(c))
                    : safe.add(static_cast<uint8_t>(c));
  }
  return shown + safe.finish();
}

}  // namespace lace
