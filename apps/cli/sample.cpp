// lace sample: draws bytes from a trained run.

#include <chrono>
#include <iostream>
#include <memory>
#include <span>
#include <string_view>

#include <nlohmann/json.hpp>

#include "lace/device.h"
#include "lace/generate.h"
#include "lace/train.h"

#include "arguments.h"
#include "commands.h"
#include "core/regular_file.h"
#include "core/safe_text.h"
#include "load_checked.h"
#include "output.h"

namespace lace::cli {

namespace {

using Json = nlohmann::ordered_json;

// The most that a prompt's file may hold: more than any model looks at.
constexpr int64_t kMaxPromptBytes = int64_t{1} << 30;

struct Options {
  std::string run, prompt, prompt_file, checkpoint, device = "cpu";
  SampleOptions sample;
  int64_t count = 1;
  bool raw = false, json = false;
};

std::string prompt_of(const Options& options) {
  if (options.prompt_file.empty()) return options.prompt;
  const RegularFile file(options.prompt_file, "sample");
  LACE_CHECK(file.bytes() <= kMaxPromptBytes, "[sample] a prompt's file must hold at most ",
             kMaxPromptBytes, " bytes, got ", file.bytes());
  std::string bytes(static_cast<size_t>(file.bytes()), '\0');
  file.read(0, bytes.data(), file.bytes());
  return bytes;
}

void print(std::string_view text) { std::cout << text << std::flush; }

std::string safe_text(std::span<const uint8_t> bytes) {
  SafeText safe;
  std::string text;
  for (const uint8_t byte : bytes) text += safe.add(byte);
  return text + safe.finish();
}

// One sample, printed as it is drawn.
void stream(const Options& options, const SparseTransformer& model,
            std::span<const uint8_t> prompt) {
  SafeText safe;
  const auto show = [&](uint8_t byte) {
    print(options.raw ? std::string(1, static_cast<char>(byte)) : safe.add(byte));
    return true;
  };
  for (const uint8_t byte : prompt) show(byte);
  lace::sample(model, prompt, options.sample, show);
  if (!options.raw) print(safe.finish() + "\n");
}

// Several samples, one after the other: raw as they are, else each under a line of its own.
void print_all(const Options& options, std::span<const uint8_t> prompt,
               const std::vector<std::vector<uint8_t>>& samples) {
  for (size_t i = 0; i < samples.size(); ++i) {
    std::vector<uint8_t> bytes(prompt.begin(), prompt.end());
    bytes.insert(bytes.end(), samples[i].begin(), samples[i].end());
    if (options.raw) {
      print({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
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
  const std::string text = prompt_of(options);
  const std::span prompt(reinterpret_cast<const uint8_t*>(text.data()), text.size());
  if (options.count == 1 && !options.json) return stream(options, *run.model, prompt);
  const auto start = std::chrono::steady_clock::now();
  const auto samples = lace::sample_together(*run.model, prompt, options.sample, options.count);
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
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
  options->sample.length = 512;
  CLI::App* command = app.add_subcommand("sample", "Draws bytes from a run");
  command->add_option("run", options->run, "The run's folder")
      ->required()
      ->transform(path())
      ->check(CLI::ExistingDirectory);
  CLI::Option* prompt = command->add_option("--prompt", options->prompt, "Text to go on from");
  command->add_option("--prompt-file", options->prompt_file, "A file whose bytes to go on from")
      ->transform(path())
      ->excludes(prompt)
      ->type_name("FILE");
  command
      ->add_option("--count", options->count,
                   "Samples, drawn together; each has a seed of its own, made from --seed")
      ->transform(whole_number(1, 65536))
      ->capture_default_str();
  command->add_option("--length", options->sample.length, "Bytes to draw")
      ->transform(whole_number(0))
      ->capture_default_str();
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
                            "lace sample runs/demo --raw --length 4096 > sample.bin"}));
  command->callback([options] { sample(*options); });
}

const Command kSample(Order::kSample, add_sample);

}  // namespace

}  // namespace lace::cli
