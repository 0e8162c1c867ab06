// lace sample: draws bytes from a trained run, or images or audio.

#include <chrono>
#include <filesystem>
#include <iostream>
#include <memory>
#include <span>
#include <string_view>

#include <nlohmann/json.hpp>

#include "lace/audio.h"
#include "lace/device.h"
#include "lace/generate.h"
#include "lace/image.h"
#include "lace/train.h"

#include "arguments.h"
#include "commands.h"
#include "core/regular_file.h"
#include "core/safe_text.h"
#include "load_checked.h"
#include "output.h"
#include "terminal.h"

namespace lace::cli {

namespace {

using Json = nlohmann::ordered_json;

// The most that a prompt's file may hold: more than any model looks at.
constexpr int64_t kMaxPromptBytes = int64_t{1} << 30;

struct Options {
  std::string run, prompt, prompt_file, out, checkpoint, device = "cpu";
  SampleOptions sample;  // length -1: what fits
  int64_t count = 1;
  bool raw = false, json = false;
};

std::string_view chars(std::span<const uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// The bytes of the upper half of a picture's rows, made into the size of the run's images.
std::string upper_half(const Recipe& recipe, const std::string& file, const std::string& name) {
  const ModelConfig& model = recipe.model;
  Image image = decode_image({reinterpret_cast<const uint8_t*>(file.data()), file.size()}, name);
  image = resized(with_channels(std::move(image), model.image_channels, name), model.image_height,
                  model.image_width, recipe.data.resize, name);
  const int64_t rows = model.image_height / 2;
  return {reinterpret_cast<const char*>(image.pixels.data()),
          static_cast<size_t>(rows * model.image_width * model.image_channels)};
}

bool is_picture(std::string_view bytes) {
  return bytes.starts_with("\x89PNG\r\n") || bytes.starts_with("\xff\xd8\xff");
}

std::string prompt_of(const Options& options, const Recipe& recipe) {
  if (options.prompt_file.empty()) return options.prompt;
  const RegularFile file(options.prompt_file, "sample");
  LACE_CHECK(file.bytes() <= kMaxPromptBytes, "[sample] a prompt's file must hold at most ",
             kMaxPromptBytes, " bytes, got ", file.bytes());
  std::string bytes(static_cast<size_t>(file.bytes()), '\0');
  file.read(0, bytes.data(), file.bytes());
  if (recipe.data.kind == DataKind::kImages && is_picture(bytes))
    return upper_half(recipe, bytes, path_text(options.prompt_file));
  const std::span codes(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  if (recipe.data.kind == DataKind::kAudio && is_audio_file(codes)) {
    return std::string(
        chars(mu_law_of_file(codes, path_text(options.prompt_file), recipe.data.sample_rate)));
  }
  return bytes;
}

// Bytes to draw behind a prompt: as --length says, else the rest of an image, a window of audio,
// 512 bytes of text.
int64_t length_of(const Options& options, const Recipe& recipe, int64_t prompt) {
  const int64_t whole = recipe.model.seq_len;
  if (recipe.data.kind != DataKind::kImages) {
    if (options.sample.length >= 0) return options.sample.length;
    return recipe.data.kind == DataKind::kAudio ? whole : 512;
  }
  LACE_CHECK(prompt <= whole, "[sample] a prompt must be of at most the ", whole,
             " bytes of an image, got ", prompt);
  const int64_t length = options.sample.length >= 0 ? options.sample.length : whole - prompt;
  LACE_CHECK(options.out.empty() || prompt + length == whole,
             "[sample] prompt and length must make an image of ", whole, " bytes, got ", prompt,
             " and ", length);
  return length;
}

// "x.wav", or of several "x-1.wav", "x-2.wav", …
std::string numbered(const std::string& path, size_t i, size_t count) {
  if (count == 1) return path;
  const std::filesystem::path file(path);
  const std::string name = concat(file.stem().native(), "-", i + 1, file.extension().native());
  return (file.parent_path() / name).native();
}

// Prompt and sample of each: images as a grid in one PNG file, audio as a WAV file each, text as it
// is.
void write_samples(const Options& options, const Recipe& recipe, std::span<const uint8_t> prompt,
                   const std::vector<std::vector<uint8_t>>& samples) {
  std::vector<uint8_t> all;
  for (size_t i = 0; i < samples.size(); ++i) {
    std::vector<uint8_t> bytes(prompt.begin(), prompt.end());
    bytes.insert(bytes.end(), samples[i].begin(), samples[i].end());
    const std::string path = numbered(options.out, i, samples.size());
    switch (recipe.data.kind) {
      case DataKind::kImages:
        all.insert(all.end(), bytes.begin(), bytes.end());
        break;
      case DataKind::kAudio:
        write_file("sample", path, chars(wav_of_mu_law(bytes, recipe.data.sample_rate)));
        break;
      case DataKind::kText:
        write_file("sample", path, chars(bytes));
        break;
    }
  }
  if (recipe.data.kind != DataKind::kImages) return;
  const ModelConfig& model = recipe.model;
  write_file(
      "sample", options.out,
      encode_png(image_grid(all, model.image_height, model.image_width, model.image_channels)));
}

void print(std::string_view text) { std::cout << text << std::flush; }

std::string safe_text(std::span<const uint8_t> bytes) {
  SafeText safe;
  std::string text;
  for (const uint8_t byte : bytes) text += safe.add(byte);
  return text + safe.finish();
}

// One sample, printed as it is drawn.
void stream(const Options& options, const SparseTransformer& model, const SampleOptions& how,
            std::span<const uint8_t> prompt) {
  SafeText safe;
  const auto show = [&](uint8_t byte) {
    print(options.raw ? std::string(1, static_cast<char>(byte)) : safe.add(byte));
    return true;
  };
  for (const uint8_t byte : prompt) show(byte);
  lace::sample(model, prompt, how, show);
  if (!options.raw) print(safe.finish() + "\n");
}

// Several samples, one after the other: raw as they are, else each under a line of its own.
void print_all(const Options& options, std::span<const uint8_t> prompt,
               const std::vector<std::vector<uint8_t>>& samples) {
  for (size_t i = 0; i < samples.size(); ++i) {
    std::vector<uint8_t> bytes(prompt.begin(), prompt.end());
    bytes.insert(bytes.end(), samples[i].begin(), samples[i].end());
    if (options.raw) {
      print(chars(bytes));
    } else {
      print(concat("--- ", i + 1, " of ", samples.size(), "\n", safe_text(bytes), "\n"));
    }
  }
}

Json sample_json(const std::vector<uint8_t>& bytes) {
  return {{"text", safe_text(bytes)}, {"bytes", bytes}};
}

void sample(const Options& options) {
  const LoadedRun run = load_checked(options.run, options.checkpoint, find_device(options.device));
  LACE_CHECK(run.recipe.data.kind == DataKind::kText || options.raw || options.json ||
                 !options.out.empty(),
             "[sample] the run draws ", name(run.recipe.data.kind),
             ", not text: give --out FILE, --raw or --json");
  const std::string text = prompt_of(options, run.recipe);
  const std::span prompt(reinterpret_cast<const uint8_t*>(text.data()), text.size());
  SampleOptions how = options.sample;
  how.length = length_of(options, run.recipe, static_cast<int64_t>(prompt.size()));
  const bool shows = options.out.empty() && !options.json;
  if (options.count == 1 && shows) return stream(options, *run.model, how, prompt);
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::vector<uint8_t>> samples;
  {
    ProgressBar bar("sample", std::max<int64_t>(1, how.length));
    int64_t done = 0;
    samples = lace::sample_together(*run.model, prompt, how, options.count, [&](auto) {
      bar.update(++done);
      return true;
    });
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  if (!options.out.empty()) write_samples(options, run.recipe, prompt, samples);
  if (!options.json && !options.out.empty()) return;
  if (!options.json) return print_all(options, prompt, samples);
  Json json = {{"prompt", text}};
  if (options.count == 1) {
    json.update(sample_json(samples[0]));
  } else {
    json["samples"] = Json::array();
    for (const auto& bytes : samples) json["samples"].push_back(sample_json(bytes));
  }
  json["elapsed_s"] = elapsed.count();
  print_json(json);
}

void add_sample(CLI::App& app) {
  auto options = std::make_shared<Options>();
  options->sample.length = -1;
  CLI::App* command = app.add_subcommand("sample", "Draws text, images or audio from a run");
  command->add_option("run", options->run, "The run's folder")
      ->required()
      ->transform(path())
      ->check(CLI::ExistingDirectory);
  CLI::Option* prompt = command->add_option("--prompt", options->prompt, "Text to go on from");
  command
      ->add_option(
          "--prompt-file", options->prompt_file,
          "A file whose bytes to go on from; of a PNG or JPEG file, where the run's data are "
          "images, its upper half; of a WAV, FLAC, Ogg or MP3 file, where they are audio, its "
          "sound")
      ->transform(path())
      ->excludes(prompt)
      ->type_name("FILE");
  command
      ->add_option("--count", options->count,
                   "Samples, drawn together; each has a seed of its own, made from --seed")
      ->transform(whole_number(1, 65536))
      ->capture_default_str();
  command
      ->add_option("--length", options->sample.length,
                   "Bytes to draw; default: 512 of text, a window of audio, the rest of an image")
      ->transform(whole_number(0));
  command
      ->add_option("--out", options->out,
                   "A file for what is drawn: images as a grid in a PNG file, audio as WAV files "
                   "(x-1.wav, … of several), text as it is")
      ->transform(path())
      ->type_name("FILE");
  command->add_option("--temperature", options->sample.temperature, "0: always the likeliest byte")
      ->transform(number(0))
      ->capture_default_str();
  command->add_option("--top-k", options->sample.top_k, "Draw among the k likeliest; 0: all")
      ->transform(whole_number(0));
  command
      ->add_option("--top-p", options->sample.top_p,
                   "Draw among the likeliest that have this share of the probability")
      ->transform(number(0, 1))
      ->check([](const std::string& text) { return std::stod(text) > 0 ? "" : "must be above 0"; });
  command->add_option("--seed", options->sample.seed, "Of the draws")
      ->transform(whole_number(0))
      ->capture_default_str();
  add_checkpoint(*command, options->checkpoint);
  command->add_flag("--raw", options->raw,
                    "Print the bytes as they are; else those that are no text show as \\x1b");
  command->add_flag("--json", options->json, "Print JSON");
  add_device(*command, options->device, "Where to compute");
  add_threads(*command);
  command->footer(examples({"lace sample runs/demo --prompt '#include <'",
                            "lace sample runs/demo --length 2000 --temperature 0.8 --seed 7",
                            "lace sample runs/demo --prompt-file recipes/demo.toml --count 4",
                            "lace sample runs/demo --raw --length 4096 > sample.bin",
                            "lace sample runs/demo --count 2 --out sample.txt"}));
  command->callback([options] { sample(*options); });
}

const Command kSample(Order::kSample, add_sample);

}  // namespace

}  // namespace lace::cli
