#include "comm/launch.h"

#include <charconv>
#include <cstring>

#include "core/error.h"

namespace scfa {

namespace {

using Environment = std::function<const char*(const char*)>;

constexpr int kSlurmPorts = 8000, kFirstSlurmPort = 24000;  // below Linux's ephemeral ports

bool has(const Environment& value, const char* name) {
  return value(name) != nullptr && *value(name) != 0;
}

int number(const Environment& value, const char* name, int least, int most) {
  const char* text = value(name);
  require(text != nullptr && *text != 0, name, ": is not set, but other variables of its launcher are");
  int found = 0;
  const char* end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, found);
  require(error == std::errc() && stop == end && found >= least && found <= most, name, ": must be a number from ",
          least, " to ", most, ", not \"", abbreviate(text), "\"");
  return found;
}

Launch ranked(const Environment& value, Launcher launcher, const char* rank, const char* size) {
  Launch launch;
  launch.launcher = launcher;
  launch.size = number(value, size, 1, 1 << 20);
  launch.rank = number(value, rank, 0, launch.size - 1);
  return launch;
}

Launch of_torchrun(const Environment& value) {
  Launch launch = ranked(value, Launcher::kTorchrun, "RANK", "WORLD_SIZE");
  if (launch.size == 1) return launch;  // which nobody needs to find
  require(has(value, "MASTER_ADDR"),
          "MASTER_ADDR: is not set, but RANK and WORLD_SIZE are; it names the host of rank 0");
  launch.address = value("MASTER_ADDR");
  launch.port = number(value, "MASTER_PORT", 1, 65534);
  // torchrun's own agent listens on that port.
  const char* store = value("TORCHELASTIC_USE_AGENT_STORE");
  if (store != nullptr && std::strcmp(store, "True") == 0) ++launch.port;
  launch.job = has(value, "TORCHELASTIC_RUN_ID") ? value("TORCHELASTIC_RUN_ID") : "";
  return launch;
}

Launch of_slurm(const Environment& value) {
  Launch launch = ranked(value, Launcher::kSlurm, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS");
  const char* hosts = has(value, "SLURM_STEP_NODELIST") ? "SLURM_STEP_NODELIST" : "SLURM_JOB_NODELIST";
  require(has(value, hosts), hosts, ": is not set, but SLURM_PROCID is; it names the hosts of the step");
  launch.address = has(value, "MASTER_ADDR") ? value("MASTER_ADDR") : first_host(value(hosts));
  launch.job = concat(value("SLURM_JOB_ID") != nullptr ? value("SLURM_JOB_ID") : "", ".",
                      value("SLURM_STEP_ID") != nullptr ? value("SLURM_STEP_ID") : "");
  if (has(value, "MASTER_PORT")) {
    launch.port = number(value, "MASTER_PORT", 1, 65535);
    return launch;
  }
  unsigned sum = 0;  // steps of one job, and neighbouring jobs, get different ports
  for (const char c : launch.job) sum = sum * 31 + static_cast<unsigned char>(c);
  launch.port = kFirstSlurmPort + static_cast<int>(sum % kSlurmPorts);
  return launch;
}

}  // namespace

const char* name_of(Launcher launcher) {
  switch (launcher) {
    case Launcher::kMpirun:
      return "mpirun";
    case Launcher::kTorchrun:
      return "torchrun";
    case Launcher::kSlurm:
      return "srun";
    default:
      return "no launcher";
  }
}

// mpirun comes first: within a Slurm job its daemons are started by srun, and their variables are inherited. Slurm's
// SLURM_PROCID alone means nothing, because scripts of sbatch have it too.
Launch detect_launch(const Environment& value) {
  if (has(value, "OMPI_COMM_WORLD_SIZE"))
    return ranked(value, Launcher::kMpirun, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE");
  const bool step_of_slurm = has(value, "SLURM_STEP_NUM_TASKS");
  if (has(value, "PMI_SIZE") && !step_of_slurm) return ranked(value, Launcher::kMpirun, "PMI_RANK", "PMI_SIZE");
  if (has(value, "RANK") && has(value, "WORLD_SIZE")) return of_torchrun(value);
  if (step_of_slurm) return of_slurm(value);
  return {};
}

std::string first_host(const std::string& list) {
  const size_t end = list.find_first_of(",[");
  if (end == std::string::npos || list[end] == ',') return list.substr(0, end);
  const size_t number = list.find_first_of(",-]", end + 1);
  require(number != std::string::npos, "SLURM_STEP_NODELIST: \"", abbreviate(list), "\" is no list of hosts");
  const size_t close = list.find(']', end), next = list.find(',', close);
  require(close != std::string::npos, "SLURM_STEP_NODELIST: \"", abbreviate(list), "\" is no list of hosts");
  const std::string behind = list.substr(close + 1, next == std::string::npos ? next : next - close - 1);
  return list.substr(0, end) + list.substr(end + 1, number - end - 1) + behind;
}

}  // namespace scfa
