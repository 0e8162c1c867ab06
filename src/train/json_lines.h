#pragma once

#include <cstdint>
#include <string>

#include <nlohmann/json_fwd.hpp>

#include "train/files.h"

namespace lace::train {

// A run's file of JSON objects, one a line, each of a step. All throws are lace::Error naming the
// file.
class JsonLines {
 public:
  // Goes on with the file at `path`: lines of steps after `keep_up_to`, and what is no line of a
  // step, are dropped. The old file stands until the new one is on the disk.
  JsonLines(const std::string& path, int64_t keep_up_to);

  // Throws if the line cannot be written or `path` no longer is the file that it was.
  void add(const nlohmann::ordered_json& entry);

  // So that what was added is on the disk. From any thread.
  void sync() const;

 private:
  std::string path_;
  Descriptor file_;
};

}  // namespace lace::train
