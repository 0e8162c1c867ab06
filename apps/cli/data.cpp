// lace data: what runs learn from.

#include "commands.h"

namespace lace::cli {

CLI::App* data_group(CLI::App& app) {
  const auto found =
      app.get_subcommands([](const CLI::App* command) { return command->get_name() == "data"; });
  if (!found.empty()) return found.front();
  CLI::App* group = app.add_subcommand("data", "Fetches data sets");
  group->require_subcommand(1);
  return group;
}

}  // namespace lace::cli
