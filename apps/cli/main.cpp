// The command line: `lace SUBCOMMAND`. Exit codes: 0, 1 failure, 2 wrong usage.

#include <algorithm>
#include <exception>
#include <iostream>
#include <memory>

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include "lace/version.h"

#include "commands.h"

namespace lace::cli {

namespace {

std::vector<Command>& registry() {
  static std::vector<Command> commands;
  return commands;
}

// The innermost subcommand that was given, for "see … --help".
std::string given_command(const CLI::App& app) {
  for (const CLI::App* command : app.get_subcommands()) {
    return app.get_name() + " " + given_command(*command);
  }
  return app.get_name();
}

// What is wrong with a first argument that is neither an option nor a subcommand of `app`, or "".
std::string unknown_subcommand(const CLI::App& app, int argc, char** argv) {
  if (argc < 2 || argv[1][0] == '-') return "";
  const std::string given = argv[1];
  std::string names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (command->get_name() == given) return "";
    names += (names.empty() ? "" : ", ") + command->get_name();
  }
  return "there is no subcommand '" + given + "'; there are " + names;
}

int run(int argc, char** argv) {
  CLI::App app("Sparse attention from one line of text, and the Sparse Transformers built on it",
               "lace");
  app.set_version_flag("--version", "lace " + std::string(version()));
  app.require_subcommand(1);
  app.get_formatter()->column_width(36);
  app.footer(examples({"lace explain 'block(128) | summary(128, 32)' --seq-len 12288",
                       "lace train recipes/demo.toml", "lace eval runs/demo --baselines",
                       "lace sample runs/demo --length 400"}));
  for (const Command& command : commands()) command.add(app);
  if (const std::string wrong = unknown_subcommand(app, argc, argv); !wrong.empty()) {
    std::cerr << "lace: " << wrong << "\nSee `lace --help`.\n";
    return 2;
  }
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    std::cerr << "lace: " << error.what() << "\nSee `" << given_command(app) << " --help`.\n";
    return 2;
  } catch (const c10::Error& error) {
    std::cerr << "lace: " << error.what_without_backtrace() << "\n";
  } catch (const std::exception& error) {
    std::cerr << "lace: " << error.what() << "\n";
  }
  return 1;
}

}  // namespace

Command::Command(Order order, void (*add)(CLI::App& app)) : order(order), add(add) {
  registry().push_back(*this);
}

std::vector<Command> commands() {
  std::vector<Command> sorted = registry();
  std::sort(sorted.begin(), sorted.end(),
            [](const Command& a, const Command& b) { return a.order < b.order; });
  return sorted;
}

std::string examples(const std::vector<std::string>& lines) {
  std::string text = "Examples:";
  for (const std::string& line : lines) text += "\n  " + line;
  return text;
}

void add_threads(CLI::App& command, int default_threads) {
  auto threads = std::make_shared<int>(default_threads);
  command.add_option("--threads", *threads, "Threads to use")->check(CLI::Range(1, 1024));
  command.parse_complete_callback([threads] {
    if (*threads > 0) at::set_num_threads(*threads);
  });
}

void add_device(CLI::App& command, std::string& device, const std::string& what) {
  command.add_option("--device", device, what + ": cpu, cuda (the first GPU) or cuda:N")
      ->type_name("DEVICE")
      ->capture_default_str();
}

}  // namespace lace::cli

int main(int argc, char** argv) { return lace::cli::run(argc, argv); }
