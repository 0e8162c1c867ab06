#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "lace/error.h"
#include "lace/pattern.h"

// Any text either parses to a pattern that survives printing, or throws lace::Error. mask(…) reads
// what regular files the text names, relative to the working folder.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const lace::Pattern pattern = lace::Pattern::parse(text);
    const lace::Pattern again = lace::Pattern::parse(pattern.to_string());
    if (!(again == pattern) || again.to_string() != pattern.to_string()) std::abort();
    pattern.bind(8, 5, 7).attends(7, 6, 3);
  } catch (const lace::Error&) {
  }
  return 0;
}
