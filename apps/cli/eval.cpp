// lace eval: bits a byte of a trained run, beside simpler models if asked.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <memory>
#include <optional>

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "lace/device.h"
#include "lace/train.h"

#include "commands.h"
#include "core/bounded_json.h"
#include "load_checked.h"
#include "notes.h"
#include "terminal.h"

namespace lace::cli {

namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string run, split = "test", checkpoint, device = "cpu";
  std::vector<std::string> data;
  int64_t min_context = -1;
  bool baselines = false, json = false;
};

// A file that is gone when this object is.
class TemporaryFile {
 public:
  explicit TemporaryFile(const ByteStream& stream) {
    path_ = (std::filesystem::temp_directory_path() / "lace-eval-XXXXXX").string();
    const int fd = ::mkstemp(path_.data());
    LACE_CHECK(fd >= 0, "[eval] cannot create ", path_);
    ::close(fd);
    std::ofstream file(path_, std::ios::binary);
    stream.each_chunk([&](std::span<const uint8_t> chunk) {
      file.write(reinterpret_cast<const char*>(chunk.data()),
                 static_cast<std::streamsize>(chunk.size()));
    });
    file.close();
    LACE_CHECK(file.good(), "[eval] cannot write ", path_);
  }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Bits a byte that a compression program needs for the file; nothing if it is not installed.
std::optional<double> compressed_bits(const std::string& program, const TemporaryFile& file,
                                      int64_t bytes) {
  const std::string command = "command -v " + program + " >/dev/null && " + program + " -9 -c < '" +
                              file.path() + "' | wc -c";
  std::FILE* pipe = ::popen(command.c_str(), "r");
  long long compressed = 0;
  const bool read = pipe != nullptr && std::fscanf(pipe, "%lld", &compressed) == 1;
  const bool succeeded = pipe != nullptr && ::pclose(pipe) == 0;
  if (!read || !succeeded || compressed == 0) return std::nullopt;
  return 8.0 * static_cast<double>(compressed) / static_cast<double>(bytes);
}

struct Baseline {
  std::string name;
  std::optional<double> bits_per_byte;
};

std::vector<Baseline> baselines(const ByteStream& train, const ByteStream& scored) {
  std::vector<Baseline> rows;
  const std::vector<double> markov = markov_bits_per_byte(train, scored);
  for (size_t order = 0; order < markov.size(); ++order)
    rows.push_back({concat("Markov model of order ", order), markov[order]});
  const TemporaryFile file(scored);
  for (const char* program : {"gzip", "xz"})
    rows.push_back({concat(program, " -9"), compressed_bits(program, file, scored.size())});
  return rows;
}

// What the run's last checkpoint says of its training; nothing, and a warning, if it cannot be
// read.
Json training_summary(const std::string& run) {
  const std::string path = run + "/last.json";
  if (!std::filesystem::exists(path)) return {};
  nlohmann::json last;
  try {
    last = read_json(path, "run");
  } catch (const Error&) {
  }
  const auto is_number = [&](const char* key) {
    return last.contains(key) && last[key].is_number();
  };
  if (!last.is_object() || !is_number("step") || !is_number("elapsed_s") ||
      !is_number("bytes_trained")) {
    std::cerr << "lace: warning: " << path_text(path) << " is not the summary of a checkpoint\n";
    return {};
  }
  const double elapsed = last["elapsed_s"].get<double>(),
               bytes = last["bytes_trained"].get<double>();
  return {{"steps", last["step"].get<int64_t>()},
          {"bytes_trained", std::llround(bytes)},
          {"elapsed_s", elapsed},
          {"tokens_per_s", elapsed > 0 ? bytes / elapsed : 0.0}};
}

std::string bits(const std::optional<double>& value) {
  if (!value) return "not installed";
  std::ostringstream out;
  out << std::fixed << std::setprecision(3) << *value;
  return out.str();
}

void print_table(const LoadedRun& run, const EvalResult& result, const Options& options,
                 const std::vector<Baseline>& rows, const Json& training) {
  Table table(
      {concat("on ", format_count(result.bytes), " ", options.split, " bytes"), "bits/byte"});
  table.add({concat("this model, ", format_count(parameter_count(run.recipe.model)), " parameters"),
             bits(result.bits_per_byte)});
  for (const Baseline& row : rows) table.add({row.name, bits(row.bits_per_byte)});
  std::cout << table.to_string();
  if (!training.empty()) {
    std::cout << "\ntrained on " << format_count(training["bytes_trained"].get<int64_t>())
              << " bytes in " << format_duration(training["elapsed_s"].get<double>()) << ", "
              << format_count(std::llround(training["tokens_per_s"].get<double>()))
              << " tokens/s\n";
  }
  std::cout << "scored with at least " << run.recipe.eval.min_context
            << " bytes of context (from the second window on) in "
            << format_duration(result.elapsed_s) << "\nrun files in " << path_text(options.run)
            << "/\n";
}

void eval(const Options& options) {
  LoadedRun run = load_checked(options.run, options.checkpoint, find_device(options.device));
  if (!options.data.empty()) run.recipe.data.paths = options.data;
  if (options.min_context >= 0) run.recipe.eval.min_context = options.min_context;
  run.recipe.check();
  const TextData data = load_data(run.recipe);
  print_notes(data);
  const ByteStream& stream = options.split == "test"         ? data.test
                             : options.split == "validation" ? data.validation
                                                             : data.train;
  LACE_CHECK(stream.size() > 0, "[eval] the ", options.split, " split has no bytes");
  EvalResult result;
  {
    ProgressBar bar("eval", 1000);
    result = evaluate(*run.model, stream, run.recipe.eval,
                      [&](int64_t done, int64_t total) { bar.update(1000 * done / total); });
  }
  std::vector<Baseline> rows;
  if (options.baselines) rows = baselines(data.train, stream);
  const Json training = training_summary(options.run);
  if (!options.json) return print_table(run, result, options, rows, training);
  Json json = {{"run", path_text(options.run)},
               {"checkpoint", run.checkpoint},
               {"step", run.step},
               {"split", options.split},
               {"bytes", result.bytes},
               {"min_context", run.recipe.eval.min_context},
               {"bits_per_byte", result.bits_per_byte},
               {"not_finite", run.not_finite},
               {"elapsed_s", result.elapsed_s},
               {"training", training}};
  for (const Baseline& row : rows)
    json["baselines"][row.name] = row.bits_per_byte ? Json(*row.bits_per_byte) : Json();
  std::cout << json.dump(2) << "\n";
}

void add_eval(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("eval", "Scores a run in bits a byte");
  command->add_option("run", options->run, "The run's folder")
      ->required()
      ->check(CLI::ExistingDirectory);
  command->add_option("--split", options->split, "test, validation or train")
      ->check(CLI::IsMember({"test", "validation", "train"}))
      ->capture_default_str();
  command
      ->add_option("--min-context", options->min_context,
                   "Score each byte with at least so many before it; default: the recipe's")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--data", options->data, "Other files and folders than the recipe's");
  command
      ->add_option("--checkpoint", options->checkpoint,
                   "best, last or previous; default: best if any")
      ->check(CLI::IsMember({"best", "last", "previous"}));
  command->add_flag("--baselines", options->baselines,
                    "Beside it: Markov models counted on the train split, gzip -9 and xz -9");
  command->add_flag("--json", options->json, "Print JSON");
  add_device(*command, options->device, "Where to compute");
  add_threads(*command);
  command->footer(examples({"lace eval runs/demo --baselines",
                            "lace eval runs/demo --split validation --min-context 768 --json"}));
  command->callback([options] { eval(*options); });
}

const Command kEval(Order::kEval, add_eval);

}  // namespace

}  // namespace lace::cli
