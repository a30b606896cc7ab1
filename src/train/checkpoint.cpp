#include "train/checkpoint.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "data/checksum.h"
#include "data/output_file.h"
#include "data/token_file.h"
#include "train/config_io.h"
#include "train/safetensors.h"

namespace scfa {

namespace fs = std::filesystem;

namespace {

using Json = nlohmann::ordered_json;

constexpr int kFormat = 1;
constexpr const char* kPrefix = "checkpoint-";
constexpr const char* kModelFile = "model.safetensors";
constexpr const char* kOptimizerFile = "optimizer.safetensors";
constexpr const char* kStateFile = "state.json";

std::vector<NamedTensor> named(const ParameterTable& table, const Tensor& flat, const std::string& prefix) {
  std::vector<NamedTensor> tensors;
  for (const ParameterEntry& entry : table.entries)
    tensors.push_back({prefix + entry.name, entry.shape, flat.as<float>() + entry.offset});
  return tensors;
}

std::vector<NamedTensor> optimizer_tensors(const ParameterTable& table, const Optimizer& optimizer) {
  std::vector<NamedTensor> tensors = named(table, optimizer.first_moment(), "m.");
  for (NamedTensor& tensor : named(table, optimizer.second_moment(), "v.")) tensors.push_back(std::move(tensor));
  return tensors;
}

// Steps of the checkpoints of a run, newest first.
std::vector<int64_t> list_steps(const std::string& run) {
  std::vector<int64_t> steps;
  std::error_code none;
  for (const fs::directory_entry& entry : fs::directory_iterator(run, none)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with(kPrefix)) continue;
    const std::string digits = name.substr(std::string(kPrefix).size());
    if (!digits.empty() && digits.size() < 19 && std::all_of(digits.begin(), digits.end(), ::isdigit))
      steps.push_back(std::stoll(digits));
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

std::string name_of_step(int64_t step) {
  std::string digits = std::to_string(step);
  return kPrefix + std::string(digits.size() < 8 ? 8 - digits.size() : 0, '0') + digits;
}

std::string path_of_step(const std::string& run, int64_t step) {
  const fs::path padded = fs::path(run) / name_of_step(step);
  return fs::exists(padded) ? padded : fs::path(run) / (kPrefix + std::to_string(step));
}

Json read_state(const std::string& checkpoint) {
  const std::string path = fs::path(checkpoint) / kStateFile;
  std::ifstream file(path);
  require(file.good(), path, ": cannot be read");
  Json state = Json::parse(file, nullptr, false);
  require(state.is_object(), path, ": is not a JSON object");
  for (const char* key : {"format", "step", "seconds", "tokenizer", "vocab_size", "files", "config"})
    require(state.contains(key), path, ": has no key \"", key, "\"");
  require(state["format"] == kFormat, path, ": is of format ", state["format"].dump(), "; this build reads ", kFormat);
  return state;
}

// What saves that were killed left behind.
void remove_unfinished(const std::string& run) {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(run, ignored)) {
    const std::string name = entry.path().filename();
    if (name.starts_with(kPrefix) && name.find(".partial-") != std::string::npos) fs::remove_all(entry.path(), ignored);
  }
}

void remove_old(const std::string& run, int64_t keep) {
  const std::vector<int64_t> steps = list_steps(run);
  for (size_t i = static_cast<size_t>(keep); keep > 0 && i < steps.size(); ++i) {
    std::error_code ignored;  // a checkpoint that cannot be removed is no reason to stop training
    fs::remove_all(path_of_step(run, steps[i]), ignored);
  }
}

}  // namespace

std::string save_checkpoint(const std::string& run, const CheckpointState& state, const Gpt& model,
                            const Optimizer& optimizer) {
  remove_unfinished(run);
  const std::string path = fs::path(run) / name_of_step(state.step);
  StagedFolder folder(path);
  Json files;
  const auto write = [&](const char* name, const std::vector<NamedTensor>& tensors) {
    const WrittenFile written = write_safetensors(folder.file(name), tensors, {{"format", "scfa"}});
    files[name] = {{"bytes", written.bytes}, {"xxh3", to_hex(written.xxh3)}};
  };
  write(kModelFile, named(model.table(), model.values(), ""));
  write(kOptimizerFile, optimizer_tensors(model.table(), optimizer));
  const Json json = {{"format", kFormat},
                     {"step", state.step},
                     {"seconds", state.seconds},
                     {"tokenizer", state.tokenizer},
                     {"vocab_size", model.config().vocab_size},
                     {"files", files},
                     {"config", to_json(state.config)}};
  write_file(folder.file(kStateFile), json.dump(2) + "\n");
  folder.commit();
  remove_old(run, state.config.checkpoint.keep);
  return path;
}

CheckpointState read_checkpoint_state(const std::string& checkpoint) {
  const Json json = read_state(checkpoint);
  const std::string where = fs::path(checkpoint) / kStateFile;
  for (const char* name : {kModelFile, kOptimizerFile}) {
    const std::string path = fs::path(checkpoint) / name;
    require(json["files"].contains(name), where, ": does not list ", name);
    const MappedFile file(path);
    require(json["files"][name]["bytes"] == file.size(), path, ": is ", file.size(), " bytes long where ",
            json["files"][name]["bytes"].dump(), " were written");
    require(json["files"][name]["xxh3"] == to_hex(checksum_of(file.data(), static_cast<size_t>(file.size()))), path,
            ": is corrupt: its checksum is not the one written");
  }
  CheckpointState state;
  state.step = json["step"].get<int64_t>();
  state.seconds = json["seconds"].get<double>();
  state.tokenizer = json["tokenizer"].get<std::string>();
  state.config = config_from_json(json["config"], where);
  state.config.model.vocab_size = json["vocab_size"].get<int64_t>();
  return state;
}

void load_checkpoint(const std::string& checkpoint, Gpt& model, Optimizer* optimizer) {
  read_safetensors(fs::path(checkpoint) / kModelFile, named(model.table(), model.values(), ""));
  if (optimizer == nullptr) return;
  read_safetensors(fs::path(checkpoint) / kOptimizerFile, optimizer_tensors(model.table(), *optimizer));
}

std::string newest_checkpoint(const std::string& run, std::vector<std::string>* rejected) {
  for (const int64_t step : list_steps(run)) {
    const std::string path = path_of_step(run, step);
    try {
      read_checkpoint_state(path);
      return path;
    } catch (const std::exception& error) {
      rejected->push_back(concat("passed over ", path, ": ", error.what()));
    }
  }
  return {};
}

std::string find_checkpoint(const std::string& path) {
  if (fs::exists(fs::path(path) / kStateFile)) return path;
  std::vector<std::string> rejected;
  std::string found = newest_checkpoint(path, &rejected);
  if (found.empty() && !rejected.empty()) fail(path, ": has no whole checkpoint; ", rejected.front());
  require(!found.empty(), path, ": is neither a checkpoint nor a run with one; make one with ./train --config FILE");
  return found;
}

}  // namespace scfa
