#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "lace/error.h"
#include "lace/recipe.h"

// Any text either is a recipe that survives printing, or throws lace::Error. The same text is also
// tried as an override.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const std::string printed = lace::to_toml(lace::parse_recipe(text, "x.toml"));
    if (lace::to_toml(lace::parse_recipe(printed, "again.toml")) != printed) std::abort();
  } catch (const lace::Error&) {
  }
  try {
    lace::parse_recipe("", "x.toml", {std::string(text)});
  } catch (const lace::Error&) {
  }
  return 0;
}
