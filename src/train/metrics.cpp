#include "train/metrics.h"

#include <cmath>
#include <ctime>
#include <nlohmann/json.hpp>

#include "core/version.h"
#include "train/config_io.h"
#include "train/machine.h"

namespace scfa {

namespace {

using Json = nlohmann::ordered_json;

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

Json header(const char* type, const Config& config, Gpt& model) {
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
      {"time", utc_now()},
      {"version", version()},
      {"commit", git_commit()},
      {"machine", {{"cpu", machine.cpu}, {"threads", machine.threads}, {"memory_bytes", machine.memory}, {"gpu", gpu}}},
      {"parameters", model.table().count},
      {"vocab_size", model.config().vocab_size},
      {"model_flops_per_token", model_flops_per_token(model.config())},
      {"config", to_json(config)}};
}

bool ends_with_newline(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file.good() || file.tellg() == 0) return true;
  file.seekg(-1, std::ios::end);
  return file.get() == '\n';
}

}  // namespace

Metrics::Metrics(const std::string& path, const Config& config, Gpt& model, int64_t resume_step)
    : path_(path), file_(path, resume_step > 0 ? std::ios::app : std::ios::trunc) {
  require(file_.good(), path_, ": cannot be written");
  if (resume_step > 0 && !ends_with_newline(path)) file_ << '\n';  // a line that a full disk cut short
  Json first = header(resume_step > 0 ? "resume" : "header", config, model);
  if (resume_step > 0) first["step"] = resume_step;
  write(first.dump());
}

void Metrics::write(const std::string& line) {
  file_ << line << '\n' << std::flush;
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
                       {"waited", r.waited},
                       {"tokens_per_s", r.tokens_per_second},
                       {"flops_per_s", r.flops_per_second},
                       {"utilisation", r.utilisation},
                       {"peak_memory_bytes", r.peak_memory}};
  write(record.dump());
}

void Metrics::profile(int64_t step, double seconds, const std::map<std::string, double>& times) {
  write(Json{{"type", "profile"}, {"step", step}, {"seconds", seconds}, {"times", times}}.dump());
}

void Metrics::eval(int64_t step, const Evaluation& evaluation, double seconds) {
  const LossSums& sums = evaluation.sums;
  const auto tokens = static_cast<double>(sums.tokens);
  Json record = {{"type", "eval"},
                 {"step", step},
                 {"loss", sums.loss / tokens},
                 {"perplexity", std::exp(sums.loss / tokens)},
                 {"accuracy", sums.hits / tokens},
                 {"tokens", sums.tokens},
                 {"seconds", seconds}};
  if (!spread_is_plain(evaluation)) {
    const auto rounded = [](double x) { return std::round(x * 1e4) / 1e4; };
    Json effective = Json::array(), largest = Json::array();
    for (const auto& layer : evaluation.spread) {
      Json of_layer = Json::array(), largest_of_layer = Json::array();
      for (const SegmentSpread& head : layer) {
        of_layer.push_back(rounded(head.effective_segments()));
        largest_of_layer.push_back(rounded(head.largest_share()));
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
