// lace eval: bits a byte of a trained run, at one minimum context or over several, beside simpler
// models if asked.

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <optional>

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "lace/device.h"
#include "lace/train.h"

#include "arguments.h"
#include "baselines_file.h"
#include "commands.h"
#include "core/bounded_json.h"
#include "data_paths.h"
#include "eval_output.h"
#include "load_checked.h"
#include "notes.h"
#include "output.h"
#include "terminal.h"

namespace lace::cli {

namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string run, split = "test", checkpoint, device = "cpu";
  std::vector<std::string> data;
  int64_t min_context = -1;
  int64_t windows = 0;
  bool sweep = false, baselines = false, json = false;
};

// The bytes of a stream in a file without a name, which goes with this object.
class TemporaryFile {
 public:
  explicit TemporaryFile(const ByteStream& stream) {
    std::error_code failure;
    const std::filesystem::path folder = std::filesystem::temp_directory_path(failure);
    LACE_CHECK(!failure, "[eval] no folder for temporary files, set TMPDIR: ", failure.message());
    std::string name = (folder / "lace-eval-XXXXXX").string();
    fd_ = ::mkstemp(name.data());
    LACE_CHECK(fd_ >= 0, "[eval] cannot create ", name, ": ", std::strerror(errno));
    ::unlink(name.c_str());
    try {
      stream.each_chunk([&](std::span<const uint8_t> chunk) {
        const int error =
            write_all(fd_, {reinterpret_cast<const char*>(chunk.data()), chunk.size()});
        LACE_CHECK(error == 0, "[eval] cannot write ", name, ": ", std::strerror(error));
      });
    } catch (...) {
      ::close(fd_);
      throw;
    }
  }
  ~TemporaryFile() { ::close(fd_); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  // By which this process and its children can open it.
  std::string path() const { return concat("/dev/fd/", fd_); }

 private:
  int fd_;
};

// Bits a byte that a compression program needs for the file; nothing if it is not installed.
std::optional<double> compressed_bits(const std::string& program, const TemporaryFile& file,
                                      int64_t bytes) {
  const std::string command = "command -v " + program + " >/dev/null && " + program + " -9 -c < " +
                              file.path() + " | wc -c";
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
  for (const char* program : {"gzip", "bzip2", "xz"})
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

// What is scored: a split of the run's data, or all of --data; and what Markov models count.
struct Scored {
  DataSplit bytes, train;
  std::string name;          // "750,608 test bytes"
  int64_t files = 0;         // of --data
  int64_t record_bytes = 0;  // Dataset::record_bytes
};

Scored load_scored(const Recipe& recipe, const Options& options) {
  Scored scored;
  Dataset run;
  if (options.data.empty() || options.baselines) {
    check_data_paths(recipe.data, options.data.empty() ? "--data FILE scores others" : "");
    run = load_data(recipe, cache_beside(options.run));
  }
  print_notes(run);
  scored.train = run.train;
  if (options.data.empty()) {
    scored.bytes = options.split == "test"         ? run.test
                   : options.split == "validation" ? run.validation
                                                   : run.train;
    scored.record_bytes = run.record_bytes;
    scored.name = concat(format_count(scored.bytes.size()), " ", options.split, " bytes");
    LACE_CHECK(scored.bytes.size() > 0, "[eval] the ", options.split,
               " split has no bytes: give another --split, --data, or the run a data.",
               options.split, "_paths");
    return scored;
  }
  const Dataset given = load_whole(recipe, options.data, cache_beside(options.run));
  print_notes(given);
  scored.bytes = given.train;
  scored.files = given.files;
  scored.record_bytes = given.record_bytes;
  scored.name = concat("all ", format_count(scored.bytes.size()), " bytes of ",
                       options.data.size() == 1 ? path_text(options.data.front())
                                                : concat(format_count(given.files), " files"));
  return scored;
}

// What was measured: of a sweep, `result` is the row with the most context.
struct Measured {
  EvalResult result = {};
  int64_t min_context = 0;
  std::vector<SweepRow> sweep = {};
  std::vector<PieceScore> tracks = {};  // of audio
};

Measured measure(const LoadedRun& run, const Scored& scored, const Options& options) {
  ProgressBar bar("eval", 1000);
  const auto on_window = [&](int64_t done, int64_t total) { bar.update(1000 * done / total); };
  const EvalExtent extent{.most_windows = options.windows, .record_bytes = scored.record_bytes};
  Measured measured{.min_context = run.recipe.eval.min_context};
  if (options.sweep) {
    measured.sweep = sweep(*run.model, scored.bytes, run.recipe.eval, extent, on_window);
    measured.result = measured.sweep.back().result;
    measured.min_context = measured.sweep.back().min_context;
  } else {
    measured.result = evaluate(*run.model, scored.bytes, run.recipe.eval, extent, on_window);
  }
  if (run.recipe.data.kind == DataKind::kAudio) measured.tracks = by_piece(measured.result);
  return measured;
}

// Bytes of images are the paper's dims.
std::string unit_of(const Recipe& recipe) {
  return recipe.data.kind == DataKind::kImages ? "bits/dim" : "bits/byte";
}

// How the figure of the table came about.
void print_protocol(const Measured& measured, const Scored& scored) {
  const EvalResult& result = measured.result;
  const auto windows = static_cast<int64_t>(result.windows.size());
  double elapsed = result.elapsed_s;
  if (!measured.sweep.empty()) {
    elapsed = 0;
    for (const SweepRow& row : measured.sweep) elapsed += row.result.elapsed_s;
  }
  const bool part = windows < result.available_windows;
  if (const std::string interval = interval_text(result); !interval.empty()) {
    std::cout << interval
              << (scored.record_bytes > 0 ? ""
                                          : ", as if they were independent, which windows of one "
                                            "text are not")
              << ".\n";
  }
  if (part) {
    std::cout << "Scored " << format_count(result.bytes) << " bytes, in " << format_count(windows)
              << " of " << format_count(result.available_windows) << " windows, spread evenly.\n";
  }
  if (scored.record_bytes > 0) {
    std::cout << "Scored records of " << format_count(scored.record_bytes) << " bytes whole";
  } else {
    std::cout << "Scored with at least " << format_count(measured.min_context)
              << " bytes of context" << (part ? "" : " (from the second window on)");
  }
  std::cout << ", in " << format_duration(elapsed) << ".\n";
}

void print_table(const LoadedRun& run, const Measured& measured, const Options& options,
                 const Scored& scored, const std::vector<Baseline>& rows, const Json& training) {
  const int64_t bytes = measured.result.bytes;
  const std::string part =
      bytes < scored.bytes.size() ? concat(format_count(bytes), " of ") : std::string();
  Table table({concat("on ", part, scored.name), unit_of(run.recipe)});
  table.add({concat("this model, ", format_count(parameter_count(run.recipe.model)), " parameters"),
             bits_text(measured.result.bits_per_byte)});
  for (const Baseline& row : rows)
    table.add({row.name, row.bits_per_byte ? bits_text(row.bits_per_byte) : "not installed"});
  std::cout << table.to_string();
  if (!measured.sweep.empty())
    std::cout << "\n" << sweep_table(measured.sweep, unit_of(run.recipe));
  if (!measured.tracks.empty())
    std::cout << "\n" << tracks_text(measured.tracks, scored.bytes) << "\n";
  std::cout << "\n";
  if (!training.empty()) {
    std::cout << "trained on " << format_count(training["bytes_trained"].get<int64_t>())
              << " bytes in " << format_duration(training["elapsed_s"].get<double>()) << ", "
              << format_count(std::llround(training["tokens_per_s"].get<double>()))
              << " tokens/s\n";
  }
  print_protocol(measured, scored);
  std::cout << "run files in " << path_text(options.run) << "/\n";
}

// So that the run's report shows them: of a whole split, since the baselines are. Returns whether
// it is one.
bool keep(const Options& options, const LoadedRun& run, const Measured& measured,
          const std::vector<Baseline>& rows) {
  const EvalResult& result = measured.result;
  if (!options.data.empty() ||
      static_cast<int64_t>(result.windows.size()) < result.available_windows)
    return false;
  Json entry = {{"bytes", result.bytes},
                {"model",
                 {{"checkpoint", run.checkpoint},
                  {"step", run.step},
                  {"min_context", measured.min_context},
                  {"bits_per_byte", result.bits_per_byte}}},
                {"rows", Json::array()}};
  for (const Baseline& row : rows) {
    if (row.bits_per_byte)
      entry["rows"].push_back({{"name", row.name}, {"bits_per_byte", *row.bits_per_byte}});
  }
  keep_baselines(options.run, options.split, entry);
  return true;
}

Json to_json(const LoadedRun& run, const Measured& measured, const Options& options,
             const Scored& scored, const std::vector<Baseline>& rows, const Json& training) {
  const EvalResult& result = measured.result;
  Json json = {{"run", path_text(options.run)},
               {"checkpoint", run.checkpoint},
               {"step", run.step},
               {"split", options.data.empty() ? Json(options.split) : Json()},
               {"bytes", result.bytes},
               {"min_context", measured.min_context},
               {"unit", unit_of(run.recipe)},
               {"bits_per_byte", result.bits_per_byte},
               {"interval_95", interval_json(result.bits_per_byte, result.half_width)},
               {"windows", result.windows.size()},
               {"available_windows", result.available_windows},
               {"not_finite", run.not_finite},
               {"elapsed_s", result.elapsed_s},
               {"training", training}};
  if (!options.data.empty()) {
    json["data"] = options.data;
    json["files"] = scored.files;
  }
  if (!measured.sweep.empty()) json["sweep"] = sweep_json(measured.sweep);
  if (!measured.tracks.empty()) {
    json["tracks"] = tracks_json(measured.tracks, scored.bytes);
    json["mean_over_tracks"] = mean_over_tracks(measured.tracks);
  }
  for (const Baseline& row : rows)
    json["baselines"][row.name] = row.bits_per_byte ? Json(*row.bits_per_byte) : Json();
  return json;
}

void eval(const Options& options) {
  LoadedRun run = load_checked(options.run, options.checkpoint, find_device(options.device));
  if (options.min_context >= 0) run.recipe.eval.min_context = options.min_context;
  run.recipe.check();
  const Scored scored = load_scored(run.recipe, options);
  const Measured measured = measure(run, scored, options);
  std::vector<Baseline> rows;
  if (options.baselines) {
    rows = baselines(scored.train.bytes, scored.bytes.bytes);
    if (!keep(options, run, measured, rows))
      std::cerr << "not kept for the run's report, which shows baselines of a whole split\n";
  }
  const Json training = training_summary(options.run);
  if (options.json)
    print_json(to_json(run, measured, options, scored, rows, training));
  else
    print_table(run, measured, options, scored, rows, training);
}

void add_eval(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("eval", "Scores a run in bits a byte");
  command->add_option("run", options->run, "The run's folder")
      ->required()
      ->transform(path())
      ->check(CLI::ExistingDirectory);
  CLI::Option* split = command->add_option("--split", options->split, "test, validation or train");
  split->check(CLI::IsMember({"test", "validation", "train"}))->capture_default_str();
  CLI::Option* min_context =
      command->add_option("--min-context", options->min_context,
                          "Score each byte with at least so many before it; default: the recipe's");
  min_context->transform(whole_number(0));
  command
      ->add_flag("--sweep", options->sweep,
                 "Score at the paper's minimum contexts (Table 3), scaled to seq_len: 206 times "
                 "the work of a minimum context of 0")
      ->excludes(min_context);
  command
      ->add_option("--windows", options->windows,
                   "Score at most so many windows (each of a sweep), spread evenly; default: all")
      ->transform(whole_number(1));
  command->add_option("--data", options->data, "Score these files and folders, all of their bytes")
      ->transform(path())
      ->excludes(split);
  add_checkpoint(*command, options->checkpoint);
  command->add_flag(
      "--baselines", options->baselines,
      "Beside it: Markov models counted on the run's train split, gzip, bzip2 and xz -9");
  command->add_flag("--json", options->json, "Print JSON");
  add_device(*command, options->device, "Where to compute");
  add_threads(*command);
  command->footer(examples({"lace eval runs/demo --baselines",
                            "lace eval runs/demo --split validation --min-context 768 --json",
                            "lace eval runs/demo --sweep --windows 200",
                            "lace eval runs/demo --data /usr/include/stdio.h"}));
  command->callback([options] { eval(*options); });
}

const Command kEval(Order::kEval, add_eval);

}  // namespace

}  // namespace lace::cli
