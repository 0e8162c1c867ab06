// The command line: `lace SUBCOMMAND`. Exit codes: 0; 1 failure, output that cannot be written
// included (a closed pipe without a word); 2 wrong usage.

#include <algorithm>
#include <exception>
#include <iostream>
#include <memory>
#include <new>

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include "lace/error.h"
#include "lace/version.h"

#include "arguments.h"
#include "commands.h"
#include "output.h"

namespace lace::cli {

namespace {

std::vector<Command>& registry() {
  static std::vector<Command> commands;
  return commands;
}

// The innermost subcommand that was given, and its full name.
const CLI::App& given_command(const CLI::App& app, std::string& name) {
  name += (name.empty() ? "" : " ") + app.get_name();
  for (const CLI::App* command : app.get_subcommands()) return given_command(*command, name);
  return app;
}

void print_error(std::string_view text) {
  std::cerr << safe_lines(concat("lace: ", text)) << std::endl;
}

int fail(std::string_view text) {
  print_error(text);
  return 1;
}

int wrong_usage(const CLI::App& app, const CLI::ParseError& error) {
  std::string name;
  const std::string unknown = unknown_argument(given_command(app, name));
  print_error(concat(unknown.empty() ? error.what() : unknown, "\nSee `", name, " --help`."));
  return 2;
}

// Throws OutputError.
int run(int argc, char** argv) {
  CLI::App app("Sparse attention from one line of text, and the Sparse Transformers built on it",
               "lace");
  app.set_version_flag("--version", "lace " + std::string(version()));
  app.require_subcommand(1);
  app.get_formatter()->column_width(36);
  app.footer(examples({"lace explain 'block(128) | summary(128, 32)' --seq-len 12288",
                       "lace train recipes/demo.toml --run runs/mine",
                       "lace eval runs/mine --baselines", "lace sample runs/mine --length 400"}));
  for (const Command& command : commands()) command.add(app);
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const OutputError&) {
    throw;
  } catch (const CLI::ParseError& error) {
    return error.get_exit_code() == 0 ? app.exit(error)  // --help, --version
                                      : wrong_usage(app, error);
  } catch (const c10::Error& error) {
    return fail(error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    return fail("out of memory");
  } catch (const std::exception& error) {
    return fail(error.what());
  }
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

Pattern given_pattern(const std::string& text) {
  try {
    return Pattern::parse(text);
  } catch (const Error& error) {
    throw CLI::ValidationError(error.what());
  }
}

void add_threads(CLI::App& command, int default_threads) {
  auto threads = std::make_shared<int>(default_threads);
  command.add_option("--threads", *threads, "Threads to use")->transform(whole_number(1, 1024));
  command.parse_complete_callback([threads] {
    if (*threads > 0) at::set_num_threads(*threads);
  });
}

void add_checkpoint(CLI::App& command, std::string& checkpoint) {
  const auto check = [](const std::string& name) {
    const bool kept = name.rfind("step-", 0) == 0 && name.size() > 5 &&
                      name.find_first_not_of("0123456789", 5) == std::string::npos;
    const bool known = kept || name == "best" || name == "last" || name == "previous";
    return known ? "" : concat("takes best, last, previous or step-N, got '", name, "'");
  };
  command
      .add_option("--checkpoint", checkpoint,
                  "best, last, previous or step-N; default: best if any, else last")
      ->check(check);
}

CLI::Option* add_set(CLI::App& command, std::vector<std::string>& overrides) {
  return command
      .add_option("--set", overrides, "section.key=value, over the recipe's own; once for each")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
}

CLI::Option* add_recipe(CLI::App& command, std::string& recipe,
                        std::vector<std::string>& overrides) {
  CLI::Option* option = command.add_option("recipe", recipe, "The recipe, a TOML file")
                            ->required()
                            ->transform(path())
                            ->check(CLI::ExistingFile);
  add_set(command, overrides);
  return option;
}

void add_device(CLI::App& command, std::string& device, const std::string& what) {
  const auto check = [](const std::string& name) {
    const bool known = name == "cpu" || name == "cuda" ||
                       (name.rfind("cuda:", 0) == 0 && name.size() > 5 &&
                        name.find_first_not_of("0123456789", 5) == std::string::npos);
    return known ? "" : concat("takes cpu, cuda or cuda:N, got '", name, "'");
  };
  command.add_option("--device", device, what + ": cpu, cuda (the first GPU) or cuda:N")
      ->type_name("DEVICE")
      ->check(check)
      ->capture_default_str();
}

}  // namespace lace::cli

int main(int argc, char** argv) {
  const lace::cli::StandardOutput output;
  try {
    const int code = lace::cli::run(argc, argv);
    std::cout.flush();
    return code;
  } catch (const lace::cli::OutputError& error) {
    return error.closed_pipe() ? 1 : lace::cli::fail(error.what());
  }
}
