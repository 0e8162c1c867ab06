#include "baselines_file.h"

#include <filesystem>
#include <iostream>

#include <nlohmann/json.hpp>

#include "lace/error.h"

#include "core/bounded_json.h"
#include "core/safe_text.h"
#include "output.h"
#include "report.h"

namespace lace::cli {

void keep_baselines(const std::string& run, const std::string& split,
                    const nlohmann::ordered_json& entry) {
  const std::string path = run + "/baselines.json";
  try {
    nlohmann::ordered_json kept = nlohmann::ordered_json::object();
    if (std::filesystem::exists(path)) {
      try {
        kept = read_json(path, "eval");
      } catch (const Error&) {  // it is replaced
      }
      if (!kept.is_object()) kept = nlohmann::ordered_json::object();
    }
    kept[split] = entry;
    write_file("eval", path, kept.dump(2) + "\n");
    renew_report(run);
  } catch (const std::exception& error) {
    std::cerr << "lace: warning: " << printable(error.what()) << "\n";
  }
}

}  // namespace lace::cli
