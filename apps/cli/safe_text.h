#pragma once

#include <cstdint>
#include <string>

namespace lace::cli {

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

}  // namespace lace::cli
