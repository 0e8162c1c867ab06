#include "train/json_lines.h"

#include <cerrno>
#include <cstring>
#include <fstream>

#include <fcntl.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "lace/error.h"

#include "core/bounded_json.h"

namespace lace::train {
namespace {

// The step that a line tells of; -1 if it is none.
int64_t step_of(const std::string& line) try {
  const nlohmann::json entry = parse_json(line, "[train] a line of a run's file");
  const auto step = entry.is_object() ? entry.find("step") : entry.end();
  return step != entry.end() && step->is_number_unsigned() ? step->get<int64_t>() : -1;
} catch (const Error&) {
  return -1;
}

}  // namespace

JsonLines::JsonLines(const std::string& path, int64_t keep_up_to) : path_(path) {
  AtomicFile kept(path);
  if (keep_up_to > 0) {
    std::ifstream old(path);
    for (std::string line; std::getline(old, line);) {
      const int64_t step = step_of(line);
      if (step < 0 || step > keep_up_to) continue;
      line += '\n';
      kept.write({line.data(), line.size()});
    }
    LACE_CHECK(!old.bad(), "[train] cannot read ", path);
  }
  kept.commit();
  file_ = Descriptor(::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC));
  LACE_CHECK(file_.get() >= 0, "[train] cannot open ", path, ": ", std::strerror(errno));
}

void JsonLines::add(const nlohmann::ordered_json& entry) {
  const std::string line = entry.dump() + "\n";
  file_.write({line.data(), line.size()}, path_);
  LACE_CHECK(file_.is_named(path_), "[train] ", path_,
             " is gone or another file: the run's metrics cannot be kept");
}

void JsonLines::sync() const {
  LACE_CHECK(::fdatasync(file_.get()) == 0, "[train] cannot write ", path_, ": ",
             std::strerror(errno));
}

}  // namespace lace::train
