// lace sample: draws bytes from a trained run.

#include <chrono>
#include <iostream>
#include <memory>

#include <nlohmann/json.hpp>

#include "lace/device.h"
#include "lace/generate.h"
#include "lace/train.h"

#include "arguments.h"
#include "commands.h"
#include "core/safe_text.h"
#include "load_checked.h"
#include "output.h"

namespace lace::cli {

namespace {

struct Options {
  std::string run, prompt, checkpoint, device = "cpu";
  SampleOptions sample;
  bool raw = false, json = false;
};

void sample(const Options& options) {
  const LoadedRun run = load_checked(options.run, options.checkpoint, find_device(options.device));
  const std::span prompt(reinterpret_cast<const uint8_t*>(options.prompt.data()),
                         options.prompt.size());
  SafeText safe;
  const auto print = [&](const std::string& text) { std::cout << text << std::flush; };
  const auto show = [&](uint8_t byte) {
    print(options.raw ? std::string(1, static_cast<char>(byte)) : safe.add(byte));
  };
  if (!options.json) {
    for (const uint8_t byte : prompt) show(byte);
  }
  const auto start = std::chrono::steady_clock::now();
  const std::vector<uint8_t> bytes =
      lace::sample(*run.model, prompt, options.sample, [&](uint8_t byte) {
        if (!options.json) show(byte);
        return true;
      });
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  if (options.json) {
    std::string text;
    for (const uint8_t byte : bytes) text += safe.add(byte);
    text += safe.finish();
    print_json({{"prompt", options.prompt},
                {"text", text},
                {"bytes", bytes},
                {"elapsed_s", elapsed.count()}});
  } else if (!options.raw) {
    print(safe.finish() + "\n");
  }
}

void add_sample(CLI::App& app) {
  auto options = std::make_shared<Options>();
  options->sample.length = 512;
  CLI::App* command = app.add_subcommand("sample", "Draws bytes from a run");
  command->add_option("run", options->run, "The run's folder")
      ->required()
      ->transform(path())
      ->check(CLI::ExistingDirectory);
  command->add_option("--prompt", options->prompt, "Text to go on from");
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
                            "lace sample runs/demo --raw --length 4096 > sample.bin"}));
  command->callback([options] { sample(*options); });
}

const Command kSample(Order::kSample, add_sample);

}  // namespace

}  // namespace lace::cli
