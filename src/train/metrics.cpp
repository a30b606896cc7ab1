#include "train/metrics.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <filesystem>
#include <optional>

#include "core/version.h"
#include "data/input_file.h"
#include "data/json_file.h"
#include "train/config_io.h"
#include "train/machine.h"
#include "train/metrics_lines.h"

namespace scfa {

namespace fs = std::filesystem;

namespace {

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

Json header(const char* type, const Config& config, Gpt& model, int ranks) {
  const Machine machine = this_machine();
  Json gpu;
  if (model.context().on_gpu()) {
    const gpu::Properties& p = gpu::properties();
    gpu = {{"name", p.name},
           {"cuda_driver", p.driver},
           {"memory_bytes", p.memory},
           {"data_sheet_flops", data_sheet_flops(p.name)}};
  }
  return {
      {"type", type},
      {"format", kMetricsFormat},
      {"time", utc_now()},
      {"version", version()},
      {"commit", git_commit()},
      {"machine", {{"cpu", machine.cpu}, {"threads", machine.threads}, {"memory_bytes", machine.memory}, {"gpu", gpu}}},
      {"ranks", ranks},
      {"parameters", model.table().count},
      {"vocab_size", model.config().vocab_size},
      {"model_flops_per_token", model_flops_per_token(config.model.at_stage(0))},
      {"config", to_json(config)}};
}

double rounded(double x, double scale) {
  return std::round(x * scale) / scale;
}

// The step of a line that is a record of one: of the header 0. Nothing if it is no record of ours.
std::optional<int64_t> step_of(const Json& record) {
  if (!record.is_object() || !record.contains("type")) return {};
  if (record["type"] == "header") return 0;
  const auto its = record.find("step");
  if (its == record.end() || !its->is_number_integer()) return {};
  return its->get<int64_t>();
}

Json parse_line(const std::string& line) {
  return Json::parse(
      line, [](int depth, Json::parse_event_t, Json&) { return depth < 16; }, false);
}

}  // namespace

int64_t cut_metrics(const std::string& path, int64_t step, std::vector<int64_t>* broken) {
  if (std::error_code error; !fs::exists(path, error)) return 0;
  const InputFile file(path);
  int64_t kept = 0;
  bool later = false;  // behind the first record of a later step
  for (MetricsLines lines(file); lines.next();) {
    if (!lines.ended() || !lines.holds()) {
      if (!later && broken != nullptr) broken->push_back(lines.number());
      continue;
    }
    const Json record = parse_line(lines.text());
    const std::optional<int64_t> at = step_of(record);
    if (!at) continue;
    // Earlier versions did not cut: there a resumed run's records replace those of later steps before them.
    if (record["type"] == "resume") later = false;
    later = later || *at > step;
    if (!later) kept = lines.end();
  }
  if (kept == file.size()) return 0;
  std::error_code error;
  fs::resize_file(path, static_cast<uintmax_t>(kept), error);
  require(!error, path, ": cannot be cut back to ", kept, " bytes: ", error.message());
  return file.size() - kept;
}

Metrics::Metrics(const std::string& path, const Config& config, Gpt& model, int64_t resume_step, int ranks,
                 const std::string& init_from)
    : path_(path) {
  Json first = header(resume_step > 0 ? "resume" : "header", config, model, ranks);
  if (resume_step > 0) first["step"] = resume_step;
  if (!init_from.empty()) first["init_from"] = init_from;
  const std::string line = first.dump();
  std::vector<int64_t> broken;
  if (resume_step > 0) cut_metrics(path, resume_step, &broken);
  if (!broken.empty()) warning_ = describe_broken_lines(path, broken);
  file_.open(path, resume_step > 0 ? std::ios::app : std::ios::trunc);
  require(file_.good(), path_, ": cannot be written");
  write(line);
}

void Metrics::write(const std::string& line) {
  file_ << with_checksum(line) << '\n' << std::flush;
  require(file_.good(), path_, ": cannot be written; is the disk full?");
}

void Metrics::step(const StepRecord& r) {
  const Json record = {{"type", "step"},
                       {"step", r.step},
                       {"loss", r.loss},
                       {"lr", r.lr},
                       {"grad_norm", r.grad_norm},
                       {"tokens", r.tokens},
                       {"seconds", r.seconds},
                       {"data_wait", r.data_wait},
                       {"tokens_per_s", r.tokens_per_second},
                       {"flops_per_s", r.flops_per_second},
                       {"utilisation", r.utilisation},
                       {"peak_memory_bytes", r.peak_memory}};
  write(record.dump());
}

void Metrics::profile(int64_t step, double seconds, double attention, const std::map<std::string, double>& times) {
  const Json record = {
      {"type", "profile"}, {"step", step}, {"seconds", seconds}, {"attention", attention}, {"times", times}};
  write(record.dump());
}

void Metrics::eval(int64_t step, const Evaluation& evaluation, double seconds) {
  const LossSums& sums = evaluation.sums;
  const auto tokens = static_cast<double>(sums.tokens);
  Json record = {{"type", "eval"},
                 {"step", step},
                 {"loss", sums.loss / tokens},
                 {"perplexity", std::exp(sums.loss / tokens)},
                 {"accuracy", sums.correct / tokens},
                 {"tokens", sums.tokens},
                 {"seconds", seconds},
                 {"share_of_pairs", rounded(share_of_pairs(evaluation), 1e6)}};
  if (!is_dense_everywhere(evaluation)) {
    Json effective = Json::array(), largest = Json::array();
    for (const auto& layer : evaluation.balance) {
      Json of_layer = Json::array(), largest_of_layer = Json::array();
      for (const SegmentBalance& head : layer) {
        of_layer.push_back(rounded(head.effective_segments(), 1e4));
        largest_of_layer.push_back(rounded(head.largest_share(), 1e4));
      }
      effective.push_back(of_layer);
      largest.push_back(largest_of_layer);
    }
    record["effective_segments"] = effective;
    record["largest_segment"] = largest;
  }
  write(record.dump());
}

}  // namespace scfa
