#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "core/temporary_file.h"

namespace lace::testing {

// A run's folder of the running test's name.
class RunFolder {
 public:
  explicit RunFolder(const std::string& ending = "_run") : folder_(ending) {
    std::filesystem::create_directories(path() + "/samples");
  }
  const std::string& path() const { return folder_.path(); }
  void write(const std::string& file, std::string_view text) const {
    std::ofstream(path() + "/" + file, std::ios::binary) << text;
  }
  void append(const std::string& file, std::string_view text) const {
    std::ofstream(path() + "/" + file, std::ios::binary | std::ios::app) << text;
  }

 private:
  TemporaryFile folder_;
};

// A line of metrics.jsonl; validation 0: none.
inline std::string metrics_line(int64_t step, double bits, double validation = 0) {
  std::string line = "{\"step\":" + std::to_string(step) +
                     ",\"bits_per_byte\":" + std::to_string(bits) +
                     ",\"elapsed_s\":" + std::to_string(0.5 * static_cast<double>(step));
  if (validation > 0) line += ",\"validation_bits_per_byte\":" + std::to_string(validation);
  return line + "}\n";
}

}  // namespace lace::testing
