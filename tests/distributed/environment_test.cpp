#include "lace/environment.h"

#include <map>

#include <gtest/gtest.h>

#include "lace/error.h"

namespace lace {
namespace {

using Variables = std::map<std::string, std::string>;

Environment find(const Variables& variables) {
  return find_environment([&](const char* name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    if (found == variables.end()) return std::nullopt;
    return found->second;
  });
}

std::string error_of(const Variables& variables) {
  try {
    find(variables);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

Variables operator+(Variables a, const Variables& b) {
  for (const auto& [name, value] : b) a[name] = value;
  return a;
}

Variables without(Variables a, const std::string& name) {
  a.erase(name);
  return a;
}

const Variables kTorchrun = {{"RANK", "5"},
                             {"WORLD_SIZE", "8"},
                             {"LOCAL_RANK", "1"},
                             {"MASTER_ADDR", "node0"},
                             {"MASTER_PORT", "1234"}};
const Variables kElastic = {{"TORCHELASTIC_RUN_ID", "job"}, {"TORCHELASTIC_RESTART_COUNT", "2"}};
const Variables kMpirun = {{"OMPI_COMM_WORLD_RANK", "1"},
                           {"OMPI_COMM_WORLD_SIZE", "4"},
                           {"OMPI_COMM_WORLD_LOCAL_RANK", "1"}};
const Variables kSlurm = {{"SLURM_PROCID", "3"}, {"SLURM_NTASKS", "4"}, {"SLURM_LOCALID", "1"}};
const Variables kMaster = {{"MASTER_ADDR", "node0"}, {"MASTER_PORT", "1234"}};

#define EXPECT_HAS(text, part) EXPECT_NE((text).find(part), std::string::npos) << "got: " << (text)

TEST(Environment, NothingSetIsOneProcess) {
  for (const Variables& v : {Variables{}, kMaster, Variables{{"PATH", "/bin"}}}) {
    const Environment e = find(v);
    EXPECT_EQ(e.launcher, "");
    EXPECT_EQ(e.rank, 0);
    EXPECT_EQ(e.size, 1);
    EXPECT_EQ(e.local_rank, 0);
    EXPECT_FALSE(e.serves_store());
  }
}

TEST(Environment, Torchrun) {
  Environment e = find(kTorchrun);
  EXPECT_EQ(e.launcher, "torchrun");
  EXPECT_EQ(e.rank, 5);
  EXPECT_EQ(e.size, 8);
  EXPECT_EQ(e.local_rank, 1);
  EXPECT_EQ(e.address, "node0");
  EXPECT_EQ(e.port, 1234);
  EXPECT_FALSE(e.serves_store());
  const Variables first = kTorchrun + Variables{{"RANK", "0"}, {"LOCAL_RANK", "0"}};
  EXPECT_TRUE(find(first).serves_store());
  for (const char* no : {"False", "0", "false", ""})
    EXPECT_TRUE(find(first + Variables{{"TORCHELASTIC_USE_AGENT_STORE", no}}).serves_store()) << no;
  for (const char* yes : {"True", "1", "true"})
    EXPECT_FALSE(find(first + Variables{{"TORCHELASTIC_USE_AGENT_STORE", yes}}).serves_store());
  EXPECT_HAS(error_of(first + Variables{{"TORCHELASTIC_USE_AGENT_STORE", "maybe"}}),
             "TORCHELASTIC_USE_AGENT_STORE=maybe");
}

TEST(Environment, RestartsHaveKeysOfTheirOwn) {
  const std::string run = find(kTorchrun + kElastic).run;
  EXPECT_HAS(run, "job");
  EXPECT_NE(run, find(kTorchrun + kElastic + Variables{{"TORCHELASTIC_RESTART_COUNT", "3"}}).run);
  EXPECT_NE(run, find(kTorchrun + kElastic + Variables{{"TORCHELASTIC_RUN_ID", "other"}}).run);
}

TEST(Environment, ATorchrunOfOneProcess) {
  const Environment e =
      find(kTorchrun + Variables{{"RANK", "0"}, {"WORLD_SIZE", "1"}, {"LOCAL_RANK", "0"}});
  EXPECT_EQ(e.size, 1);
  EXPECT_EQ(e.address, "");
  EXPECT_FALSE(e.serves_store());
}

TEST(Environment, HalfSetNamesWhatIsThereAndWhatIsNot) {
  for (const auto& [name, value] : kTorchrun) {
    const std::string error = error_of(without(kTorchrun, name));
    EXPECT_HAS(error, "[distributed] torchrun");
    EXPECT_HAS(error, "without " + name);
    for (const auto& [other, set] : without(kTorchrun, name)) EXPECT_HAS(error, other + "=" + set);
  }
  for (const Variables& launcher : {kMpirun, kSlurm}) {
    for (const auto& [name, value] : launcher) {
      const std::string error = error_of(without(launcher, name) + kMaster);
      EXPECT_HAS(error, "without " + name);
      EXPECT_EQ(error_of(launcher + kMaster), "");
    }
  }
  EXPECT_HAS(error_of({{"RANK", "0"}}), "got RANK=0 without WORLD_SIZE, LOCAL_RANK");
  EXPECT_HAS(error_of(kTorchrun + Variables{{"RANK", ""}}), "without RANK");
  EXPECT_HAS(error_of(kTorchrun + Variables{{"MASTER_ADDR", ""}}), "without MASTER_ADDR");
}

TEST(Environment, NumbersAreNumbersInTheirRange) {
  const auto bad = [](const std::string& name, const std::string& value) {
    const std::string error = error_of(kTorchrun + Variables{{name, value}});
    EXPECT_HAS(error, "[distributed] " + name + " must be a number from ");
    EXPECT_HAS(error, "got " + name + "=");
    return error;
  };
  for (const char* text : {"x", "1x", " 1", "1.0", "0x1", "-1", "99999999999999999999", "8"}) {
    bad("RANK", text);
    bad("LOCAL_RANK", text);
  }
  EXPECT_HAS(bad("RANK", "8"), "from 0 to 7, got RANK=8 beside WORLD_SIZE=8");
  for (const char* text : {"0", "-8", "eight", "2147483648"}) bad("WORLD_SIZE", text);
  for (const char* text : {"0", "65536", "http", "-1"}) bad("MASTER_PORT", text);
  EXPECT_HAS(bad("RANK", "1\n2\x01"), "RANK=1\\x0a2\\x01");
  EXPECT_HAS(error_of(kMpirun + kMaster + Variables{{"OMPI_COMM_WORLD_RANK", "4"}}),
             "got OMPI_COMM_WORLD_RANK=4 beside OMPI_COMM_WORLD_SIZE=4");
  EXPECT_HAS(error_of(kSlurm + kMaster + Variables{{"SLURM_PROCID", "-"}}), "got SLURM_PROCID=-");
}

TEST(Environment, Mpirun) {
  const Environment e = find(kMpirun + kMaster + Variables{{"PMIX_NAMESPACE", "job.1"}});
  EXPECT_EQ(e.launcher, "mpirun");
  EXPECT_EQ(e.rank, 1);
  EXPECT_EQ(e.size, 4);
  EXPECT_EQ(e.local_rank, 1);
  EXPECT_EQ(e.address, "node0");
  EXPECT_EQ(e.port, 1234);
  EXPECT_FALSE(e.serves_store());
  EXPECT_EQ(e.run, "job.1");
  // torchrun's word on the store is not mpirun's.
  EXPECT_TRUE(
      find(kMpirun + kMaster +
           Variables{{"OMPI_COMM_WORLD_RANK", "0"}, {"TORCHELASTIC_USE_AGENT_STORE", "True"}})
          .serves_store());
}

TEST(Environment, OneHostNeedsNoAddress) {
  for (const Variables& v :
       {kMpirun + Variables{{"OMPI_COMM_WORLD_LOCAL_SIZE", "4"}},
        kSlurm + Variables{{"SLURM_JOB_ID", "7"}, {"SLURM_STEP_ID", "0"}, {"SLURM_NNODES", "1"}},
        kSlurm + Variables{{"SLURM_STEP_NUM_NODES", "1"}, {"SLURM_NNODES", "3"}}}) {
    const Environment e = find(v);
    EXPECT_EQ(e.address, "127.0.0.1");
    EXPECT_EQ(e.port, 29500);
    EXPECT_EQ(find(v + Variables{{"MASTER_PORT", "77"}}).port, 77);
    EXPECT_EQ(find(v + Variables{{"MASTER_ADDR", "a"}}).address, "a");
  }
  for (const Variables& v : {kMpirun, kMpirun + Variables{{"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}},
                             kSlurm, kSlurm + Variables{{"SLURM_NNODES", "2"}}}) {
    const std::string error = error_of(v);
    EXPECT_HAS(error, "set MASTER_ADDR");
    EXPECT_HAS(error, "MASTER_ADDR is not set");
  }
}

TEST(Environment, SlurmStepsCount) {
  const Variables job = {{"SLURM_JOB_ID", "7"}, {"SLURM_NNODES", "1"}};
  const Environment e = find(kSlurm + job + Variables{{"SLURM_STEP_ID", "2"}});
  EXPECT_EQ(e.launcher, "Slurm");
  EXPECT_EQ(e.rank, 3);
  EXPECT_EQ(e.size, 4);
  EXPECT_EQ(e.local_rank, 1);
  EXPECT_EQ(e.run, "7.2");
  EXPECT_EQ(find(kSlurm + job + Variables{{"SLURM_STEPID", "2"}}).size, 4);
  // A harness that sets the three alone.
  EXPECT_EQ(find(kSlurm + kMaster).size, 4);
}

TEST(Environment, SlurmShellsAndOneTaskStepsAreOneProcess) {
  const Variables job = {{"SLURM_JOB_ID", "7"}, {"SLURM_NNODES", "2"}};
  // What sbatch's and salloc's shells see: the job's tasks, but no step.
  EXPECT_EQ(find(job + Variables{{"SLURM_NTASKS", "4"}}).size, 1);
  EXPECT_EQ(find(job + kSlurm).size, 1);
  EXPECT_EQ(find(job + without(kSlurm, "SLURM_NTASKS")).size, 1);
  // srun --pty bash, and an interactive step that carries the whole job's number of tasks.
  const Variables step = job + Variables{{"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "1"}};
  EXPECT_EQ(find(step + kSlurm).size, 1);
  const Variables alone = {{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "1"}, {"SLURM_LOCALID", "0"}};
  EXPECT_EQ(find(step + alone).size, 1);
  EXPECT_EQ(find(alone).launcher, "");
  // … in which somebody starts two processes by hand.
  EXPECT_EQ(find(step + alone + kTorchrun).rank, 5);
}

TEST(Environment, InnerLaunchersCount) {
  const Variables step = {{"SLURM_JOB_ID", "7"}, {"SLURM_STEP_ID", "0"}, {"SLURM_NNODES", "4"}};
  // One torchrun a node, started by srun or by mpirun.
  EXPECT_EQ(find(kSlurm + step + kTorchrun + kElastic).rank, 5);
  EXPECT_EQ(find(kMpirun + kTorchrun + kElastic).rank, 5);
  EXPECT_EQ(find(kTorchrun + kElastic + Variables{{"SLURM_PROCID", "x"}}).rank, 5);
  // mpirun's daemons are started by srun, one a node.
  EXPECT_EQ(find(kSlurm + step + kMpirun + kMaster).launcher, "mpirun");
}

TEST(Environment, LaunchersThatDisagreeAreNamed) {
  const std::string error = error_of(kMpirun + kTorchrun);
  EXPECT_HAS(error, "torchrun and mpirun disagree");
  for (const Variables& v : {kMpirun, without(without(kTorchrun, "MASTER_ADDR"), "MASTER_PORT")}) {
    for (const auto& [name, value] : v) EXPECT_HAS(error, name + "=" + value);
  }
  EXPECT_HAS(error_of(kSlurm + kTorchrun), "torchrun and Slurm disagree");
  EXPECT_HAS(error_of(kSlurm + kMpirun + kMaster), "mpirun and Slurm disagree");
  // A script that passes on what mpirun says.
  const Environment e =
      find(kMpirun + kMaster + Variables{{"RANK", "1"}, {"WORLD_SIZE", "4"}, {"LOCAL_RANK", "1"}});
  EXPECT_EQ(e.rank, 1);
  EXPECT_EQ(e.size, 4);
  EXPECT_HAS(error_of(kMpirun + kMaster +
                      Variables{{"RANK", "1"}, {"WORLD_SIZE", "4"}, {"LOCAL_RANK", "0"}}),
             "disagree");
}

}  // namespace
}  // namespace lace
