#include "tools/inspect_text.h"

#include <algorithm>
#include <cstdio>
#include <vector>

#include "core/human.h"

namespace scfa {

namespace {

constexpr const char* kNothing = "-";
constexpr size_t kLabel = 18;

Json value_of(const Json& json, const char* key) {
  return json.is_object() && json.contains(key) ? json[key] : Json();
}

std::string grouped(int64_t value) {  // 1,234,567
  std::string text = std::to_string(value);
  for (auto at = static_cast<int64_t>(text.size()) - 3; at > (value < 0 ? 1 : 0); at -= 3)
    text.insert(static_cast<size_t>(at), ",");
  return text;
}

std::string whole(const Json& value) {
  return value.is_number_integer() ? grouped(value.get<int64_t>()) : kNothing;
}
std::string text_of(const Json& value) {
  return value.is_string() ? value.get<std::string>() : kNothing;
}
std::string count_of(const Json& value) {
  return value.is_number() ? format_count(value.get<double>()) : kNothing;
}
std::string bytes_of(const Json& value) {
  return value.is_number_integer() ? format_bytes(value.get<int64_t>()) : kNothing;
}
std::string loss_of(const Json& value) {
  if (!value.is_number()) return kNothing;
  char text[32];
  std::snprintf(text, sizeof text, "%.4f", value.get<double>());
  return text;
}
std::string steps_of(const Json& json) {
  const Json done = value_of(json, "step"), planned = value_of(json, "planned_steps");
  return (done.is_number_integer() ? done.dump() : kNothing) +
         (planned.is_number_integer() ? "/" + planned.dump() : std::string());
}

void put(std::string& out, const std::string& label, const std::string& value) {
  out += "  " + label + std::string(label.size() < kLabel ? kLabel - label.size() : 1, ' ') + value + '\n';
}

// Columns as wide as their widest cell, those of numbers to the right.
class Table {
 public:
  explicit Table(std::vector<std::string> header, std::vector<bool> right)
      : rows_{std::move(header)}, right_(std::move(right)) {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }

  std::string text() const {
    std::vector<size_t> width(right_.size());
    for (const auto& row : rows_)
      for (size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], row[i].size());
    std::string out;
    for (const auto& row : rows_) {
      std::string line = " ";
      for (size_t i = 0; i < row.size(); ++i) {
        const std::string pad(width[i] - row[i].size(), ' ');
        line += i == 0 ? " " : "  ";
        line += right_[i] ? pad + row[i] : row[i] + pad;
      }
      out += line.substr(0, line.find_last_not_of(' ') + 1) + '\n';
    }
    return out;
  }

