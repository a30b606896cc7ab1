// What a folder that our programs wrote holds: a checkpoint, a run, a folder of runs, or a prepared set.
#pragma once
#include <functional>
#include <string>

#include "data/json_file.h"

namespace scfa {

struct InspectOptions {
  bool fast = false;  // checksums of a set's shards, of a run's checkpoints and lines of metrics are not computed
  // progress(share, what is read), called often where something large is read; may be empty.
  std::function<void(double, const std::string&)> progress{};
};

// One object. Always there: "kind" ("checkpoint", "run", "runs" or "set"), "path", and "problems", a list of texts that
// is empty if everything is as it was written. What could not be read is null. docs/tools.md lists the other keys.
// Throws Error if there is no such folder, or nothing of ours in it, or once a signal asked to stop.
Json inspect(const std::string& path, const InspectOptions& options);

}  // namespace scfa
