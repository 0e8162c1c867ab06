#include "train/machine.h"

#include <fstream>
#include <string>
#include <thread>

#include <ATen/Parallel.h>
#include <sys/sysinfo.h>
#include <torch/version.h>

#include "lace/device.h"

namespace lace::train {
namespace {

std::string processor() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

}  // namespace

nlohmann::ordered_json machine(at::Device device) {
  struct sysinfo memory {};
  ::sysinfo(&memory);
  nlohmann::ordered_json json = {
      {"processor", processor()},
      {"cores", std::thread::hardware_concurrency()},
      {"memory_bytes", static_cast<uint64_t>(memory.totalram) * memory.mem_unit},
      {"threads", at::get_num_threads()},
      {"libtorch", TORCH_VERSION},
      {"device", device.str()}};
  if (device.is_cuda()) json["gpu"] = gpu_name(device);
  return json;
}

}  // namespace lace::train
