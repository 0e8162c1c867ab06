#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace lace {

// The one exception type of lace. The text names the operation in brackets, the rule, and the
// value that broke it: `[attention] head_dim of k is 48, q has 64`.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Joins its arguments as `<<` prints them.
template <typename... Args>
std::string concat(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

// Throws lace::Error with the joined arguments as its text unless `condition` holds.
#define LACE_CHECK(condition, ...)                      \
  do {                                                  \
    if (!(condition)) [[unlikely]]                      \
      throw ::lace::Error(::lace::concat(__VA_ARGS__)); \
  } while (false)

}  // namespace lace
