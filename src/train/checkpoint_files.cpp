#include "train/checkpoint_files.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <sstream>

#include "core/error.h"
#include "data/checksum.h"
#include "data/input_file.h"

namespace scfa {

namespace fs = std::filesystem;

namespace {

constexpr const char* kPrefix = "checkpoint-";
constexpr int64_t kMostBytes = 4096;  // of checkpoint.xxh3
constexpr size_t kLastLine = 17;      // 16 digits and the end of the line

std::optional<int64_t> step_of_name(const std::string& name) {
  if (!name.starts_with(kPrefix)) return {};
  const std::string digits = name.substr(std::string(kPrefix).size());
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  if (digits.empty() || digits.size() > 18 || !std::all_of(digits.begin(), digits.end(), is_digit)) return {};
  return std::stoll(digits);
}

std::vector<std::string> names_in(const std::string& run) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator at(run, error), end; !error && at != end; at.increment(error))
    names.push_back(at->path().filename());
  return names;
}

template <class Number>
bool read_whole(const std::string& text, Number& value, int base) {
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  return error == std::errc() && stop == text.data() + text.size();
}

FileRecord parse_line(const std::string& line, const std::string& path) {
  std::istringstream words(line);
  std::string digits, bytes;
  FileRecord record{};
  words >> digits >> bytes >> record.name;
  require(read_whole(digits, record.xxh3, 16) && read_whole(bytes, record.bytes, 10), path,
          ": is not as it was written: \"", abbreviate(line), "\"");
  return record;
}

}  // namespace

IsOurs is_checkpoint_file() {
  return is_one_of({kModelFile, kOptimizerFile, kStateFile, kChecksumFile});
}

std::optional<int64_t> step_of_checkpoint(const std::string& path) {
  fs::path at(path);
  if (!at.has_filename()) at = at.parent_path();
  return step_of_name(at.filename());
}

std::string checkpoint_name(int64_t step) {
  const std::string digits = std::to_string(step);
  return kPrefix + std::string(digits.size() < 8 ? 8 - digits.size() : 0, '0') + digits;
}

std::vector<int64_t> checkpoint_steps(const std::string& run) {
  std::vector<int64_t> steps;
  for (const std::string& name : names_in(run))
    if (const std::optional<int64_t> step = step_of_name(name); step && name == checkpoint_name(*step))
      steps.push_back(*step);
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

std::vector<std::string> unfinished_checkpoints(const std::string& run) {
  std::vector<std::string> folders;
  for (const std::string& name : names_in(run)) {
    const size_t dot = name.find(".partial-");
    if (dot != std::string::npos && step_of_name(name.substr(0, dot))) folders.push_back(fs::path(run) / name);
  }
  return folders;
}

std::string checksum_lines(const std::vector<FileRecord>& files) {
  std::string text;
  for (const FileRecord& file : files) text += concat(to_hex(file.xxh3), " ", file.bytes, " ", file.name, "\n");
  return text + to_hex(checksum_of(text.data(), text.size())) + "\n";
}

std::vector<FileRecord> read_checksums(const std::string& checkpoint) {
  const std::string path = fs::path(checkpoint) / kChecksumFile, text = read_regular_file(path, kMostBytes);
  const size_t lines = text.size() - std::min(kLastLine, text.size());
  require(text.substr(lines) == to_hex(checksum_of(text.data(), lines)) + "\n", path,
          ": is corrupt: its last line is not the checksum of the lines before");
  std::vector<FileRecord> files;
  std::istringstream stream(text.substr(0, lines));
  for (std::string line; std::getline(stream, line);) files.push_back(parse_line(line, path));
  for (const char* name : {kModelFile, kOptimizerFile, kStateFile})
    require(std::count_if(files.begin(), files.end(), [&](const FileRecord& f) { return f.name == name; }) == 1, path,
            ": must name ", name, " once");
  return files;
}

void verify_file(const std::string& checkpoint, const FileRecord& written) {
  const InputFile file(fs::path(checkpoint) / written.name);
  require(file.size() == written.bytes, file.path(), ": is ", file.size(), " bytes long where ", written.bytes,
          " were written");
  require(checksum_of_file(file, 0, file.size()) == written.xxh3, file.path(),
          ": is corrupt: its checksum is not the one written");
}

}  // namespace scfa
