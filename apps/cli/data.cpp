// lace data show: what a recipe's data are, before anything is trained on them.

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <memory>
#include <optional>
#include <sstream>

#include <nlohmann/json.hpp>

#include "lace/image.h"
#include "lace/train.h"

#include "arguments.h"
#include "commands.h"
#include "core/home.h"
#include "core/safe_text.h"
#include "data/yardsticks.h"
#include "data_paths.h"
#include "notes.h"
#include "output.h"
#include "terminal.h"

namespace lace::cli {

CLI::App* data_group(CLI::App& app) {
  const auto found =
      app.get_subcommands([](const CLI::App* command) { return command->get_name() == "data"; });
  if (!found.empty()) return found.front();
  CLI::App* group = app.add_subcommand("data", "What models are trained on");
  group->require_subcommand(1);
  group->footer(examples({"lace data show recipes/demo.toml", "lace data get enwik8 --to ~/data"}));
  return group;
}

namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kSampleBytes = int64_t{4} << 20;
constexpr int64_t kTextBytes = 240;  // of a window, in the terminal
constexpr int64_t kWaveColumns = 64, kPictureColumns = 1024, kPictureHeight = 128;

struct Options {
  std::string recipe, out;
  std::vector<std::string> overrides;
  int64_t windows = -1;
  bool json = false;
};

struct Split {
  const char* name;
  const DataSplit& data;
};

// Beginnings of the windows that training sees first.
std::vector<int64_t> first_windows(const Dataset& data, const Recipe& recipe, int64_t count) {
  const WindowSampler sampler(data.train, recipe.model.seq_len, recipe.train.seed,
                              data.record_bytes > 0);
  std::vector<int64_t> begins;
  for (int64_t i = 0; i < std::min(count, sampler.windows_per_epoch()); ++i)
    begins.push_back(sampler.begin(i));
  return begins;
}

std::vector<uint8_t> bytes_of(const DataSplit& split, int64_t begin, int64_t count) {
  std::vector<uint8_t> bytes(static_cast<size_t>(count));
  split.bytes.read(begin, bytes);
  return bytes;
}

// The beginning of a split as compression programs see it.
struct Sample {
  const char* split = "";
  int64_t bytes = 0;
  double gzip_bits = 0, xz_bits = 0;  // a byte
};

Sample measure_sample(const Dataset& data) {
  const Split from = data.test.size() > 0         ? Split{"test", data.test}
                     : data.validation.size() > 0 ? Split{"validation", data.validation}
                                                  : Split{"train", data.train};
  const std::vector<uint8_t> bytes =
      bytes_of(from.data, 0, std::min(kSampleBytes, from.data.size()));
  const auto bits = [&](int64_t packed) {
    return 8 * static_cast<double>(packed) / static_cast<double>(bytes.size());
  };
  return {from.name, static_cast<int64_t>(bytes.size()), bits(gzip_bytes(bytes)),
          bits(xz_bytes(bytes))};
}

// μ-law bytes around 127.5 as their distance from it, the largest of each of `columns` stretches.
std::vector<int> loudness(const std::vector<uint8_t>& window, int64_t columns) {
  std::vector<int> loudest(static_cast<size_t>(columns));
  for (size_t i = 0; i < window.size(); ++i) {
    int& column = loudest[i * loudest.size() / window.size()];
    column = std::max(column, std::abs(2 * window[i] - 255) / 2);
  }
  return loudest;
}

std::string wave_text(const std::vector<uint8_t>& window) {
  constexpr const char* kBars[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  std::string text;
  for (const int loud : loudness(window, kWaveColumns)) text += kBars[std::min(loud / 16, 7)];
  return text;
}

// What the window's samples are, from the lowest to the highest of each column: dark on white.
std::vector<uint8_t> wave_picture(const std::vector<uint8_t>& window) {
  std::vector<uint8_t> picture(static_cast<size_t>(kPictureColumns * kPictureHeight), 255);
  const auto columns = static_cast<size_t>(kPictureColumns);
  for (size_t i = 0; i < window.size(); ++i) {
    const size_t column = i * columns / window.size();
    const size_t here = window[i], next = i + 1 < window.size() ? window[i + 1] : here;
    for (size_t level = std::min(here, next) / 2; level <= std::max(here, next) / 2; ++level)
      picture[(static_cast<size_t>(kPictureHeight) - 1 - level) * columns + column] = 40;
  }
  return picture;
}

std::string safe(const std::vector<uint8_t>& bytes) {
  SafeText text;
  std::string result;
  for (const uint8_t byte : bytes) result += text.add(byte);
  return result + text.finish();
}

// One picture of all windows; nothing of text.
std::optional<Image> picture(const Dataset& data, const Recipe& recipe,
                             const std::vector<std::vector<uint8_t>>& windows) {
  std::vector<uint8_t> all;
  const ModelConfig& model = recipe.model;
  const bool audio = data.kind == DataKind::kAudio;
  if (windows.empty() || data.kind == DataKind::kText) return std::nullopt;
  for (const std::vector<uint8_t>& window : windows) {
    const std::vector<uint8_t> one = audio ? wave_picture(window) : window;
    all.insert(all.end(), one.begin(), one.end());
  }
  if (audio) return image_grid(all, kPictureHeight, kPictureColumns, 1, 1);
  return image_grid(all, model.image_height, model.image_width, model.image_channels);
}

std::string fixed(double value) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(3) << value;
  return out.str();
}

Json json_of(const Recipe& recipe, const Dataset& data, const std::vector<Split>& splits,
             const Sample& sample, const std::vector<int64_t>& begins,
             const std::vector<std::vector<uint8_t>>& windows, const std::string& file) {
  Json json = {{"recipe", recipe.name},
               {"kind", name(data.kind)},
               {"files", data.files},
               {"record_bytes", data.record_bytes},
               {"seq_len", recipe.model.seq_len},
               {"notes", data.notes},
               {"splits", Json::object()}};
  for (const Split& split : splits) {
    json["splits"][split.name] = {
        {"bytes", split.data.size()},
        {"pieces", split.data.pieces()},
        {"entropy_bits", split.data.size() > 0 ? Json(order_0_entropy(split.data.bytes)) : Json()}};
  }
  json["sample"] = {{"split", sample.split},
                    {"bytes", sample.bytes},
                    {"gzip_bits_per_byte", sample.gzip_bits},
                    {"xz_bits_per_byte", sample.xz_bits}};
  json["windows"] = Json::array();
  for (size_t i = 0; i < begins.size(); ++i) {
    json["windows"].push_back({{"begin", begins[i]}});
    if (data.kind == DataKind::kText) json["windows"].back()["text"] = safe(windows[i]);
  }
  json["picture"] = file.empty() ? Json() : Json(path_text(file));
  return json;
}

void print_splits(const Dataset& data, const std::vector<Split>& splits) {
  const char* unit = data.kind == DataKind::kImages  ? "images"
                     : data.kind == DataKind::kAudio ? "tracks"
                                                     : "";
  std::vector<std::string> header = {"split", "bytes"};
  if (*unit != '\0') header.emplace_back(unit);
  header.emplace_back("order-0 bits/byte");
  Table table(header);
  for (const Split& split : splits) {
    std::vector<std::string> row = {split.name, format_count(split.data.size())};
    if (data.kind == DataKind::kImages)
      row.push_back(format_count(split.data.size() / data.record_bytes));
    if (data.kind == DataKind::kAudio) row.push_back(format_count(split.data.pieces()));
    row.push_back(split.data.size() > 0 ? fixed(order_0_entropy(split.data.bytes)) : "");
    table.add(std::move(row));
  }
  std::cout << table.to_string();
}

void print_windows(const Dataset& data, const std::vector<int64_t>& begins,
                   const std::vector<std::vector<uint8_t>>& windows) {
  if (data.kind == DataKind::kImages) return;
  std::cout << "\nthe first windows of training\n";
  for (size_t i = 0; i < begins.size(); ++i) {
    std::cout << "\n" << colored(concat("byte ", format_count(begins[i])), Color::kCyan) << "\n";
    if (data.kind == DataKind::kAudio) {
      std::cout << wave_text(windows[i]) << "\n";
      continue;
    }
    const auto shown = std::min<size_t>(windows[i].size(), kTextBytes);
    std::cout << safe({windows[i].begin(), windows[i].begin() + static_cast<long>(shown)})
              << (shown < windows[i].size() ? " …" : "") << "\n";
  }
}

// The name of the file that the picture of the windows is written to; "" without --out or picture.
std::string write_picture(const std::string& folder, const std::optional<Image>& image) {
  if (folder.empty() || !image) return "";
  std::error_code failure;
  std::filesystem::create_directories(folder, failure);
  LACE_CHECK(!failure, "[data] cannot create ", path_text(folder), ": ", failure.message());
  const std::string file = (std::filesystem::path(folder) / "windows.png").native();
  write_file("data", file, encode_png(*image));
  return file;
}

void show(const Options& options) {
  Recipe recipe = load_recipe(options.recipe, options.overrides);
  recipe.data.change_places(expand_home);
  if (recipe.name.empty()) recipe.name = std::filesystem::path(options.recipe).stem().native();
  check_data_paths(recipe.data, "--set data.paths=FILE names others");
  const Dataset data = load_data(recipe, cache_beside("runs/" + recipe.name));
  const bool images = data.kind == DataKind::kImages;
  const int64_t count = options.windows >= 0 ? options.windows : images ? 25 : 3;
  const std::vector<int64_t> begins = first_windows(data, recipe, count);
  std::vector<std::vector<uint8_t>> windows;
  for (const int64_t begin : begins)
    windows.push_back(bytes_of(data.train, begin, recipe.model.seq_len));
  const std::string file = write_picture(options.out, picture(data, recipe, windows));
  const std::vector<Split> splits = {
      {"train", data.train}, {"validation", data.validation}, {"test", data.test}};
  const Sample sample = measure_sample(data);
  if (options.json) return print_json(json_of(recipe, data, splits, sample, begins, windows, file));
  print_notes(data);
  std::cout << path_text(recipe.name) << ": " << name(data.kind) << ", " << format_count(data.files)
            << (data.files == 1 ? " file" : " files") << ", windows of "
            << format_count(recipe.model.seq_len) << " bytes\n\n";
  print_splits(data, splits);
  std::cout << "\nthe first " << format_count(sample.bytes) << " bytes of " << sample.split
            << ": gzip -9 " << fixed(sample.gzip_bits) << ", xz -9 " << fixed(sample.xz_bits)
            << " bits/byte\n";
  print_windows(data, begins, windows);
  if (!file.empty()) {
    std::cout << "\n"
              << path_text(file) << ": the first " << windows.size() << " windows of training\n";
  } else if (images) {
    std::cout << "\n--out DIR writes the first " << windows.size() << " windows as a picture\n";
  }
}

void add_show(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = data_group(app)->add_subcommand(
      "show", "Shows a recipe's data: sizes, splits, what gzip and xz make of them, a few windows");
  add_recipe(*command, options->recipe, options->overrides);
  command
      ->add_option("--windows", options->windows,
                   "How many windows to show; default: 3, of images 25")
      ->transform(whole_number(0, 10'000));
  command->add_option("--out", options->out, "Folder for windows.png, of images and audio")
      ->transform(path());
  command->add_flag("--json", options->json, "Print JSON");
  command->footer(
      examples({"lace data show recipes/demo.toml",
                "lace data show recipes/cifar10.toml --set data.paths=~/cifar10 --out .",
                "lace data show recipes/enwik8.toml --windows 1 --json"}));
  command->callback([options] { show(*options); });
}

const Command kShow(Order::kData, add_show);

}  // namespace

}  // namespace lace::cli
