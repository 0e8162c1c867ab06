#include "train/run_folder.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <functional>
#include <sstream>

#include <unistd.h>

namespace lace::train {
namespace {

namespace fs = std::filesystem;

// The part of a recipe that decides whether a run is the same: all but where it ends, what is
// measured and kept on the way, which rank keeps what, and where the data are, of which a
// fingerprint is compared.
std::string identity(Recipe recipe) {
  const TrainConfig defaults;
  recipe.name.clear();
  recipe.data.cache.clear();
  recipe.data.paths.clear();
  recipe.data.validation_paths.clear();
  recipe.data.test_paths.clear();
  recipe.train.steps = defaults.steps;
  recipe.train.max_minutes = 0;
  recipe.train.validate_every = recipe.train.checkpoint_every = 0;
  recipe.train.validate_windows = defaults.validate_windows;
  recipe.train.keep_checkpoints = recipe.train.early_stop = recipe.train.sample_every = 0;
  recipe.train.spike = defaults.spike;
  recipe.train.sample_bytes = defaults.sample_bytes;
  recipe.train.sample_count = defaults.sample_count;
  recipe.train.shard_optimizer = defaults.shard_optimizer;
  recipe.eval = {};
  return to_toml(recipe);
}

// The first line in which two recipes as runs write them differ.
std::string difference(const std::string& ours, const std::string& asked) {
  std::istringstream run(ours), other(asked);
  std::string section;
  for (std::string a, b; std::getline(run, a) && std::getline(other, b);) {
    if (a != b) return concat(section, "`", a, "` in the run, `", b, "` asked for");
    if (!a.empty() && a.front() == '[') section = a + " ";
  }
  return "one has more keys";
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
  for (const int64_t step : kept_steps()) found.push_back(kept(step));
  return found;
}

std::vector<int64_t> RunFiles::kept_steps() const {
  std::vector<int64_t> steps;
  std::error_code failure;
  for (const auto& entry : fs::directory_iterator(folder, failure)) {
    if (entry.path().extension() != ".safetensors") continue;
    const std::optional<int64_t> step = kept_step(entry.path().stem().native());
    if (step) steps.push_back(*step);
  }
  std::sort(steps.begin(), steps.end(), std::greater<>());
  return steps;
}

std::optional<int64_t> kept_step(std::string_view name) {
  constexpr std::string_view kPrefix = "step-";
  if (!name.starts_with(kPrefix)) return std::nullopt;
  name.remove_prefix(kPrefix.size());
  int64_t step = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), step);
  const bool whole = error == std::errc() && end == name.data() + name.size();
  // As kept() writes it: no sign, no zeros before it.
  return whole && std::to_string(step) == name && step >= 0 ? std::optional(step) : std::nullopt;
}

bool RunFiles::holds_run() const {
  std::error_code absent;
  const auto bytes = fs::file_size(metrics(), absent);
  return !checkpoints().empty() || (!absent && bytes > 0);
}

TrainingFolder::TrainingFolder(const std::string& folder)
    : files_{folder}, made_(make_folders(folder)), lock_(lock_folder(files_)) {
  for (const std::string& file :
       {files_.recipe(), files_.description(), files_.metrics(), files_.samples()})
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
  const std::string ours = identity(load_recipe(files_.recipe())), asked = identity(recipe);
  LACE_CHECK(ours == asked, "[train] ", files_.folder,
             " holds a run of another recipe: ", difference(ours, asked), "; compare ",
             files_.recipe());
}

}  // namespace lace::train
