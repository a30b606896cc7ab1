#include "comm/launch.h"

#include <gtest/gtest.h>

#include <map>

#include "support/expect_error.h"

namespace scfa {
namespace {

using test::expect_error;
using Variables = std::map<std::string, std::string>;

Launch launch_with(const Variables& variables) {
  return detect_launch([&](const char* name) -> const char* {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

TEST(Launch, WithoutVariablesAProcessIsAlone) {
  const Launch launch = launch_with({});
  EXPECT_EQ(launch.launcher, Launcher::kNone);
  EXPECT_EQ(launch.rank, 0);
  EXPECT_EQ(launch.size, 1);
}

TEST(Launch, Mpirun) {
  for (const Variables& variables : {Variables{{"OMPI_COMM_WORLD_RANK", "2"}, {"OMPI_COMM_WORLD_SIZE", "5"}},
                                     Variables{{"PMI_RANK", "2"}, {"PMI_SIZE", "5"}},
                                     // Within a Slurm job: what srun set is of the daemons that mpirun started.
                                     Variables{{"OMPI_COMM_WORLD_RANK", "2"},
                                               {"OMPI_COMM_WORLD_SIZE", "5"},
                                               {"SLURM_PROCID", "0"},
                                               {"SLURM_STEP_NUM_TASKS", "2"}}}) {
    const Launch launch = launch_with(variables);
    EXPECT_EQ(launch.launcher, Launcher::kMpirun);
    EXPECT_EQ(launch.rank, 2);
    EXPECT_EQ(launch.size, 5);
  }
}

TEST(Launch, Torchrun) {
  Variables variables{{"RANK", "1"}, {"WORLD_SIZE", "4"}, {"MASTER_ADDR", "node7"}, {"MASTER_PORT", "29500"}};
  Launch launch = launch_with(variables);
  EXPECT_EQ(launch.launcher, Launcher::kTorchrun);
  EXPECT_EQ(launch.rank, 1);
  EXPECT_EQ(launch.size, 4);
  EXPECT_EQ(launch.address, "node7");
  EXPECT_EQ(launch.port, 29500);
  variables["TORCHELASTIC_USE_AGENT_STORE"] = "True";  // the agent has that port
  EXPECT_EQ(launch_with(variables).port, 29501);
  variables.erase("MASTER_ADDR");
  expect_error([&] { launch_with(variables); }, "MASTER_ADDR");
  variables["MASTER_ADDR"] = "node7";
  variables["RANK"] = "4";
  expect_error([&] { launch_with(variables); }, "RANK: must be a number from 0 to 3, not \"4\"");
  variables["RANK"] = "1x";
  expect_error([&] { launch_with(variables); }, "1x");
}

TEST(Launch, Slurm) {
  const Variables variables{{"SLURM_PROCID", "3"},
                            {"SLURM_STEP_NUM_TASKS", "16"},
                            {"SLURM_STEP_NODELIST", "gpu[003-004]"},
                            {"SLURM_JOB_ID", "4711"},
                            {"SLURM_STEP_ID", "0"}};
  const Launch launch = launch_with(variables);
  EXPECT_EQ(launch.launcher, Launcher::kSlurm);
  EXPECT_EQ(launch.rank, 3);
  EXPECT_EQ(launch.size, 16);
  EXPECT_EQ(launch.address, "gpu003");
  EXPECT_GT(launch.port, 1024);
  Variables other = variables;
  other["SLURM_STEP_ID"] = "1";
  EXPECT_NE(launch_with(other).port, launch.port);
  EXPECT_NE(launch_with(other).job, launch.job);
}

TEST(Launch, AScriptOfSbatchIsNoStep) {
  EXPECT_EQ(launch_with({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}, {"SLURM_JOB_ID", "1"}}).size, 1);
}

TEST(Launch, FirstHostOfAList) {
  EXPECT_EQ(first_host("node1"), "node1");
  EXPECT_EQ(first_host("a,b"), "a");
  EXPECT_EQ(first_host("node[03-07,12],other"), "node03");
  EXPECT_EQ(first_host("node[12]"), "node12");
  EXPECT_EQ(first_host("rack[1-2]-ib,x"), "rack1-ib");
  expect_error([] { first_host("node[3"); }, "node[3");
}

}  // namespace
}  // namespace scfa
