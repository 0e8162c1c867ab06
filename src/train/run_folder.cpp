#include "train/run_folder.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <sys/sysinfo.h>
#include <torch/version.h>

#include "lace/device.h"
#include "lace/version.h"

#include "core/bounded_json.h"
#include "core/processor.h"
#include "train/checkpoint.h"

namespace lace {
namespace train {
namespace {

std::string now_utc() {
  const std::time_t now = std::time(nullptr);
  char text[32];
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

// The two parts of a recipe that decide whether a run is the same: all but where it ends and what
// is measured on the way.
std::string identity(Recipe recipe) {
  const TrainConfig defaults;
  recipe.name.clear();
  recipe.train.steps = defaults.steps;
  recipe.train.max_minutes = 0;
  recipe.train.validate_every = recipe.train.checkpoint_every = 0;
  recipe.train.validate_windows = defaults.validate_windows;
  recipe.eval = {};
  return to_toml(recipe);
}

// Nothing if the line is torn.
std::optional<int64_t> step_of(const std::string& line) try {
  const nlohmann::json entry = parse_json(line, "[train] a line of metrics.jsonl");
  if (!entry.is_object()) return std::nullopt;
  const auto step = entry.find("step");
  if (step == entry.end() || !step->is_number_integer()) return std::nullopt;
  return step->get<int64_t>();
} catch (const Error&) {
  return std::nullopt;
}

// Metrics as JSON lines. On resuming, lines of steps after the checkpoint are dropped.
class Metrics {
 public:
  Metrics(const std::string& path, int64_t keep_up_to) {
    std::string kept;
    if (keep_up_to > 0) {
      std::ifstream old(path);
      for (std::string line; std::getline(old, line);) {
        if (step_of(line).value_or(keep_up_to + 1) <= keep_up_to) kept += line + "\n";
      }
    }
    out_.open(path, std::ios::trunc);
    out_ << kept << std::flush;
    LACE_CHECK(out_.good(), "[train] cannot write ", path);
  }

  void add(const TrainProgress& p) {
    nlohmann::ordered_json line = {{"step", p.step},
                                   {"loss", p.loss},
                                   {"bits_per_byte", p.bits_per_byte},
                                   {"learning_rate", p.learning_rate},
                                   {"gradient_norm", p.gradient_norm},
                                   {"tokens_per_s", std::round(p.tokens_per_s)},
                                   {"elapsed_s", p.elapsed_s}};
    if (p.validation_bits_per_byte) line["validation_bits_per_byte"] = *p.validation_bits_per_byte;
    out_ << line.dump() << std::endl;
  }

 private:
  std::ofstream out_;
};

void write_description(const std::string& folder, const Recipe& recipe, const TextData& data,
                       at::Device device) {
  const nlohmann::ordered_json run = {
      {"started", now_utc()},
      {"recipe", recipe.name},
      {"version", version()},
      {"commit", commit()},
      {"machine", machine(device)},
      {"seed", {{"model", recipe.model.seed}, {"data", recipe.train.seed}}},
      {"parameters", parameter_count(recipe.model)},
      {"files", data.files},
      {"bytes",
       {{"train", data.train.size()},
        {"validation", data.validation.size()},
        {"test", data.test.size()}}}};
  write_file_atomically(folder + "/run.json", run.dump(2) + "\n");
  write_file_atomically(folder + "/recipe.toml", to_toml(recipe));
}

// The weights that were validated, alone.
void save_best(Trainer& trainer, const std::string& path, double validation) {
  std::vector<NamedParameter> weights;
  for (const NamedParameter& p : trainer.validated_weights())
    weights.push_back({"model." + p.name, p.tensor});
  const nlohmann::ordered_json state = {{"format", 1},
                                        {"step", trainer.step()},
                                        {"validation_bits_per_byte", validation},
                                        {"version", version()},
                                        {"commit", commit()},
                                        {"machine", machine(trainer.model().device())}};
  write_safetensors(path, weights, {{"lace", state.dump()}});
  write_file_atomically(json_path(path), state.dump(2) + "\n");
}

}  // namespace

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

std::string json_path(const std::string& safetensors_path) {
  return std::filesystem::path(safetensors_path).replace_extension(".json").string();
}

nlohmann::json checkpoint_state(const std::map<std::string, std::string>& metadata,
                                const std::string& path) {
  const auto found = metadata.find("lace");
  const auto state = found == metadata.end()
                         ? nlohmann::json()
                         : parse_json(found->second, concat("[checkpoint] ", path, " metadata"));
  LACE_CHECK(state.is_object() && state.value("format", 0) == 1, "[checkpoint] ", path,
             " is no lace checkpoint of format 1");
  return state;
}

}  // namespace train

namespace {

struct Folder {
  std::string path;
  std::string last() const { return path + "/last.safetensors"; }
  std::string best() const { return path + "/best.safetensors"; }
  std::string recipe() const { return path + "/recipe.toml"; }
};

// Makes the folder ready; true if there is a checkpoint to resume from.
bool open_folder(const Folder& folder, const Recipe& recipe, bool resume) {
  std::error_code failure;
  std::filesystem::create_directories(folder.path, failure);
  LACE_CHECK(!failure, "[train] cannot create ", folder.path, ": ", failure.message());
  if (!std::filesystem::exists(folder.recipe())) return false;
  LACE_CHECK(resume, "[train] ", folder.path,
             " already holds a run: resume it (--resume) or choose another folder");
  LACE_CHECK(train::identity(load_recipe(folder.recipe())) == train::identity(recipe), "[train] ",
             folder.path, " holds a run of another recipe: compare ", folder.recipe());
  return std::filesystem::exists(folder.last());
}

std::optional<double> read_best(const Folder& folder) {
  if (!std::filesystem::exists(folder.best())) return std::nullopt;
  return train::checkpoint_state(train::read_safetensors(folder.best(), {}), folder.best())
      .at("validation_bits_per_byte")
      .get<double>();
}

bool is_due(int64_t every, int64_t step) { return every > 0 && step % every == 0; }

}  // namespace

TextData load_data(const Recipe& recipe) {
  LACE_CHECK(!recipe.data.paths.empty(),
             "[train] the recipe names no data: set data.paths to files or folders");
  return load_text({.paths = recipe.data.paths,
                    .validation_fraction = recipe.data.validation_fraction,
                    .test_fraction = recipe.data.test_fraction,
                    .record_bytes = std::max<int64_t>(1, recipe.data.record_bytes)});
}

RunResult train_run(const Recipe& recipe, const RunOptions& options) {
  recipe.check();
  const Folder folder{options.folder};
  TextData data = load_data(recipe);
  if (options.on_data) options.on_data(data);
  const bool resumed = open_folder(folder, recipe, options.resume);
  train::write_description(folder.path, recipe, data, options.device);
  Trainer trainer(recipe, std::move(data), options.device);
  RunResult result;
  if (resumed) {
    trainer.load(folder.last());
    result.best_validation_bits_per_byte = read_best(folder);
  } else {
    std::filesystem::remove(folder.best());
  }
  train::Metrics metrics(folder.path + "/metrics.jsonl", trainer.step());

  const auto validate = [&] {
    const std::optional<double> bits = trainer.validate();
    if (!bits) return;
    result.validation_bits_per_byte = bits;
    if (result.best_validation_bits_per_byte && *bits >= *result.best_validation_bits_per_byte)
      return;
    result.best_validation_bits_per_byte = bits;
    train::save_best(trainer, folder.best(), *bits);
  };

  bool finished = trainer.done(), stopped = false;
  while (!finished && !stopped) {
    TrainProgress progress = trainer.take_step();
    const bool due = is_due(recipe.train.validate_every, progress.step);
    if (due) validate();
    finished = trainer.done();  // by time, perhaps only since the validation
    if (finished && !due) validate();
    if (due || finished) progress.validation_bits_per_byte = result.validation_bits_per_byte;
    metrics.add(progress);
    stopped = options.on_step && !options.on_step(progress);
    if (is_due(recipe.train.checkpoint_every, progress.step)) trainer.save(folder.last());
  }
  if (trainer.step() > 0) trainer.save(folder.last());
  result.steps = trainer.step();
  result.elapsed_s = trainer.elapsed_s();
  result.finished = finished;
  result.tokens =
      result.steps * recipe.train.batch * recipe.train.accumulate * recipe.model.seq_len;
  if (result.elapsed_s > 0)
    result.tokens_per_s = static_cast<double>(result.tokens) / result.elapsed_s;
  return result;
}

LoadedRun load_run(const std::string& folder_path, const std::string& checkpoint,
                   at::Device device) {
  const Folder folder{folder_path};
  LACE_CHECK(std::filesystem::exists(folder.recipe()), "[run] ", folder_path,
             " is no run folder: it has no recipe.toml");
  LACE_CHECK(checkpoint.empty() || checkpoint == "best" || checkpoint == "last",
             "[run] a checkpoint is best or last, got ", checkpoint);
  LoadedRun run;
  run.recipe = load_recipe(folder.recipe());
  const bool best =
      checkpoint.empty() ? std::filesystem::exists(folder.best()) : checkpoint == "best";
  run.checkpoint = best ? "best" : "last";
  const std::string path = best ? folder.best() : folder.last();
  LACE_CHECK(std::filesystem::exists(path), "[run] ", folder_path, " has no checkpoint yet (", path,
             ")");
  run.model = std::make_unique<SparseTransformer>(run.recipe.model, device);
  const bool mean = !best && run.recipe.optimizer.ema > 0;
  std::vector<NamedParameter> weights;
  for (const NamedParameter& p : run.model->parameters())
    weights.push_back({(mean ? "adam.ema." : "model.") + p.name, p.tensor});
  const auto state = train::checkpoint_state(train::read_safetensors(path, weights), path);
  run.step = state.at("step").get<int64_t>();
  return run;
}

}  // namespace lace