 private:
  std::vector<std::vector<std::string>> rows_;
  std::vector<bool> right_;
};

std::string cut(const std::string& text, size_t most) {
  return text.size() <= most ? text : text.substr(0, most - 3) + "...";
}

std::string model_of(const Json& config) {
  const Json model = value_of(config, "model");
  if (!model.is_object()) return kNothing;
  return concat(whole(value_of(model, "n_layer")), " layers, ", whole(value_of(model, "n_head")), " heads, width ",
                whole(value_of(model, "n_embd")), ", context ", whole(value_of(model, "sequence_length")));
}

void put_model(std::string& out, const Json& found) {
  put(out, "model", model_of(found["config"]));
  put(out, "attention", text_of(value_of(found, "attention")));
  put(out, "parameters", whole(value_of(found, "parameters")));
}

std::string checkpoint_text(const Json& found, const InspectText& also) {
  std::string out;
  if (found.contains("config")) {
    const Json planned = value_of(value_of(found["config"], "train"), "steps");
    put(out, "step", whole(found["step"]) + " of " + whole(planned));
    if (found.contains("tokens")) put(out, "tokens", whole(found["tokens"]));
    if (found.contains("validation_loss"))
      put(out, "validation loss", found["validation_loss"].is_null() ? "not known" : loss_of(found["validation_loss"]));
    put_model(out, found);
    put(out, "device", text_of(found["device"]) + ", " + whole(found["threads"]) + " threads");
    put(out, "tokenizer", text_of(found["tokenizer"]));
    put(out, "data", text_of(found["data"]));
  }
  put(out, "size", bytes_of(found["bytes"]));
  for (const auto& [name, bytes] : found["files"].items()) put(out, "", name + ", " + bytes_of(bytes));
  put(out, "checksums", found["problems"].empty() ? "hold" : "do not hold");
  if (also.tensors && found.contains("tensors")) {
    Table table({"tensor", "shape", "parameters"}, {false, false, true});
    for (const Json& tensor : found["tensors"]) {
      std::string shape;
      for (const Json& size : tensor["shape"]) shape += (shape.empty() ? "" : " x ") + size.dump();
      table.add({text_of(tensor["name"]), shape, whole(tensor["count"])});
    }
    out += "\n" + table.text();
  }
  return out;
}

std::string run_text(const Json& found) {
  std::string out;
  put(out, "started", text_of(found["started"]));
  if (found["resumed"].is_string()) put(out, "last resumed", text_of(found["resumed"]));
  if (found["init_from"].is_string()) put(out, "began with", "the parameters of " + text_of(found["init_from"]));
  put(out, "steps", steps_of(found));
  put(out, "training loss", loss_of(found["loss"]));
  put(out, "validation loss",
      found["validation_loss"].is_null()
          ? "not known"
          : loss_of(found["validation_loss"]) + " after step " + whole(found["validation_step"]));
  put(out, "tokens", whole(found["tokens"]) + ", " + count_of(found["tokens_per_s"]) + " a second");
  put_model(out, found);
  put(out, "data", text_of(value_of(value_of(found["config"], "data"), "directory")));
  put(out, "writer", found["writer"].is_null() ? "none" : text_of(found["writer"]));
  if (found["unreadable_lines"] != 0)
    put(out, "lines passed over", whole(found["unreadable_lines"]) + " of metrics.jsonl, cut short or not as written");
  if (found["checkpoints"].empty()) return out + "\n  no checkpoint\n";
  Table table({"checkpoint", "size", "state"}, {false, true, false});
  for (const Json& row : found["checkpoints"])
    table.add({text_of(row["name"]), bytes_of(row["bytes"]), text_of(row["state"])});
  return out + "\n" + table.text();
}

std::string runs_text(const Json& found) {
  Table table({"run", "steps", "loss", "val loss", "tokens", "started"}, {false, true, true, true, true, false});
  for (const Json& run : found["runs"]) {
    const std::string day = text_of(run["started"]).substr(0, 10);
    table.add({cut(text_of(run["name"]), 24), steps_of(run), loss_of(run["loss"]), loss_of(run["validation_loss"]),
               count_of(run["tokens"]), run["writer"].is_null() ? day : day + " *"});
  }
  const auto written = [](const Json& run) { return !run["writer"].is_null(); };
  const bool any = std::any_of(found["runs"].begin(), found["runs"].end(), written);
  return table.text() + (any ? "  * a process writes to it now\n" : "");
}

std::string set_text(const Json& found) {
  std::string out;
  if (found.contains("tokenizer")) {
    put(out, "tokenizer", text_of(found["tokenizer"]));
    put(out, "vocabulary", whole(found["vocab_size"]) + ", stored as " + text_of(found["dtype"]));
  }
  put(out, "writer", found["writer"].is_null() ? "none" : text_of(found["writer"]));
  const bool checked = found["checked"].get<bool>();
  put(out, "checksums", !found["problems"].empty() ? "do not hold" : checked ? "hold" : "not computed");
  Table table({"split", "tokens", "documents", "text", "stored", "shards"}, {false, true, true, true, true, true});
  for (const char* split : {"train", "val"})
    if (found.contains(split)) {
      const Json& of = found[split];
      table.add({split, whole(of["tokens"]), whole(of["documents"]), bytes_of(of["bytes"]),
                 bytes_of(of["stored_bytes"]), std::to_string(of["shards"].size())});
    }
  return out + "\n" + table.text();
}

}  // namespace

std::string describe_inspected(const Json& found, const InspectText& also) {
  const std::string kind = found["kind"];
  std::string out = (kind == "set"    ? "prepared set "
                     : kind == "runs" ? "runs in "
                                      : kind + " ") +
                    found["path"].get<std::string>() + '\n';
  if (kind == "checkpoint") out += checkpoint_text(found, also);
  if (kind == "run") out += run_text(found);
  if (kind == "runs") out += runs_text(found);
  if (kind == "set") out += set_text(found);
  if (also.config && found.contains("config")) out += "\n" + found["config"].dump(2) + '\n';
  return out;
}

}  // namespace scfa
