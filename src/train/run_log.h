// What a run's metrics.jsonl says of where the run stands. Lines that are cut short or not as they were written are
// passed over, and "resume" records count: what follows one replaces the later steps before it.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "data/json_file.h"

namespace scfa {

struct RunLog {
  Json header;             // the first record, or null
  Json resume;             // the last "resume" record, or null
  Json step, eval;         // the last "step" and "eval" records that hold, or null
  int64_t unreadable = 0;  // lines passed over
  // Numbers of the whole lines that have lost their checksum, or are not what it says.
  std::vector<int64_t> broken;
};

enum class Lines { kLast, kAll };

// Reads the file from its end until it has the last "step", "eval" and "resume" records; kAll: then all of it, to check
// and count lines. Throws Error if it cannot be read, Interrupted once a signal asked to stop.
RunLog read_run_log(const std::string& path, Lines lines = Lines::kAll);

}  // namespace scfa
