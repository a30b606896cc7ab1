// Configs to and from JSON, text and documentation, all from the declaration in config.h.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "core/command_line.h"
#include "train/config.h"

namespace scfa {

// Reads a config file. Throws Error naming the file and the key: bad JSON, a key given twice, an unknown key (with the
// nearest known one), a wrong type, a value out of range; values in it are cut short.
Config read_config(const std::string& path);

// Sets one key ("train.steps", "attention.buckets" for every layer, "attention" to a JSON object or list) from text.
void override_config(Config& config, const std::string& key, const std::string& text);

nlohmann::ordered_json to_json(const Config& config);
Config config_from_json(const nlohmann::ordered_json& json, const std::string& origin);

// Keys of attention ("drop_rate") that are set, but that no pattern of the config uses.
std::vector<std::string> unused_attention_keys(const Config& config);

// A base of the rotary frequencies to try, where with that of the config every pair of a head's dimensions turns by
// more than a radian over a sequence, so that none keeps its phase well enough to match distant keys by content
// (docs/recall.md). 0 where the base is large enough, positions are learned, all heads have a window, or documents,
// which may be short, are kept apart.
double larger_rotary_theta(const Config& config);

// One row a key, for --help and docs/configuration.md.
struct FieldDoc {
  std::string key, type, default_text, meaning;
};
std::vector<FieldDoc> config_docs();
// Options for all keys, or for those of a section, with "attention" for JSON, and the list of them below --help's.
void add_config_options(CommandLine& line, const std::string& section = "");
std::string config_markdown();

// Keys whose values differ: (key, value in a, value in b) as JSON text.
struct Difference {
  std::string key, a, b;
};
std::vector<Difference> differences(const Config& a, const Config& b);

}  // namespace scfa
