#include "train/run_folder.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "core/nearest.h"
#include "core/signals.h"
#include "train/checkpoint_files.h"

namespace scfa {

namespace fs = std::filesystem;

namespace {

bool exists(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

bool holds_run(const std::string& folder) {
  return exists(metrics_path(folder)) || !checkpoint_folders(folder).empty();
}

// Without a slash at the end, and with a name of its own: not "." or "..".
fs::path plain_path(const std::string& path) {
  fs::path plain = fs::path(path).lexically_normal();
  if (!plain.has_filename()) plain = plain.parent_path();
  if (plain.filename() == "." || plain.filename() == ".." || plain.empty())
    plain = fs::weakly_canonical(fs::absolute(path));
  return plain;
}

std::string parent_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path().string() : ".";
}

// For a run that is not there: "RUNS holds a, b; did you mean "a"?".
std::string describe_runs_beside(const std::string& run) {
  constexpr size_t kListed = 20;
  const fs::path path = plain_path(run);
  const std::string usual = fs::path(Config().runs) / path;
  if (!path.has_parent_path() && exists(usual)) return concat("did you mean ", usual, "?");
  const std::vector<std::string> runs = runs_in(parent_of(path));
  std::string list;
  for (size_t i = 0; i < std::min(runs.size(), kListed); ++i) list += (i > 0 ? ", " : "") + runs[i];
  if (runs.size() > kListed) list += concat(" and ", runs.size() - kListed, " more");
  return concat(parent_of(path), " holds ", runs.empty() ? "none" : list, did_you_mean(path.filename(), runs));
}

// Whether a folder is there and can be written, or can be made for `run`.
void require_place(fs::path at, const std::string& run) {
  std::error_code error, none;
  fs::file_status status = fs::status(at, error);
  for (; status.type() == fs::file_type::not_found && at.has_relative_path(); status = fs::status(at, error)) {
    require(!fs::is_symlink(at, none), run, ": cannot be made: ", at.string(), " is a link to what is not there");
    at = at.parent_path();
  }
  require(status.type() != fs::file_type::none, run, ": cannot be made: ", error.message());
  require(fs::is_directory(status), run, ": cannot be made: ", at.string(), " is not a folder");
  const bool writable = ::access(at.c_str(), W_OK | X_OK) == 0;
  require(writable, at.string(), ": cannot be written: ", std::strerror(errno));
}

void require_newest(const std::string& run, const CheckpointState& chosen, Console& console) {
  for (const int64_t step : checkpoint_steps(run)) {
    if (step <= chosen.step) break;
    const std::string path = fs::path(run) / checkpoint_name(step);
    try {
      read_checkpoint_state(path, Verify::kState);
    } catch (const Interrupted&) {
      throw;
    } catch (const Error& error) {
      console.warning(concat("passed over ", path, ": ", error.what()));
      continue;
    }
    fail(chosen.path, ": ", path, " is later; go on from that, or move the later ones out of ", run, " first");
  }
}

}  // namespace

std::string run_folder(const Config& config) {
  return fs::path(config.runs) / config.name;
}

std::string metrics_path(const std::string& run) {
  return fs::path(run) / "metrics.jsonl";
}

std::vector<std::string> runs_in(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error))
    if (holds_run(at->path())) names.push_back(at->path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

void require_writable(const std::string& run) {
  std::error_code error;
  const fs::path path = fs::absolute(plain_path(run));
  require_place(path, run);
  require_place(fs::weakly_canonical(path, error).parent_path(), run);  // of the lock
}

void require_run(const std::string& run) {
  if (!exists(run)) fail(run, ": there is no such run to resume; ", describe_runs_beside(run));
}

CheckpointState find_checkpoint(const std::string& path, Verify verify) {
  require(!path.empty(), "the path of a run or checkpoint must not be empty");
  if (!exists(path)) fail(path, ": there is no such run or checkpoint; ", describe_runs_beside(path));
  if (is_checkpoint_folder(path)) return read_checkpoint_state(path, verify);
  std::vector<std::string> rejected;
  std::optional<CheckpointState> found = newest_checkpoint(path, verify, &rejected);
  if (!found && !rejected.empty()) fail(path, ": has no whole checkpoint; ", rejected.front());
  require(found.has_value(), path, ": is neither a checkpoint nor a run with one; make one with ./train --config FILE");
  found->skipped = std::move(rejected);
  return *std::move(found);
}

void require_no_run(const std::string& run) {
  require(!holds_run(run), run, ": holds a run already; --resume goes on with it, --overwrite replaces it, ",
          "--name NAME starts another");
}

void remove_run_files(const std::string& run, Console& console) {
  for (const std::string& line : remove_all_checkpoints(run)) console.warning(line);
  const std::string metrics = metrics_path(run);
  const bool gone = ::unlink(metrics.c_str()) == 0 || errno == ENOENT;
  require(gone, metrics, ": cannot be removed: ", std::strerror(errno));
}

ResumeSource resume_source(const std::string& path) {
  require_run(path);
  fs::path plain = plain_path(path);
  const bool chosen = is_checkpoint_folder(plain);
  // A link to a checkpoint stands for the run that it is in; a copy elsewhere is in no run.
  if (chosen) plain = fs::canonical(plain);
  require(!chosen || step_of_checkpoint(plain), path,
          ": is a checkpoint under another name, outside its run; put it into a run's folder as checkpoint-STEP");
  const fs::path run = chosen ? plain_path(parent_of(plain)) : plain;
  ResumeSource source;
  if (chosen) {
    source = {read_checkpoint_state(plain, Verify::kState).config, plain};
  } else {
    std::vector<std::string> rejected;
    std::optional<CheckpointState> newest = newest_checkpoint(plain, Verify::kState, &rejected);
    require(newest || rejected.empty(), plain.string(), ": none of its checkpoints can be used; ",
            rejected.empty() ? "" : rejected.front());
    require(newest.has_value(), plain.string(), ": has no checkpoint to take the config from; give --config FILE and ",
            "--resume without a path");
    source.config = std::move(newest->config);
  }
  source.config.name = run.filename();
  source.config.runs = parent_of(run);
  return source;
}

std::optional<CheckpointState> find_start(const std::string& run, const std::string& chosen, Console& console) {
  if (!chosen.empty()) {
    CheckpointState state = read_checkpoint_state(chosen, Verify::kAll);
    require_newest(run, state, console);
    return state;
  }
  std::vector<std::string> rejected;
  std::optional<CheckpointState> checkpoint = newest_checkpoint(run, Verify::kAll, &rejected);
  for (const std::string& why : rejected) console.warning(why);
  require(checkpoint || rejected.empty(), run,
          ": none of its checkpoints can be used; --overwrite in place of --resume starts anew");
  if (!checkpoint) console.line(run + ": has no checkpoint yet, starting from the beginning");
  return checkpoint;
}

}  // namespace scfa
