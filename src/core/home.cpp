#include "core/home.h"

#include <cstdlib>

#include <pwd.h>
#include <unistd.h>

namespace lace {

std::string expand_home(const std::string& path) {
  if (path != "~" && !path.starts_with("~/")) return path;
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home == '\0') {
    const passwd* user = ::getpwuid(::getuid());
    home = user == nullptr ? nullptr : user->pw_dir;
  }
  return home == nullptr ? path : home + path.substr(1);
}

}  // namespace lace
