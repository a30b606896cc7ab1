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

// A flat tensor where the host can read and write it: itself, or a copy of what is on the GPU.
class HostFlat {
 public:
  HostFlat(const Context& ctx, const Tensor& flat) : ctx_(ctx), flat_(flat), view_(flat) {
    if (flat.device == Device::kCpu) return;
    copy_ = Buffer(static_cast<size_t>(flat.bytes()), Device::kCpu);
    view_ = Tensor(copy_.data(), flat.dtype, Device::kCpu, {flat.numel()});
  }
  const Tensor& download() {
    if (copy_.data() != nullptr) ctx_.copy(view_, flat_);
    return view_;
  }
  const Tensor& view() const { return view_; }
  void upload() {
    if (copy_.data() == nullptr) return;
    ctx_.copy(flat_, view_);
    ctx_.synchronize();
  }

 private:
  const Context& ctx_;
  Tensor flat_, view_;
  Buffer copy_;
};

std::vector<NamedTensor> moments(const ParameterTable& table, const Tensor& first, const Tensor& second) {
  std::vector<NamedTensor> tensors = named(table, first, "m.");
  for (NamedTensor& tensor : named(table, second, "v.")) tensors.push_back(std::move(tensor));
  return tensors;
}

// The step of a folder named checkpoint-DIGITS; nothing for any other name.
std::optional<int64_t> step_of(const std::string& name) {
  if (!name.starts_with(kPrefix)) return {};
  const std::string digits = name.substr(std::string(kPrefix).size());
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  if (digits.empty() || digits.size() > 18 || !std::all_of(digits.begin(), digits.end(), is_digit)) return {};
  return std::stoll(digits);
}

std::string name_of_step(int64_t step) {
  const std::string digits = std::to_string(step);
  return kPrefix + std::string(digits.size() < 8 ? 8 - digits.size() : 0, '0') + digits;
}

// What a save that was killed left: the folder of a checkpoint that was never put in place.
bool is_unfinished(const std::string& name) {
  const size_t dot = name.find(".partial-");
  return dot != std::string::npos && step_of(name.substr(0, dot)).has_value();
}

std::vector<std::string> names_in(const std::string& run) {
  std::vector<std::string> names;
  std::error_code none;
  for (const fs::directory_entry& entry : fs::directory_iterator(run, none)) names.push_back(entry.path().filename());
  return names;
}

// Steps of the checkpoints of a run, newest first.
std::vector<int64_t> list_steps(const std::string& run) {
  std::vector<int64_t> steps;
  for (const std::string& name : names_in(run))
    if (const std::optional<int64_t> step = step_of(name); step && name == name_of_step(*step)) steps.push_back(*step);
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

Json read_state(const std::string& checkpoint) {
  const std::string path = fs::path(checkpoint) / kStateFile;
  std::ifstream file(path);
  require(file.good(), path, ": cannot be read");
  Json state = Json::parse(file, nullptr, false);
  require(state.is_object(), path, ": is not a JSON object");
  for (const char* key : {"format", "step", "tokenizer", "data", "threads", "files", "config"})
    require(state.contains(key), path, ": has no key \"", key, "\"");
  require(state["format"] == kFormat, path, ": is of format ", state["format"].dump(), "; this build reads ", kFormat);
  return state;
}

// Errors are ignored here: a folder that cannot be removed is no reason to stop training.
void remove_old(const std::string& run, int64_t newest, int64_t keep) {
  std::error_code ignored;
  int64_t kept = 0;
  for (const int64_t step : list_steps(run))
    if (step <= newest && keep > 0 && ++kept > keep) fs::remove_all(fs::path(run) / name_of_step(step), ignored);
  for (const std::string& name : names_in(run))
    if (is_unfinished(name)) fs::remove_all(fs::path(run) / name, ignored);
}

void verify_file(const Json& json, const std::string& checkpoint, const char* name) {
  const std::string path = fs::path(checkpoint) / name;
  const Json& written = json["files"].at(name);
  const MappedFile file(path);
  require(written.at("bytes") == file.size(), path, ": is ", file.size(), " bytes long where ",
          written.at("bytes").dump(), " were written");
  require(written.at("xxh3") == to_hex(checksum_of(file.data(), static_cast<size_t>(file.size()))), path,
          ": is corrupt: its checksum is not the one written");
}

}  // namespace

