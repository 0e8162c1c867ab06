#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "train/files.h"

namespace lace::train {

// CRC-32C (Castagnoli), as RFC 3720 has it, of all bytes.
uint32_t crc32c(std::string_view bytes);

// Events as TensorBoard reads them: a file of TFRecords (length, masked CRC of it, bytes, masked
// CRC of them), each an Event message of protobuf. (tensorflow/core/lib/io/record_writer.h and
// tensorflow/core/util/event.proto have the formats.)
// Each sitting of a run begins a file of its own, which says that steps from its first on count no
// longer where an earlier file tells of them: so no step shows twice.
class EventFile {
 public:
  // The file is made with its first event; its name sorts behind those in `folder`. `first_step` is
  // the first that it can tell of.
  EventFile(std::string folder, int64_t first_step)
      : folder_(std::move(folder)), first_step_(first_step) {}

  // Adds numbers by name. Throws lace::Error naming the file that cannot be written.
  void add(int64_t step, std::span<const std::pair<std::string, double>> scalars);

  const std::string& path() const { return path_; }  // "" until the first event

 private:
  void open();
  void write(std::string_view event);

  std::string folder_, path_;
  int64_t first_step_;
  Descriptor file_;
};

}  // namespace lace::train
