#include "train/snapshot.h"

#include <ATen/ATen.h>

#include "train/checkpoint.h"
#include "train/files.h"
#include "train/run_folder.h"

namespace lace::train {

Snapshot::~Snapshot() {
  try {
    wait();  // nothing may write into memory that is somebody else's by then
  } catch (const std::exception&) {
    // A device that has failed writes nothing more.
  }
}

void Snapshot::wait() const {
  if (contents_.ready) contents_.ready->wait();
}

void Snapshot::write(const std::string& path, const std::string& keep_old_as) const {
  wait();
  write_safetensors(path, contents_.tensors, {{"lace", contents_.state.dump()}}, keep_old_as);
  write_file_atomically(json_path(path), contents_.state.dump(2) + "\n",
                        keep_old_as.empty() ? "" : json_path(keep_old_as));
}

void Snapshot::write_validated(const std::string& path, double bits_per_byte) const {
  wait();
  const auto named = [&](const std::string& prefix) {
    std::vector<NamedParameter> weights;
    for (const NamedParameter& p : contents_.tensors) {
      if (p.name.starts_with(prefix))
        weights.push_back({"model." + p.name.substr(prefix.size()), p.tensor});
    }
    return weights;
  };
  std::vector<NamedParameter> weights = named("adam.ema.");
  if (weights.empty()) weights = named("model.");
  nlohmann::ordered_json state = {{"format", contents_.state.at("format")},
                                  {"step", contents_.state.at("step")},
                                  {"validation_bits_per_byte", bits_per_byte}};
  for (const char* key : {"version", "commit", "machine"}) state[key] = contents_.state.at(key);
  write_safetensors(path, weights, {{"lace", state.dump()}});
  write_file_atomically(json_path(path), state.dump(2) + "\n");
}

}  // namespace lace::train
