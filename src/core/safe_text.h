#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace lace {

// Turns bytes into text that is safe to print: valid UTF-8 passes, also newline and tab; control
// characters and bytes that are no UTF-8 become \x and two hexadecimal digits.
class SafeText {
 public:
  // The text that this byte completes; "" while a character is incomplete.
  std::string add(uint8_t byte);
  // What is left of an incomplete character.
  std::string finish();

 private:
  std::string pending_;  // the beginning of a character
  size_t needed_ = 0;    // its bytes
};

// A name or value from outside, as errors print it: one line of safe text, with newline and tab
// escaped too, cut with … after the character that reaches `most` bytes.
std::string printable(std::string_view text, size_t most = 300);

}  // namespace lace
