#include "train/samples.h"

#include <filesystem>

#include <nlohmann/json.hpp>

#include "lace/error.h"

namespace lace::train {

Samples::Samples(const RunFiles& files, int64_t keep_up_to)
    : files_(files), lines_(files.samples(), keep_up_to) {}

void Samples::add(int64_t step, int64_t index, const DrawnSample& sample, uint64_t seed) {
  std::error_code failure;
  const std::string folder = files_.folder + "/samples";
  std::filesystem::create_directories(folder, failure);
  LACE_CHECK(!failure, "[train] cannot create ", folder, ": ", failure.message());
  const std::string name = concat("samples/", step, "-", index, ".bin");
  write_file_atomically(files_.folder + "/" + name, {sample.bytes.begin(), sample.bytes.end()});
  lines_.add({{"step", step},
              {"file", name},
              {"prompt_bytes", sample.prompt_bytes},
              {"temperature", sample.temperature},
              {"seed", seed}});
}

}  // namespace lace::train
