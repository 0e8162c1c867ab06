#pragma once

#include <cstdint>
#include <string>

#include <nlohmann/json.hpp>

#include "lace/data.h"

namespace lace::train {

// What tells a run's data from others: the files' number, and of each split the size and a hash of
// samples: 256 of 4 KiB, one in each 256th of it at a place that depends on the size only; of up to
// 1 MiB all bytes. Reads 3 MiB at most. A change that leaves the sizes as they are is seen if it
// touches a sample, so surely if it is of two 256ths of a split in a row.
//   {"files": 1, "train": {"bytes": 3600, "xxh3": "…"}, "validation": {…}, "test": {…}}
// A split of several pieces also has their number and a hash of where they end, "pieces" and
// "ends".
nlohmann::ordered_json data_fingerprint(const Dataset& data);

// How two fingerprints differ: "train has 3700 bytes, had 3600; …"; "" if they do not.
std::string fingerprint_difference(const nlohmann::json& before, const nlohmann::json& now);

// Thrown where a run would go on with other data.
class DataChanged : public Error {
 public:
  using Error::Error;
};

}  // namespace lace::train
