#include "train/inspect.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <vector>

#include "core/signals.h"
#include "data/checksum.h"
#include "data/folder_lock.h"
#include "data/input_file.h"
#include "data/manifest.h"
#include "data/token_file.h"
#include "data/verify.h"
#include "train/checkpoint.h"
#include "train/config_io.h"
#include "train/metrics_lines.h"
#include "train/run_log.h"

namespace scfa {

namespace fs = std::filesystem;

namespace {

bool is_there(const fs::path& path) {
  std::error_code none;
  return fs::exists(path, none);
}

std::vector<std::string> folders_in(const std::string& path) {
  std::vector<std::string> folders;
  std::error_code none;
  for (const fs::directory_entry& entry : fs::directory_iterator(path, none))
    if (entry.is_directory(none)) folders.push_back(entry.path().string());
  std::sort(folders.begin(), folders.end());
  return folders;
}

std::string name_of_folder(const std::string& path) {
  const fs::path plain = fs::path(path).lexically_normal();
  return (plain.has_filename() ? plain : plain.parent_path()).filename().string();
}

bool is_checkpoint(const std::string& path) {
  return is_there(fs::path(path) / "state.json") || name_of_folder(path).starts_with("checkpoint-");
}
bool is_set(const std::string& path) {
  return is_there(fs::path(path) / kManifestFile);
}
bool is_run(const std::string& path) {
  return is_there(fs::path(path) / "metrics.jsonl") || !checkpoint_folders(path).empty();
}

// Sizes of the files of a folder by name, and of all.
Json sizes_of(const std::string& folder, int64_t& total) {
  std::vector<std::pair<std::string, int64_t>> files;
  std::error_code none;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, none))
    if (entry.is_regular_file(none))
      files.emplace_back(entry.path().filename().string(), static_cast<int64_t>(entry.file_size(none)));
  std::sort(files.begin(), files.end());
  Json sizes = Json::object();
  total = 0;
  for (const auto& [name, bytes] : files) {
    sizes[name] = bytes;
    total += bytes;
  }
  return sizes;
}

// Who writes to a folder: null if nobody does.
Json writer_of(const std::string& folder) {
  const std::optional<std::string> holder = FolderLock::holder(folder);
  if (!holder) return nullptr;
  return holder->empty() ? "another process" : *holder;
}

// Name and shape of every tensor in a safetensors file.
Json tensors_of(const std::string& path) {
  const InputFile file(path);
  uint64_t length = 0;
  file.read(0, &length, sizeof length);
  require(length <= static_cast<uint64_t>(file.size()) - sizeof length, path, ": its header is longer than the file");
  std::string header(length, '\0');
  file.read(sizeof length, header.data(), static_cast<int64_t>(length));
  const Json json = parse_json(header, path, {.bytes = int64_t{256} << 20, .keys = 1 << 20});
  Json tensors = Json::array();
  for (const auto& [name, tensor] : json.items()) {
    if (name == "__metadata__") continue;
    Json shape = JsonReader(tensor, path, name + ".").at("shape");
    int64_t count = 1;
    for (const Json& size : shape) count *= size.get<int64_t>();
    tensors.push_back({{"name", name}, {"shape", std::move(shape)}, {"count", count}});
  }
  return tensors;
}

// What a checkpoint's state says beside step and config.
void add_facts(Json& json, const CheckpointState& state) {
  json["tokens"] = state.tokens;
  json["validation_loss"] = state.validation_loss ? Json(*state.validation_loss) : Json();
  json["device"] = state.device;
  json["threads"] = state.threads;
  json["tokenizer"] = state.tokenizer;
  json["data"] = state.data;
}

