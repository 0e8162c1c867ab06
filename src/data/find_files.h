#pragma once

#include <string>
#include <vector>

#include "data/file_source.h"

namespace lace {

// Counts what is left out, by reason, with the first few by name.
class LeftOut {
 public:
  enum Reason { kHidden, kSpecial, kDangling, kUnreadable, kRepeated, kEmpty, kTorn, kReasons };

  // `what` says more than the path where there is more to say; else it is shown alone.
  void add(Reason reason, const std::string& path, const std::string& what = "");

  // Dataset::notes: "hidden: 2 (a/.b, a/.c)".
  std::vector<std::string> notes() const;

 private:
  struct Tally {
    int64_t count = 0;
    std::string examples;
  };
  Tally tallies_[kReasons];
};

// The files that load_text() describes, sorted by path as bytes, without the empty ones. Throws
// lace::Error if one of `paths` itself is neither a file that can be read nor a folder.
std::vector<FoundFile> find_files(const std::vector<std::string>& paths, LeftOut& left_out);

}  // namespace lace
