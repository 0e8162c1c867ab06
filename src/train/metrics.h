#pragma once

#include <cstdint>
#include <string>

#include "lace/train.h"

#include "train/files.h"

namespace lace::train {

// A run's metrics as JSON lines (docs/json.md), one a step. All throws are lace::Error naming the
// file.
class Metrics {
 public:
  // Goes on with the file at `path`: lines of steps after `keep_up_to`, and what is no line of
  // metrics, are dropped. The old file stands until the new one is on the disk.
  Metrics(const std::string& path, int64_t keep_up_to);

  // Throws if the line cannot be written or `path` no longer is the file that it was.
  void add(const TrainProgress& progress);

  // So that what was added is on the disk.
  void sync();

 private:
  std::string path_;
  Descriptor file_;
};

}  // namespace lace::train
