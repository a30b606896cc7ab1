#include "train/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "core/signals.h"
#include "data/checksum.h"
#include "data/json_file.h"
#include "train/checkpoint_files.h"
#include "train/config_io.h"
#include "train/safetensors.h"

namespace scfa {

namespace fs = std::filesystem;

namespace {

constexpr int64_t kFormat = 2;

std::vector<NamedTensor> named(const ParameterTable& table, const Tensor& flat, const std::string& prefix) {
  std::vector<NamedTensor> tensors;
  for (const ParameterEntry& entry : table.entries)
    tensors.push_back({prefix + entry.name, entry.shape, flat.as<float>() + entry.offset});
  return tensors;
}

// The model: parameters and biases of buckets.
std::vector<NamedTensor> named_model(const ParameterTable& table, const HostState& host_state,
                                     bool optional_biases = false) {
  std::vector<NamedTensor> tensors = named(table, host_state.view(State::kMasterParams), "");
  for (const BucketBiasEntry& entry : host_state.bucket_bias_table().entries)
    tensors.push_back(
        {entry.name, entry.shape, host_state.bucket_biases().as<float>() + entry.offset, optional_biases});
  return tensors;
}

void set_zero(const Tensor& tensor) {
  if (tensor) std::memset(tensor.data, 0, static_cast<size_t>(tensor.bytes()));
}

std::vector<NamedTensor> moments(const ParameterTable& table, const Tensor& first, const Tensor& second) {
  std::vector<NamedTensor> tensors = named(table, first, "m.");
  for (NamedTensor& tensor : named(table, second, "v.")) tensors.push_back(std::move(tensor));
  return tensors;
}

std::string in_run(const std::string& run, int64_t step) {
  return fs::path(run) / checkpoint_name(step);
}

// What is removed gets the name of an unfinished save first: whatever interrupts this, half a checkpoint is never taken
// for a broken one, and the next save removes the rest. A folder with files of others keeps its name.
void remove_folder(const std::string& checkpoint, std::vector<std::string>* left) {
  std::string folder = checkpoint;
  if (step_of_checkpoint(checkpoint) && foreign_entries(checkpoint, is_checkpoint_file()).empty()) {
    std::error_code error;
    fs::rename(checkpoint, checkpoint + ".partial-removed", error);
    if (!error) folder += ".partial-removed";
  }
  for (const std::string& path : remove_our_files(folder, is_checkpoint_file()))
    left->push_back(path + ": stays, because it could not be removed or no save wrote it");
}

// Renames what stands at a checkpoint's place if it is more than a checkpoint: a save must not end a run for that.
void move_aside(const std::string& path, std::vector<std::string>* notes) {
  std::error_code error;
  const fs::file_type type = fs::symlink_status(path, error).type();
  if (type == fs::file_type::not_found) return;
  if (type == fs::file_type::directory && foreign_entries(path, is_checkpoint_file()).empty()) return;
  for (int n = 1; n < 1000; ++n) {
    const std::string aside = concat(path, ".kept-", n);
    if (fs::exists(fs::symlink_status(aside, error))) continue;
    fs::rename(path, aside, error);
    require(!error, path, ": is in the way of a checkpoint and cannot be renamed: ", error.message());
    notes->push_back(concat(path, ": holds what no save wrote; moved to ", aside));
    return;
  }
}

std::optional<int64_t> best_step(const std::string& run, const std::vector<int64_t>& steps) {
  std::optional<int64_t> best;
  double lowest = 0;
  for (const int64_t step : steps) {  // newest first, which wins among equals
    try {
      const std::optional<double> loss = read_checkpoint_state(in_run(run, step), Verify::kState).validation_loss;
      if (!loss || (best && *loss >= lowest)) continue;
      best = step;
      lowest = *loss;
    } catch (const std::exception&) {  // not whole: none that could be used
    }
  }
  return best;
}

// Format 1 keeps sizes and checksums in the state itself.
std::vector<FileRecord> recorded_in_state(const JsonReader& state) {
  std::vector<FileRecord> files;
  const JsonReader all = state.object("files");
  for (const char* name : {kModelFile, kOptimizerFile}) {
    const JsonReader file = all.object(name);
    files.push_back({name, file.count("bytes"), file.hex("xxh3")});
  }
  return files;
}

CheckpointState parse_state(const JsonReader& json, int64_t format) {
  CheckpointState state;
  state.step = json.count("step");
  state.tokenizer = json.text("tokenizer");
  state.data = json.text("data");
  state.threads = json.count("threads");
  if (json.has("device")) state.device = json.text("device");
  if (json.has("ranks")) state.ranks = static_cast<int>(json.count("ranks"));
  if (json.has("gemms")) state.gemms = json.at("gemms").dump();
  state.config = config_from_json(json.at("config"), json.path() + ": config");
  if (json.has("validation_loss")) state.validation_loss = json.number("validation_loss");
  state.tokens = format == 1 ? state.step * state.config.train.batch_size * state.config.model.sequence_length
                             : json.count("tokens");
  return state;
}

}  // namespace

std::string save_checkpoint(const std::string& run, const CheckpointState& state, const ParameterTable& table,
                            const HostState& host_state, std::vector<std::string>* notes) {
  const std::string path = in_run(run, state.step);
  StagedFolder folder(path, is_checkpoint_file());
  std::vector<FileRecord> files;
  const auto write = [&](const char* name, const std::vector<NamedTensor>& tensors) {
    const WrittenFile written = write_safetensors(folder.file(name), tensors, {{"format", "scfa"}});
    files.push_back({name, written.bytes, written.xxh3});
  };
  write(kModelFile, named_model(table, host_state));
  write(kOptimizerFile, moments(table, host_state.view(State::kFirstMoment), host_state.view(State::kSecondMoment)));
  Json json = {{"format", kFormat},
               {"step", state.step},
               {"tokens", state.tokens},
               {"tokenizer", state.tokenizer},
               {"data", state.data},
               {"threads", state.threads},
               {"device", state.device},
               {"ranks", state.ranks},
               {"config", to_json(state.config)}};
  if (state.validation_loss) json["validation_loss"] = *state.validation_loss;
  if (!state.gemms.empty()) json["gemms"] = parse_json(state.gemms, "algorithms of GEMMs");
  const std::string text = json.dump(2) + "\n";
  write_file(folder.file(kStateFile), text);
  files.push_back({kStateFile, static_cast<int64_t>(text.size()), checksum_of(text.data(), text.size())});
  write_file(folder.file(kChecksumFile), checksum_lines(files));
  std::vector<std::string> said;
  move_aside(path, &said);
  for (const std::string& left : folder.replace(is_checkpoint_file())) said.push_back(left + ": stays");
  if (notes != nullptr) notes->insert(notes->end(), said.begin(), said.end());
  return path;
}

std::vector<std::string> remove_old_checkpoints(const std::string& run, int64_t newest,
                                                const CheckpointConfig& config) {
  std::vector<std::string> left;
  std::vector<int64_t> steps;
  for (const int64_t step : checkpoint_steps(run))
    if (step <= newest) steps.push_back(step);
  const bool crowded = config.keep > 0 && static_cast<int64_t>(steps.size()) > config.keep;
  const std::optional<int64_t> best = crowded && config.keep_best ? best_step(run, steps) : std::nullopt;
  for (size_t i = static_cast<size_t>(config.keep); crowded && i < steps.size(); ++i)
    if (steps[i] != best) remove_folder(in_run(run, steps[i]), &left);
  for (const std::string& folder : unfinished_checkpoints(run)) remove_folder(folder, &left);
  return left;
}

std::vector<std::string> remove_all_checkpoints(const std::string& run) {
  std::vector<std::string> left, folders = checkpoint_folders(run);
  std::sort(folders.begin(), folders.end());  // the newest last: it stays the one to go on from
  for (const std::string& folder : folders) remove_folder(folder, &left);
  return left;
}

CheckpointState read_checkpoint_state(const std::string& checkpoint, Verify verify) {
  const std::string path = fs::path(checkpoint) / kStateFile;
  // The list of checksums comes first: with it the state is checked before anything in it is believed.
  std::error_code error;
  const bool listed = fs::exists(fs::path(checkpoint) / kChecksumFile, error);
  const std::vector<FileRecord> list = listed ? read_checksums(checkpoint) : std::vector<FileRecord>();
  for (const FileRecord& file : list)
    if (file.name == kStateFile) verify_file(checkpoint, file);
  const Json json = read_json_file(path);
  const JsonReader reader(json, path);
  const int64_t format = reader.count("format");
  require(format == 1 || format == kFormat, path, ": is of format ", format, "; this build reads 1 and ", kFormat);
  require(listed || format == 1, path, ": there is no ", kChecksumFile, " beside it");
  CheckpointState state = parse_state(reader, format);
  state.path = checkpoint;
  const std::optional<int64_t> step = step_of_checkpoint(checkpoint);
  require(!step || *step == state.step, path, ": is of step ", state.step, ", which the folder's name is not");
  for (const FileRecord& file : listed ? list : recorded_in_state(reader))
    if ((file.name == kModelFile && verify != Verify::kState) ||
        (file.name == kOptimizerFile && verify == Verify::kAll))
      verify_file(checkpoint, file);
  return state;
}

void read_checkpoint(const std::string& checkpoint, const ParameterTable& table, const HostState& host_state) {
  for (const State state : {State::kMasterParams, State::kFirstMoment, State::kSecondMoment})
    set_zero(host_state.view(state));  // what lies between tensors
  read_safetensors(fs::path(checkpoint) / kModelFile, named_model(table, host_state), kBucketBiasName);
  if (!host_state.has_moments()) return;
  read_safetensors(fs::path(checkpoint) / kOptimizerFile,
                   moments(table, host_state.view(State::kFirstMoment), host_state.view(State::kSecondMoment)));
}

void read_parameters(const std::string& checkpoint, const ParameterTable& table, const HostState& host_state,
                     bool bucket_biases) {
  set_zero(host_state.view(State::kMasterParams));
  set_zero(host_state.bucket_biases());
  read_safetensors(
      fs::path(checkpoint) / kModelFile,
      bucket_biases ? named_model(table, host_state, true) : named(table, host_state.view(State::kMasterParams), ""),
      kBucketBiasName);
}

void load_checkpoint(const std::string& checkpoint, ParameterStore& store) {
  HostState host_state(store, store.training());
  read_checkpoint(checkpoint, store.table(), host_state);
  host_state.upload();
}

std::optional<CheckpointState> newest_checkpoint(const std::string& run, Verify verify,
                                                 std::vector<std::string>* rejected) {
  for (const int64_t step : checkpoint_steps(run)) {
    const std::string path = in_run(run, step);
    try {
      return read_checkpoint_state(path, verify);
    } catch (const Interrupted&) {
      throw;
    } catch (const std::exception& error) {
      rejected->push_back(concat("passed over ", path, ": ", error.what()));
    }
  }
  return {};
}

bool is_checkpoint_folder(const std::string& path) {
  std::error_code error;
  return fs::exists(fs::path(path) / kStateFile, error) ||
         (step_of_checkpoint(path).has_value() && checkpoint_steps(path).empty());
}

std::vector<std::string> checkpoint_folders(const std::string& run) {
  std::vector<std::string> folders = unfinished_checkpoints(run);
  for (const int64_t step : checkpoint_steps(run)) folders.push_back(in_run(run, step));
  return folders;
}

}  // namespace scfa
