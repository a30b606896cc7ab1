// What a run's metrics.jsonl says of where the run stands. Lines that are cut short or not JSON are passed over, and
// "resume" records count: what follows one replaces the later steps before it.
#pragma once
#include <optional>
#include <string>

#include "data/json_file.h"

namespace scfa {

struct RunLog {
  Json header;             // the first record, or null
  Json resume;             // the last "resume" record, or null
  Json step, eval;         // the last "step" and "eval" records that hold, or null
  int64_t unreadable = 0;  // lines passed over on the way
};

// Reads the file from its end, no further than needed. Throws Error if it cannot be read.
RunLog read_run_log(const std::string& path);

}  // namespace scfa
