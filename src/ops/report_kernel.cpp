#include "ops/report_kernel.h"

#include <cstdlib>
#include <iostream>
#include <mutex>
#include <set>
#include <string>

#include <c10/util/Exception.h>

#include "lace/error.h"

namespace lace::ops {
namespace {

// Whether `text` is new.
bool is_first(const std::string& text) {
  constexpr size_t kMaxTexts = 1024;
  static std::mutex mutex;
  static std::set<std::string> told;
  std::lock_guard lock(mutex);
  if (told.size() >= kMaxTexts) told.clear();
  return told.insert(text).second;
}

bool is_verbose() {
  const char* value = std::getenv("LACE_VERBOSE");
  return value != nullptr && *value != '\0' && std::string_view(value) != "0";
}

}  // namespace

void report_kernel(const AttentionShape& shape, const Kernel& kernel,
                   const std::string& passed_over) {
  if (!passed_over.empty() && is_first(passed_over)) {
    const bool plain = kernel.name == "reference";
    TORCH_WARN("lace: attention runs ", kernel.name,
               plain ? ", plain loops that are exact and slow" : "",
               ", since faster kernels here cannot:", passed_over);
  }
  if (!is_verbose()) return;
  const std::string line =
      concat("lace: attention on ", shape.device == Device::kCpu ? "cpu" : "cuda", ", ",
             name(shape.dtype), ", batch ", shape.batch, ", heads ", shape.heads, "/",
             shape.kv_heads, ", seq_len ", shape.q_len, "/", shape.k_len, ", head_dim ",
             shape.qk_dim, "/", shape.v_dim, ": ", kernel.name, "\n");
  if (is_first(line)) std::cerr << line;
}

}  // namespace lace::ops
