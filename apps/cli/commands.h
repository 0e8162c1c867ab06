#pragma once

#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "lace/pattern.h"

namespace lace::cli {

// A subcommand of `lace`. Each lives in a file of its own, which registers it:
//
//   void add_explain(CLI::App& app) {
//     auto options = std::make_shared<Options>();
//     CLI::App* command = app.add_subcommand("explain", "Shows what a pattern costs");
//     command->add_option("pattern", options->pattern, "The pattern's text")->required();
//     command->footer(examples({"lace explain 'local(128) | strided(128)' --seq-len 12288"}));
//     command->callback([options] { explain(*options); });
//   }
//   const Command kExplain(Order::kExplain, add_explain);
//
// The callback throws lace::Error on failure (exit code 1) and CLI::ParseError, for instance
// CLI::ValidationError, on wrong usage (exit code 2); main prints the text to stderr. Results go to
// std::cout, whose failures end the command (output.h), progress to stderr.
enum class Order {  // as --help lists
  kExplain,
  kModel,
  kData,
  kTrain,
  kWatch,
  kReport,
  kCompare,
  kEval,
  kProbe,
  kAttention,
  kSample,
  kExport,
  kImport,
  kBench,
  kInfo
};

struct Command {
  Command(Order order, void (*add)(CLI::App& app));
  Order order;
  void (*add)(CLI::App& app);
};

// All subcommands, by order.
std::vector<Command> commands();

// The subcommand `data`, whose own subcommands several files add.
CLI::App* data_group(CLI::App& app);

// The "Examples" paragraph that closes a subcommand's --help.
std::string examples(const std::vector<std::string>& lines);

// The pattern of an argument. Throws CLI::ValidationError: a wrong text is wrong usage.
Pattern given_pattern(const std::string& text);

// Adds `--threads N`, which sets libtorch's threads (and by that the kernels') before the callback
// runs. Without it, `default_threads` if positive, else libtorch's own choice.
void add_threads(CLI::App& command, int default_threads = 0);

// Adds `--set section.key=value`, which may be given several times.
CLI::Option* add_set(CLI::App& command, std::vector<std::string>& overrides);

// Adds a recipe's file, which must be given, and `--set`.
CLI::Option* add_recipe(CLI::App& command, std::string& recipe,
                        std::vector<std::string>& overrides);

// Adds `--checkpoint`: best, last, previous or step-N; "" by default, which means best if there is
// one, else last.
void add_checkpoint(CLI::App& command, std::string& checkpoint);

// Adds `--device` (cpu, cuda, cuda:N): `device` keeps its value as the default.
void add_device(CLI::App& command, std::string& device, const std::string& what);

}  // namespace lace::cli
