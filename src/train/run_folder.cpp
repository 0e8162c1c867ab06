#include "train/run_folder.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include <unistd.h>

namespace lace::train {
namespace {

namespace fs = std::filesystem;

// The part of a recipe that decides whether a run is the same: all but where it ends, what is
// measured on the way, and which rank keeps what.
std::string identity(Recipe recipe) {
  const TrainConfig defaults;
  recipe.name.clear();
  recipe.data.cache.clear();
  recipe.train.steps = defaults.steps;
  recipe.train.max_minutes = 0;
  recipe.train.validate_every = recipe.train.checkpoint_every = 0;
  recipe.train.validate_windows = defaults.validate_windows;
  recipe.train.shard_optimizer = defaults.shard_optimizer;
  recipe.eval = {};
  return to_toml(recipe);
}

// Makes a folder and those above it; the ones that were not there, the outermost first.
std::vector<fs::path> make_folders(const fs::path& folder) {
  std::vector<fs::path> missing;
  std::error_code failure;
  for (fs::path path = fs::absolute(folder).lexically_normal();
       !path.empty() && !fs::exists(path, failure) && path != path.parent_path();
       path = path.parent_path()) {
    if (path.has_filename()) missing.insert(missing.begin(), path);
  }
  fs::create_directories(folder, failure);
  LACE_CHECK(!failure, "[train] cannot create ", folder.native(), ": ", failure.message());
  return missing;
}

// Does the file hold a recipe as runs write it?
bool is_resolved(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  try {
    return to_toml(load_recipe(path)) == text.str();
  } catch (const Error&) {
    return false;
  }
}

Descriptor lock_folder(const RunFiles& files) {
  std::optional<Descriptor> lock = open_locked(files.lock());
  if (!lock) {
    std::string process;
    std::ifstream(files.lock()) >> process;
    throw Error(concat("[train] ", files.folder, " is being trained in by ",
                       process.empty() ? "another process" : "process " + process,
                       ": wait for it, stop it, or choose another folder"));
  }
  const std::string process = concat(::getpid(), "\n");
  LACE_CHECK(::ftruncate(lock->get(), 0) == 0, "[train] cannot write ", files.lock(), ": ",
             std::strerror(errno));
  lock->write({process.data(), process.size()}, files.lock());
  return std::move(*lock);
}

}  // namespace

std::string json_path(const std::string& safetensors_path) {
  return fs::path(safetensors_path).replace_extension(".json").native();
}

bool RunFiles::has(const std::string& name) const { return fs::exists(checkpoint(name)); }

std::vector<std::string> RunFiles::checkpoints() const {
  std::vector<std::string> found;
  for (const char* name : {"best", "last", "previous"})
    if (has(name)) found.emplace_back(name);
  return found;
}

bool RunFiles::holds_run() const {
  std::error_code absent;
  const auto bytes = fs::file_size(metrics(), absent);
  return !checkpoints().empty() || (!absent && bytes > 0);
}

TrainingFolder::TrainingFolder(const std::string& folder)
    : files_{folder}, made_(make_folders(folder)), lock_(lock_folder(files_)) {
  for (const std::string& file : {files_.recipe(), files_.description(), files_.metrics()})
    if (!fs::exists(file)) new_files_.push_back(file);
}

TrainingFolder::~TrainingFolder() {
  if (!kept_) {
    for (const std::string& file : new_files_) ::unlink(file.c_str());
  }
  if (lock_.is_named(files_.lock())) ::unlink(files_.lock().c_str());
  if (kept_) return;
  for (size_t i = made_.size(); i-- > 0;) {
    if (::rmdir(made_[i].c_str()) != 0) break;
  }
}

void TrainingFolder::check(const Recipe& recipe, bool resume) const {
  if (!files_.holds_run()) {
    LACE_CHECK(!fs::exists(files_.recipe()) || is_resolved(files_.recipe()), "[train] ",
               files_.recipe(), " is there, but no run wrote it: choose another folder");
    return;
  }
  LACE_CHECK(resume, "[train] ", files_.folder,
             " already holds a run: resume it (--resume) or choose another folder");
  LACE_CHECK(fs::exists(files_.recipe()), "[train] ", files_.folder,
             " holds a run, but not its recipe: ", files_.recipe(), " is missing");
  LACE_CHECK(identity(load_recipe(files_.recipe())) == identity(recipe), "[train] ", files_.folder,
             " holds a run of another recipe: compare ", files_.recipe());
}

}  // namespace lace::train
