#pragma once

#include <functional>
#include <optional>
#include <string>

namespace lace {

// Where this process stands among those that a launcher has started together: its ranks.
struct Environment {
  std::string launcher;  // "torchrun", "mpirun", "Slurm"; "" for a process on its own
  int rank = 0;          // of this process, in [0, size)
  int size = 1;          // processes
  int local_rank = 0;    // among those of this host: which of its GPUs is this process's
  std::string address;   // where the store listens that the ranks meet at; "" if size is 1
  int port = 0;
  bool launcher_serves = false;  // the launcher has the store there, else rank 0 serves it
  std::string run;               // tells keys of this run from those of others in the same store

  bool serves_store() const { return size > 1 && rank == 0 && !launcher_serves; }
};

// What a variable is set to; nothing where it is not set.
using Lookup = std::function<std::optional<std::string>(const char* name)>;

// Reads what launchers set (docs/distributed.md):
//   torchrun  RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT; where
//             TORCHELASTIC_USE_AGENT_STORE is true the launcher serves the store
//   mpirun    OMPI_COMM_WORLD_RANK, _SIZE, _LOCAL_RANK
//   Slurm     SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID, in a step of more than one task
// With the last two MASTER_PORT is 29500 and, where all ranks are on one host, MASTER_ADDR is
// 127.0.0.1, unless they are set.
// Where launchers are nested, the inner one counts: torchrun, whose mark is TORCHELASTIC_RUN_ID,
// before all others, and mpirun before the job of Slurm that it runs in. A job's own shell, or a
// step of one task, is no launch by Slurm.
// Throws lace::Error `[distributed] …` naming variables and values if only some of a launcher's are
// set, if one is no number or out of its range, or if launchers disagree.
Environment find_environment(const Lookup& lookup);

// Of this process's own variables.
Environment find_environment();

}  // namespace lace
