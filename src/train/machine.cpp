#include "train/machine.h"

#include <fstream>

#include <unistd.h>

#include <ATen/Parallel.h>
#include <sys/sysinfo.h>
#include <torch/version.h>

#include "lace/device.h"

#include "core/processor.h"
#include "ops/device_queue.h"

namespace lace::train {

nlohmann::ordered_json machine(at::Device device) {
  struct sysinfo memory {};
  ::sysinfo(&memory);
  const Processor processor = this_processor();
  nlohmann::ordered_json json = {
      {"processor", processor.name},
      {"cores", processor.cores},
      {"memory_bytes", static_cast<uint64_t>(memory.totalram) * memory.mem_unit},
      {"threads", at::get_num_threads()},
      {"libtorch", TORCH_VERSION},
      {"device", device.str()}};
  if (device.is_cuda()) json["gpu"] = gpu_name(device);
  return json;
}

int64_t memory_in_use(at::Device device) {
  if (!device.is_cpu()) return ops::take_peak_memory(device);
  int64_t pages = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident;
  return resident * ::sysconf(_SC_PAGESIZE);
}

}  // namespace lace::train
