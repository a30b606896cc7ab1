// How this process was started: by itself, or as one rank of a run by mpirun, torchrun (or anything that sets its
// variables) or Slurm's srun. Read from the environment; nothing is contacted.
#pragma once
#include <functional>
#include <string>

namespace scfa {

enum class Launcher { kNone, kMpirun, kTorchrun, kSlurm };

const char* name_of(Launcher launcher);

struct Launch {
  Launcher launcher = Launcher::kNone;
  int rank = 0, size = 1;
  // Where rank 0 listens. Empty and 0 under mpirun, where MPI passes on what rank 0 found.
  std::string address{};
  int port = 0;
  std::string job{};  // tells the processes of one run from those of another on the same port
};

// value(NAME) is a variable of the environment, or null. Throws Error naming the variable that is not as it should be.
Launch detect_launch(const std::function<const char*(const char*)>& value);

// The first host of a list as Slurm writes it: "node[03-07,12],other" is "node03".
std::string first_host(const std::string& list);

}  // namespace scfa