Json inspect_checkpoint(const std::string& path) {
  int64_t bytes = 0;
  Json json{{"kind", "checkpoint"}, {"path", path}, {"problems", Json::array()}};
  Json files = sizes_of(path, bytes);
  try {
    const CheckpointState state = read_checkpoint_state(path, Verify::kAll);
    json["step"] = state.step;
    add_facts(json, state);
    json["tensors"] = tensors_of((fs::path(path) / "model.safetensors").string());
    int64_t parameters = 0;
    for (const Json& tensor : json["tensors"])
      if (tensor["name"].get<std::string>().find(kBucketBiasName) == std::string::npos)
        parameters += tensor["count"].get<int64_t>();
    json["parameters"] = parameters;
    json["config"] = to_json(state.config);
    json["attention"] = describe_schedule(state.config.model);
  } catch (const Interrupted&) {
    throw;
  } catch (const std::exception& error) {
    json["problems"].push_back(error.what());
  }
  json["files"] = std::move(files);
  json["bytes"] = bytes;
  return json;
}

// A row of a run's table of checkpoints. "state": "whole", "broken", "unfinished" (a save that goes on, or was cut off
// and goes with the next), "removed" (while this looked at it) or "not checked".
Json checkpoint_row(const std::string& folder, const InspectOptions& options, Json& problems) {
  int64_t bytes = 0;
  sizes_of(folder, bytes);
  Json row{{"name", name_of_folder(folder)}, {"bytes", bytes}, {"step", nullptr}, {"state", "not checked"}};
  if (row["name"].get<std::string>().find(".partial-") != std::string::npos) {
    row["state"] = "unfinished";
    return row;
  }
  if (options.fast) return row;
  try {
    row["step"] = read_checkpoint_state(folder, Verify::kAll).step;
    row["state"] = "whole";
  } catch (const Interrupted&) {
    throw;
  } catch (const std::exception& error) {
    row["state"] = is_there(folder) ? "broken" : "removed";  // by the run, which keeps the newest
    if (is_there(folder)) problems.push_back(error.what());
  }
  return row;
}

Json value_of(const Json& record, const char* key) {
  return record.is_object() && record.contains(key) ? record[key] : Json();
}

// What the metrics say; null where they do not.
Json inspect_metrics(const std::string& run, const InspectOptions& options, Json& problems) {
  RunLog log;
  const fs::path path = fs::path(run) / "metrics.jsonl";
  if (is_there(path)) try {
      log = read_run_log(path.string(), options.fast ? Lines::kLast : Lines::kAll);
      if (!log.broken.empty()) problems.push_back(describe_broken_lines(path.string(), log.broken));
    } catch (const Interrupted&) {
      throw;
    } catch (const std::exception& error) {
      problems.push_back(error.what());
    }
  const Json& latest = log.resume.is_null() ? log.header : log.resume;
  return {{"started", value_of(log.header, "time")},
          {"resumed", value_of(log.resume, "time")},
          {"init_from", value_of(log.header, "init_from")},
          {"step", value_of(log.step, "step")},
          {"loss", value_of(log.step, "loss")},
          {"tokens", value_of(log.step, "tokens")},
          {"tokens_per_s", value_of(log.step, "tokens_per_s")},
          {"validation_step", value_of(log.eval, "step")},
          {"validation_loss", value_of(log.eval, "loss")},
          {"parameters", value_of(latest, "parameters")},
          {"unreadable_lines", log.unreadable},
          {"config", value_of(latest, "config")}};
}

// In words; null for a config that cannot be read any more.
Json attention_of(const Json& config) {
  if (config.is_null()) return nullptr;
  try {
    return describe_schedule(config_from_json(config, "config").model);
  } catch (const std::exception&) {
    return nullptr;
  }
}

Json planned_steps(const Json& config) {
  return value_of(value_of(config, "train"), "steps");
}

