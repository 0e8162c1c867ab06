#include "lace/environment.h"

#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <string_view>
#include <vector>

#include "lace/error.h"

#include "core/safe_text.h"

namespace lace {
namespace {

// The variables of a launcher that say where a process stands.
struct Names {
  std::string_view launcher;
  const char *rank, *size, *local_rank;
};
constexpr Names kTorchrun = {"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK"};
constexpr Names kMpirun = {"mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                           "OMPI_COMM_WORLD_LOCAL_RANK"};
constexpr Names kSlurm = {"Slurm", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"};
constexpr int kPort = 29500;  // as torchrun's

struct Place {
  Names names;
  int rank, size, local_rank;
};

class Variables {
 public:
  explicit Variables(const Lookup& lookup) : lookup_(lookup) {}

  bool has(const char* name) const { return lookup_(name).has_value(); }
  std::string text(const char* name) const { return lookup_(name).value_or(""); }

  // "RANK=3", "RANK is not set"
  std::string shown(const char* name) const {
    return has(name) ? concat(name, "=", printable(text(name))) : concat(name, " is not set");
  }
  std::string shown(const Names& n) const {
    return concat(shown(n.rank), ", ", shown(n.size), ", ", shown(n.local_rank));
  }

  // `beside`: what the range follows from, as shown() has it
  int number(const char* name, int64_t low, int64_t high, const std::string& beside = "") const {
    const std::string digits = text(name);
    int64_t value = 0;
    const char* end = digits.data() + digits.size();
    const auto [stop, error] = std::from_chars(digits.data(), end, value);
    LACE_CHECK(error == std::errc() && stop == end && value >= low && value <= high,
               "[distributed] ", name, " must be a number from ", low, " to ", high, ", got ",
               shown(name), beside.empty() ? "" : " beside ", beside);
    return static_cast<int>(value);
  }

  // Throws unless all of the variables are set.
  void require(std::string_view launcher, const std::vector<const char*>& names) const {
    std::string set, missing;
    for (const char* name : names) {
      std::string& list = text(name).empty() ? missing : set;
      list += (list.empty() ? "" : ", ") + (text(name).empty() ? name : shown(name));
    }
    LACE_CHECK(missing.empty(), "[distributed] ", launcher, " sets all of its variables, got ",
               set.empty() ? "none" : set, " without ", missing);
  }

  // Where the launcher has put this process; nothing if it has set none of its variables.
  std::optional<Place> place(const Names& n) const {
    if (!has(n.rank) && !has(n.size) && !has(n.local_rank)) return std::nullopt;
    std::vector<const char*> names = {n.rank, n.size, n.local_rank};
    if (n.launcher == kTorchrun.launcher) names.insert(names.end(), {"MASTER_ADDR", "MASTER_PORT"});
    require(n.launcher, names);
    const int size = number(n.size, 1, std::numeric_limits<int>::max());
    return Place{n, number(n.rank, 0, size - 1, shown(n.size)), size,
                 number(n.local_rank, 0, size - 1, shown(n.size))};
  }

 private:
  const Lookup& lookup_;
};

std::optional<Place> slurm_place(const Variables& variables) {
  // The shell of a job, or of its one-task step, carries the numbers of the whole job.
  const bool step = variables.has("SLURM_STEP_ID") || variables.has("SLURM_STEPID");
  if (variables.has("SLURM_JOB_ID") && !step) return std::nullopt;
  if (variables.text("SLURM_STEP_NUM_TASKS") == "1") return std::nullopt;
  std::optional<Place> place = variables.place(kSlurm);
  if (place && place->size == 1) return std::nullopt;
  return place;
}

void check_agree(const Variables& variables, const Place& a, const Place& b) {
  LACE_CHECK(a.rank == b.rank && a.size == b.size && a.local_rank == b.local_rank, "[distributed] ",
             a.names.launcher, " and ", b.names.launcher,
             " disagree about this process: ", variables.shown(a.names), "; ",
             variables.shown(b.names), ". Unset those that did not start it");
}

// The place that counts, of all that there are.
std::optional<Place> find_place(const Variables& variables) {
  const std::optional<Place> torchrun = variables.place(kTorchrun);
  if (torchrun && variables.has("TORCHELASTIC_RUN_ID")) return torchrun;
  const std::optional<Place> mpirun = variables.place(kMpirun);
  std::optional<Place> slurm;
  if (!(mpirun && variables.has("SLURM_JOB_ID"))) slurm = slurm_place(variables);
  std::optional<Place> chosen;
  for (const auto& place : {torchrun, mpirun, slurm}) {
    if (!place) continue;
    if (chosen) check_agree(variables, *chosen, *place);
    if (!chosen) chosen = place;
  }
  return chosen;
}

// Are all ranks on this host, as far as the launcher says?
bool on_one_host(const Variables& variables, const Place& place) {
  if (place.names.launcher == kMpirun.launcher)
    return variables.text("OMPI_COMM_WORLD_LOCAL_SIZE") == variables.text(place.names.size);
  for (const char* name : {"SLURM_STEP_NUM_NODES", "SLURM_NNODES"}) {
    if (variables.has(name)) return variables.text(name) == "1";
  }
  return false;
}

bool is_true(const Variables& variables, const char* name) {
  const std::string text = variables.text(name);
  for (const char* word : {"True", "true", "1"}) {
    if (text == word) return true;
  }
  for (const char* word : {"", "False", "false", "0"}) {
    if (text == word) return false;
  }
  throw Error(
      concat("[distributed] ", name, " must be True or False, got ", variables.shown(name)));
}

// What launchers call this run.
std::string run_name(const Variables& variables, const Place& place) {
  if (place.names.launcher == kTorchrun.launcher)
    return variables.text("TORCHELASTIC_RUN_ID") + "/" +
           variables.text("TORCHELASTIC_RESTART_COUNT");
  if (place.names.launcher == kMpirun.launcher) return variables.text("PMIX_NAMESPACE");
  return variables.text("SLURM_JOB_ID") + "." + variables.text("SLURM_STEP_ID");
}

}  // namespace

Environment find_environment(const Lookup& lookup) {
  const Variables variables(lookup);
  const std::optional<Place> place = find_place(variables);
  if (!place) return {};

  const std::string_view launcher = place->names.launcher;
  Environment environment;
  environment.launcher = launcher;
  environment.rank = place->rank;
  environment.size = place->size;
  environment.local_rank = place->local_rank;
  if (place->size == 1) return environment;

  const bool needs_address = variables.text("MASTER_ADDR").empty();
  LACE_CHECK(!needs_address || on_one_host(variables, *place), "[distributed] ", launcher,
             " has started ranks on other hosts: set MASTER_ADDR to that of rank 0, got ",
             variables.shown(place->names), ", ", variables.shown("MASTER_ADDR"));
  environment.address = needs_address ? "127.0.0.1" : variables.text("MASTER_ADDR");
  environment.port = variables.has("MASTER_PORT")
                         ? variables.number("MASTER_PORT", 1, std::numeric_limits<uint16_t>::max())
                         : kPort;
  environment.launcher_serves =
      launcher == kTorchrun.launcher && is_true(variables, "TORCHELASTIC_USE_AGENT_STORE");
  environment.run = run_name(variables, *place);
  return environment;
}

Environment find_environment() {
  return find_environment([](const char* name) -> std::optional<std::string> {
    const char* value = std::getenv(name);
    if (value == nullptr) return std::nullopt;
    return value;
  });
}

}  // namespace lace
