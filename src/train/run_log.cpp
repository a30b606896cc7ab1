#include "train/run_log.h"

#include <algorithm>
#include <limits>
#include <string_view>

#include "core/signals.h"
#include "data/input_file.h"
#include "train/metrics_lines.h"

namespace scfa {

namespace {

constexpr int64_t kBlock = 1 << 18, kLongestLine = 1 << 22;

// The lines of a file, last first. What is longer than any record is given in pieces, which are no JSON.
class LinesFromTheEnd {
 public:
  explicit LinesFromTheEnd(const InputFile& file) : file_(file), at_(file.size()) {}

  bool next(std::string& line) {
    if (at_ == 0 && text_.empty()) return false;
    size_t end = text_.rfind('\n');
    while (end == std::string::npos && at_ > 0 && static_cast<int64_t>(text_.size()) < kLongestLine) {
      check_stop(file_.path(), ": reading was interrupted");
      std::string block(static_cast<size_t>(std::min(kBlock, at_)), '\0');
      at_ -= static_cast<int64_t>(block.size());
      file_.read(at_, block.data(), static_cast<int64_t>(block.size()));
      text_.insert(0, block);
      end = text_.rfind('\n');
    }
    const size_t begin = end == std::string::npos ? 0 : end + 1;
    line = text_.substr(begin);
    text_.resize(end == std::string::npos ? 0 : end);
    return true;
  }

 private:
  const InputFile& file_;
  int64_t at_;
  std::string text_;  // of [at_, the end of the next line)
};

std::string first_line(const InputFile& file) {
  std::string text(static_cast<size_t>(std::min(kLongestLine, file.size())), '\0');
  file.read(0, text.data(), static_cast<int64_t>(text.size()));
  return text.substr(0, text.find('\n'));
}

// The record, if the line is one and its checksum, where it has one, is right. Counts lines that are not.
Json record_of(const std::string& line, RunLog& log) {
  try {
    Json record = parse_json(line, "record");
    const bool whole = check_line(line) != LineChecksum::kWrong;
    if (whole && record.contains("type") && record["type"].is_string()) return record;
  } catch (const Error&) {
  }
  ++log.unreadable;
  return {};
}

bool names(const std::string& line, std::string_view type) {
  return line.find(type) != std::string::npos;
}

std::optional<int64_t> step_of(const Json& record) {
  if (!record.contains("step") || !record["step"].is_number_integer()) return {};
  return record["step"].get<int64_t>();
}

void check_lines(const InputFile& file, RunLog& log) {
  log.unreadable = 0;
  for (MetricsLines lines(file); lines.next();) {
    if (lines.holds()) continue;
    ++log.unreadable;
    if (lines.ended() && lines.checksummed()) log.broken.push_back(lines.number());
  }
}

}  // namespace

RunLog read_run_log(const std::string& path, Lines which) {
  const InputFile file(path);
  RunLog log;
  LinesFromTheEnd lines(file);
  int64_t last = std::numeric_limits<int64_t>::max();  // later steps were replaced
  for (std::string line; (log.step.is_null() || log.eval.is_null() || log.resume.is_null()) && lines.next(line);) {
    const bool step = names(line, "\"step\""), eval = names(line, "\"eval\""), resume = names(line, "\"resume\"");
    const bool wanted = resume || (step && log.step.is_null()) || (eval && log.eval.is_null());
    if (line.empty() || (line.ends_with('}') && !wanted)) continue;
    Json record = record_of(line, log);
    const std::optional<int64_t> at = step_of(record);
    if (record.is_null() || !at) continue;
    const std::string type = record["type"];
    if (type == "resume") {
      last = std::min(last, *at);
      if (log.resume.is_null()) log.resume = std::move(record);
    } else if (*at <= last && type == "step" && log.step.is_null()) {
      log.step = std::move(record);
    } else if (*at <= last && type == "eval" && log.eval.is_null()) {
      log.eval = std::move(record);
    }
  }
  RunLog ignored;
  Json header = record_of(first_line(file), ignored);
  if (!header.is_null() && header["type"] == "header") log.header = std::move(header);
  if (which == Lines::kAll) check_lines(file, log);
  return log;
}

}  // namespace scfa