Json inspect_run(const std::string& path, const InspectOptions& options) {
  Json problems = Json::array(), checkpoints = Json::array();
  Json metrics = inspect_metrics(path, options, problems);
  std::vector<std::string> folders = checkpoint_folders(path);
  std::sort(folders.begin(), folders.end());
  for (size_t i = 0; i < folders.size(); ++i) {
    check_stop(path, ": checking was interrupted");
    if (options.progress && !options.fast)
      options.progress(static_cast<double>(i) / static_cast<double>(folders.size()),
                       "checking " + name_of_folder(folders[i]));
    checkpoints.push_back(checkpoint_row(folders[i], options, problems));
  }
  Json config = std::move(metrics["config"]);
  metrics.erase("config");
  for (auto folder = folders.rbegin(); config.is_null() && folder != folders.rend(); ++folder) try {
      config = to_json(read_checkpoint_state(*folder, Verify::kModel).config);
    } catch (const std::exception&) {  // it is in the table already
    }
  Json json{{"kind", "run"}, {"path", path}, {"problems", std::move(problems)}};
  json["writer"] = writer_of(path);
  json.update(metrics);
  json["planned_steps"] = planned_steps(config);
  json["checkpoints"] = std::move(checkpoints);
  json["attention"] = attention_of(config);
  json["config"] = std::move(config);
  return json;
}

Json inspect_runs(const std::string& path, const std::vector<std::string>& runs, const InspectOptions& options) {
  Json rows = Json::array(), problems = Json::array();
  for (const std::string& run : runs) {
    check_stop(path, ": reading was interrupted");
    Json row{{"name", name_of_folder(run)}};
    row.update(inspect_metrics(run, options, problems));
    row["planned_steps"] = planned_steps(row["config"]);
    row.erase("config");
    row["writer"] = writer_of(run);
    row["checkpoints"] = checkpoint_folders(run).size();
    rows.push_back(std::move(row));
  }
  return {{"kind", "runs"}, {"path", path}, {"problems", std::move(problems)}, {"runs", std::move(rows)}};
}

Json inspect_split(const std::string& path, const Manifest& manifest, Split which, const InspectOptions& options,
                   Json& problems) {
  const SplitInfo& split = manifest.split(which);
  Json shards = Json::array();
  for (const ShardInfo& shard : split.shards)
    shards.push_back({{"file", shard.file}, {"tokens", shard.tokens}, {"xxh3", to_hex(shard.xxh3)}});
  if (split.tokens() > 0) try {
      const TokenSet opened(path, which);  // headers and sizes
      if (!options.fast)
        verify_shards(opened, [&](int64_t done, int64_t all) {
          if (options.progress)
            options.progress(static_cast<double>(done) / static_cast<double>(std::max<int64_t>(all, 1)),
                             concat("checking ", name_of(which), " shards"));
        });
    } catch (const Interrupted&) {
      throw;
    } catch (const std::exception& error) {
      problems.push_back(error.what());
    }
  return {{"tokens", split.tokens()},
          {"documents", split.documents()},
          {"bytes", split.bytes()},
          {"stored_bytes", split.tokens() * size_of(manifest.dtype)},
          {"shards", std::move(shards)}};
}

Json inspect_set(const std::string& path, const InspectOptions& options) {
  Json json{{"kind", "set"}, {"path", path}, {"problems", Json::array()}};
  json["writer"] = writer_of(path);
  json["checked"] = !options.fast;
  try {
    const Manifest manifest = read_manifest(path);
    json["tokenizer"] = manifest.tokenizer;
    json["vocab_size"] = manifest.vocab_size;
    json["dtype"] = name_of(manifest.dtype);
    for (const Split split : {Split::kTrain, Split::kVal})
      json[name_of(split)] = inspect_split(path, manifest, split, options, json["problems"]);
  } catch (const Interrupted&) {
    throw;
  } catch (const std::exception& error) {
    json["problems"].push_back(error.what());
  }
  return json;
}

}  // namespace

Json inspect(const std::string& path, const InspectOptions& options) {
  require(is_there(path), path, ": there is no such file or folder");
  require(fs::is_directory(path), path, ": is a file; name the folder of a checkpoint, a run, runs or a prepared set");
  if (is_set(path)) return inspect_set(path, options);
  if (is_checkpoint(path)) return inspect_checkpoint(path);
  if (is_run(path)) return inspect_run(path, options);
  std::vector<std::string> runs = folders_in(path);
  std::erase_if(runs, [](const std::string& folder) { return is_checkpoint(folder) || !is_run(folder); });
  require(!runs.empty(), path, ": is neither a checkpoint, a run, a folder of runs nor a prepared set");
  return inspect_runs(path, runs, options);
}

}  // namespace scfa
