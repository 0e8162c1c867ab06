#pragma once

#include <cstdint>

#include "lace/train.h"

#include "train/json_lines.h"
#include "train/run_folder.h"

namespace lace::train {

// What a run draws on the way: samples/STEP-I.bin, the bytes as they are, and a line of
// samples.jsonl for each (docs/json.md). All throws are lace::Error naming a file.
class Samples {
 public:
  // Goes on with those of steps up to `keep_up_to`.
  Samples(const RunFiles& files, int64_t keep_up_to);

  // The `index`-th sample after `step`.
  void add(int64_t step, int64_t index, const DrawnSample& sample, uint64_t seed);

 private:
  const RunFiles files_;
  JsonLines lines_;
};

}  // namespace lace::train
