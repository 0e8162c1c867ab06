#pragma once

#include <fstream>
#include <map>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "lace/model.h"

#include "core/safetensors.h"

namespace lace::train {

// Writes float32, float64, float16 and bfloat16 tensors as a safetensors file that takes its name
// when it is complete; what had the name before is kept as `keep_old_as`, unless that is "". Beside
// `metadata` the file holds checksums (hash.h): "xxh3:NAME" of each tensor's bytes and "xxh3" of
// the header's text, the length's 8 bytes left out and the digits of this one counted as zeros.
void write_safetensors(const std::string& path, const std::vector<NamedParameter>& tensors,
                       const std::map<std::string, std::string>& metadata,
                       const std::string& keep_old_as = "");

// A safetensors file as it was when it was opened, also if another takes its name meanwhile. Files
// without checksums, as others write them, are read too. All throws are lace::Error naming the
// file.
class CheckpointFile {
 public:
  // Throws if the file cannot be read or its header is not as it was written.
  explicit CheckpointFile(const std::string& path);

  const std::string& path() const { return path_; }
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  bool has_checksums() const { return header_.metadata.contains("xxh3"); }

  // Throws, naming the tensor, if one of the file is not as it was written.
  void verify();

  // The names of all tensors, sorted.
  std::vector<std::string> names() const;
  // One of them as it is stored. Throws, naming it, if there is none, it is not as it was written,
  // or of a dtype that write_safetensors does not write.
  at::Tensor read(const std::string& name);

  // Copies the file's tensors into `tensors`, in place; others that the file holds are left alone,
  // and those of the meta device are only compared.
  // Throws, naming the tensor and before any is changed, if the file lacks one, holds it in another
  // dtype or shape, or not as it was written.
  void read(const std::vector<NamedParameter>& tensors);

 private:
  const SafetensorsHeader::Tensor& find(const NamedParameter& entry) const;
  std::vector<uint8_t> verified_bytes(const std::string& name,
                                      const SafetensorsHeader::Tensor& tensor);

  std::string path_;
  std::ifstream file_;
  SafetensorsHeader header_;
};

// What a checkpoint says of itself: the JSON object under "lace" of its metadata. Format 2 has
// checksums, format 1 had none.
class CheckpointState {
 public:
  // Throws lace::Error if the file is no checkpoint of these formats.
  explicit CheckpointState(const CheckpointFile& file);

  bool has(const std::string& key) const { return json_.contains(key); }
  // Throw lace::Error naming file and key unless the value is a whole number of at least 0, or a
  // finite number.
  int64_t count(const std::string& key) const;
  double number(const std::string& key) const;
  const nlohmann::json& json() const { return json_; }

 private:
  std::string path_;
  nlohmann::json json_;
};

}  // namespace lace::train
