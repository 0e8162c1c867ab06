// lace info: what this build and this machine can do.

#include <cstdlib>
#include <iostream>
#include <map>
#include <memory>

#include <nlohmann/json.hpp>
#include <torch/version.h>

#include "lace/error.h"
#include "lace/version.h"

#include "commands.h"
#include "core/processor.h"
#include "kernels/kernel.h"
#include "ops/device_stream.h"
#include "ops/torch_context.h"
#include "output.h"
#include "terminal.h"

namespace lace::cli {

namespace {

using Json = nlohmann::ordered_json;

// The kernel that attention with this dtype runs; null, and json["error"] says why, if none does.
Json selected(Device device, DType dtype, Json& json) {
  AttentionShape shape;
  shape.device = device;
  shape.dtype = dtype;
  shape.batch = 1;
  shape.heads = shape.kv_heads = 8;
  shape.q_len = shape.k_len = 4096;
  shape.qk_dim = shape.v_dim = 64;
  try {
    return std::string(select_kernel(shape).name);
  } catch (const Error& error) {
    json["error"] = error.what();
    return {};
  }
}

Json describe() {
  const Processor processor = this_processor();
  Json json;
  json["version"] = version();
  json["commit"] = commit();
  json["libtorch"] = TORCH_VERSION;
  json["processor"] = processor.name;
  json["cores"] = processor.cores;
  json["features"] = processor.features;
  json["threads"] = ops::torch_executor().num_threads();
  Json& list = json["kernels"] = Json::array();
  for (const std::string_view name : kernels_without_cuda()) {
    list.push_back({{"name", name},
                    {"device", "cuda"},
                    {"available", false},
                    {"reason", "built without CUDA"}});
  }
  for (const Kernel& kernel : kernels()) {
    const std::string reason = kernel.unavailable();
    list.push_back({{"name", kernel.name},
                    {"device", kernel.device == Device::kCpu ? "cpu" : "cuda"},
                    {"available", reason.empty()},
                    {"reason", reason}});
  }
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFloat64}) {
    json["selected"][std::string(name(dtype))] = selected(Device::kCpu, dtype, json);
  }
  json["gpus"] = Json::array();
  for (const ops::Gpu& gpu : ops::gpus()) {
    json["gpus"].push_back(
        {{"name", gpu.name}, {"capability", gpu.capability}, {"memory_bytes", gpu.memory_bytes}});
  }
  if (!json["gpus"].empty()) {
    for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
      json["selected_cuda"][std::string(name(dtype))] = selected(Device::kCuda, dtype, json);
    }
  }
  const char* forced = std::getenv("LACE_KERNEL");
  json["forced"] = forced == nullptr || *forced == '\0' ? Json() : Json(forced);
  return json;
}

// Each kernel that is selected, or the reason why none is, with what for.
std::map<std::string, std::string> by_kernel(const Json& json) {
  std::map<std::string, std::string> found;
  for (const auto& [key, suffix] : {std::pair("selected", ""), {"selected_cuda", " (GPU)"}}) {
    if (!json.contains(key)) continue;
    for (const auto& [dtype, kernel] : json[key].items()) {
      std::string& dtypes = found[(kernel.is_null() ? json["error"] : kernel).get<std::string>()];
      dtypes += concat(dtypes.empty() ? "" : ", ", dtype, suffix);
    }
  }
  return found;
}

void print(const Json& json) {
  auto line = [](const std::string& key, const std::string& value) {
    std::cout << colored(key, Color::kBold) << std::string(12 - key.size(), ' ') << value << "\n";
  };
  std::string features;
  for (const auto& feature : json["features"]) {
    features.append(features.empty() ? "" : " ").append(feature.get<std::string>());
  }
  line("lace",
       json["version"].get<std::string>() + " (commit " + json["commit"].get<std::string>() + ")");
  line("libtorch", json["libtorch"]);
  line("processor", json["processor"]);
  line("features", features);
  for (const auto& gpu : json["gpus"]) {
    line("GPU", concat(gpu["name"].get<std::string>(), ", compute capability ",
                       gpu["capability"].get<std::string>(), ", ",
                       gpu["memory_bytes"].get<int64_t>() >> 30, " GiB"));
  }
  if (json["gpus"].empty())
    line("GPU", kernels_without_cuda().empty() ? "none found" : "none: built without CUDA");
  line("threads", concat(json["threads"].get<int>(), " of ", json["cores"].get<int>(), " cores"));
  std::cout << "\n";
  Table table({"kernel", "device", "can run"});
  for (const auto& kernel : json["kernels"]) {
    table.add({kernel["name"], kernel["device"],
               kernel["available"]
                   ? colored("yes", Color::kGreen)
                   : colored("no: " + kernel["reason"].get<std::string>(), Color::kYellow)});
  }
  std::cout << table.to_string() << "\n";
  const std::string forced = json["forced"].is_null()
                                 ? ""
                                 : concat(" (LACE_KERNEL=", json["forced"].get<std::string>(), ")");
  for (const auto& [kernel, dtypes] : by_kernel(json)) {
    std::cout << "attention, head_dim 64, " << dtypes << ": " << kernel << forced << "\n";
  }
}

void add_info(CLI::App& app) {
  auto as_json = std::make_shared<bool>(false);
  CLI::App* command = app.add_subcommand("info", "Shows the version, the processor, the kernels");
  command->add_flag("--json", *as_json, "Print JSON");
  add_threads(*command);
  command->footer(
      examples({"lace info", "lace info --json", "LACE_KERNEL=cpu_portable lace info"}));
  command->callback([as_json] {
    const Json json = describe();
    if (*as_json) {
      print_json(json);
    } else {
      print(json);
    }
  });
}

const Command kInfo(Order::kInfo, add_info);

}  // namespace

}  // namespace lace::cli
