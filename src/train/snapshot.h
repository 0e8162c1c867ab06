#pragma once

#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "lace/model.h"

#include "ops/device_queue.h"

namespace lace::train {

// What a checkpoint holds, as it was at one moment of a run, in memory of the host.
class Snapshot {
 public:
  struct Contents {
    std::vector<NamedParameter> tensors;  // "model.…", and if it is whole "adam.…"
    nlohmann::ordered_json state;         // of the run
    std::vector<at::Tensor> sources;      // being copied from, on the device, until `ready`
    std::shared_ptr<void> memory;         // of the tensors
    std::unique_ptr<ops::DeviceQueue::Mark> ready;  // null: the tensors are there
  };
  explicit Snapshot(Contents contents) : contents_(std::move(contents)) {}
  ~Snapshot();
  Snapshot(const Snapshot&) = delete;
  Snapshot& operator=(const Snapshot&) = delete;

  // Write a safetensors file with checksums and a summary in JSON beside it, as Trainer::save says.
  // From any thread. Throw lace::Error naming the file that cannot be written.
  // Everything: the snapshot must be whole.
  void write(const std::string& path, const std::string& keep_old_as = "") const;
  // The weights that a validation has scored, and that score: the mean where one is kept.
  void write_validated(const std::string& path, double bits_per_byte) const;

 private:
  void wait() const;

  Contents contents_;
};

}  // namespace lace::train
