// A run's folder, RUNS/NAME: what a run has written there, where it goes on, and which runs there are.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "train/checkpoint.h"
#include "train/config.h"
#include "train/console.h"

namespace scfa {

std::string run_folder(const Config& config);
std::string metrics_path(const std::string& run);

// Names of the runs in a folder, sorted.
std::vector<std::string> runs_in(const std::string& folder);

// The state of path itself if it is a checkpoint, else of the newest whole one of the run it names. Throws Error if
// there is none, listing the runs there are if the path does not exist.
CheckpointState find_checkpoint(const std::string& path, Verify verify = Verify::kModel);

// Throws Error unless the run's folder is there and can be written, or can be made. Makes nothing.
void require_writable(const std::string& run);

// Throws Error listing the runs there are unless the run's folder exists.
void require_run(const std::string& run);

// Throws Error if a run has written something there.
void require_no_run(const std::string& run);

// Removes what a run has written there, and nothing else. Warns of checkpoints' folders that hold more than that.
void remove_run_files(const std::string& run, Console& console);

// What to go on with when a path is all that is given: a run's folder or one of its checkpoints.
struct ResumeSource {
  Config config;           // of the checkpoint, newest if path is a run; name and runs are the path's
  std::string checkpoint;  // empty where path is a run
};
ResumeSource resume_source(const std::string& path);

// The checkpoint that a run goes on from: `chosen` if it is not empty, else the newest whole one; none if there is none
// yet. Says what it passes over. Throws Error if none can be used, or if a whole one is later than the one chosen.
std::optional<CheckpointState> find_start(const std::string& run, const std::string& chosen, Console& console);

}  // namespace scfa