std::string save_checkpoint(const std::string& run, const CheckpointState& state, Gpt& model,
                            const Optimizer& optimizer) {
  const Context& ctx = model.context();
  const std::string path = fs::path(run) / name_of_step(state.step);
  const IsOurs is_ours = is_one_of({kModelFile, kOptimizerFile, kStateFile});
  StagedFolder folder(path, is_ours);
  Json files;
  const auto write = [&](const char* name, const std::vector<NamedTensor>& tensors) {
    const WrittenFile written = write_safetensors(folder.file(name), tensors, {{"format", "scfa"}});
    files[name] = {{"bytes", written.bytes}, {"xxh3", to_hex(written.xxh3)}};
  };
  HostFlat values(ctx, model.values()), first(ctx, optimizer.first_moment()), second(ctx, optimizer.second_moment());
  write(kModelFile, named(model.table(), values.download(), ""));
  write(kOptimizerFile, moments(model.table(), first.download(), second.download()));
  const Json json = {{"format", kFormat},
                     {"step", state.step},
                     {"tokenizer", state.tokenizer},
                     {"data", state.data},
                     {"threads", state.threads},
                     {"device", state.device},
                     {"files", files},
                     {"config", to_json(state.config)}};
  write_file(folder.file(kStateFile), json.dump(2) + "\n");
  folder.replace(is_ours);
  remove_old(run, state.step, state.config.checkpoint.keep);
  return path;
}

CheckpointState read_checkpoint_state(const std::string& checkpoint, Verify verify) {
  const std::string where = fs::path(checkpoint) / kStateFile;
  const Json json = read_state(checkpoint);
  CheckpointState state;
  try {
    state.path = checkpoint;
    state.step = json.at("step").get<int64_t>();
    state.tokenizer = json.at("tokenizer").get<std::string>();
    state.data = json.at("data").get<std::string>();
    state.threads = json.at("threads").get<int64_t>();
    state.device = json.value("device", "cpu");
    state.config = config_from_json(json.at("config"), where);
    verify_file(json, checkpoint, kModelFile);
    if (verify == Verify::kAll) verify_file(json, checkpoint, kOptimizerFile);
  } catch (const Json::exception& error) {
    fail(where, ": is not as it was written: ", error.what());
  }
  return state;
}

void load_checkpoint(const std::string& checkpoint, Gpt& model, Optimizer* optimizer) {
  const Context& ctx = model.context();
  HostFlat values(ctx, model.values());
  values.download();  // what lies between tensors stays as it is
  read_safetensors(fs::path(checkpoint) / kModelFile, named(model.table(), values.view(), ""));
  values.upload();
  model.values_changed();
  if (optimizer == nullptr) return;
  HostFlat first(ctx, optimizer->first_moment()), second(ctx, optimizer->second_moment());
  first.download(), second.download();
  read_safetensors(fs::path(checkpoint) / kOptimizerFile, moments(model.table(), first.view(), second.view()));
  first.upload(), second.upload();
}

std::optional<CheckpointState> newest_checkpoint(const std::string& run, Verify verify,
                                                 std::vector<std::string>* rejected) {
  for (const int64_t step : list_steps(run)) {
    const std::string path = fs::path(run) / name_of_step(step);
    try {
      return read_checkpoint_state(path, verify);
    } catch (const std::exception& error) {
      rejected->push_back(concat("passed over ", path, ": ", error.what()));
    }
  }
  return {};
}

CheckpointState find_checkpoint(const std::string& path) {
  if (fs::exists(fs::path(path) / kStateFile)) return read_checkpoint_state(path, Verify::kModel);
  std::vector<std::string> rejected;
  std::optional<CheckpointState> found = newest_checkpoint(path, Verify::kModel, &rejected);
  if (!found && !rejected.empty()) fail(path, ": has no whole checkpoint; ", rejected.front());
  require(found.has_value(), path, ": is neither a checkpoint nor a run with one; make one with ./train --config FILE");
  return *std::move(found);
}

std::vector<std::string> checkpoint_folders(const std::string& run) {
  std::vector<std::string> folders;
  for (const std::string& name : names_in(run))
    if (step_of(name) || is_unfinished(name)) folders.push_back(fs::path(run) / name);
  return folders;
}

}  // namespace scfa
