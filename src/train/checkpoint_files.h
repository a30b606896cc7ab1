// The files of a checkpoint's folder: their names, which folders of a run are checkpoints, and whether the files are as
// they were written. checkpoint.xxh3, written last, has a line "XXH3-64 BYTES NAME" for each other file, and at the end
// a line with the XXH3-64 of the lines before.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/output_file.h"

namespace scfa {

inline constexpr const char* kModelFile = "model.safetensors";
inline constexpr const char* kOptimizerFile = "optimizer.safetensors";
inline constexpr const char* kStateFile = "state.json";
inline constexpr const char* kChecksumFile = "checkpoint.xxh3";

// Whether an entry of a checkpoint's folder is one of those that a save writes.
IsOurs is_checkpoint_file();

// The step of a folder named checkpoint-DIGITS, whatever folder that is in; nothing for any other name.
std::optional<int64_t> step_of_checkpoint(const std::string& path);
std::string checkpoint_name(int64_t step);

// Steps of the checkpoints of a run, whole or not, newest first.
std::vector<int64_t> checkpoint_steps(const std::string& run);

// Folders of saves that were killed, which were never put in place.
std::vector<std::string> unfinished_checkpoints(const std::string& run);

struct FileRecord {
  std::string name;
  int64_t bytes;
  uint64_t xxh3;
};

std::string checksum_lines(const std::vector<FileRecord>& files);

// What checkpoint.xxh3 of a folder says. Throws Error unless it is as it was written and names each file once.
std::vector<FileRecord> read_checksums(const std::string& checkpoint);

// Throws Error naming the file unless it has that size and checksum, Interrupted once a signal asked to stop.
void verify_file(const std::string& checkpoint, const FileRecord& written);

}  // namespace scfa
