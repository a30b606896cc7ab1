#include "train/config_io.h"
#include "train/config_value.h"

namespace scfa {

using config_value::describe;
using config_value::join;
using config_value::json_of;
using config_value::type_name;

std::vector<FieldDoc> config_docs() {
  const Config config;
  std::vector<FieldDoc> docs;
  const auto add = [&](const std::string& key, const auto& value, const char* meaning, const FieldRule& rule) {
    using T = std::remove_cvref_t<decltype(value)>;
    std::string text = meaning;
    if (!rule.choices.empty() || std::isfinite(rule.min)) text += " (" + describe(rule) + ")";
    docs.push_back({key, type_name<T>(), json_of(value).dump(), text});
  };
  visit_fields(config, [&](const char* section, const char* key, const auto& value, const char* meaning,
                           const FieldRule& rule) { add(join(section, key), value, meaning, rule); });
  visit_fields_of_pattern(config.model.attention[0][0],
                          [&](const char* key, const auto& value, const char* meaning, const FieldRule& rule) {
                            add(join("attention", key), value, meaning, rule);
                          });
  return docs;
}

void add_config_options(CommandLine& line, const std::string& section) {
  std::string text = "\nKeys (type, default):\n";
  for (const FieldDoc& doc : config_docs()) {
    if (!section.empty() && !doc.key.starts_with(section + ".")) continue;
    text += "  --" + doc.key + "  (" + doc.type + ", " + doc.default_text + ")\n      " + doc.meaning + "\n";
    line.add_hidden_option(doc.key);
  }
  line.add_hidden_option("attention");
  line.set_footer(
      text + "  --attention  (JSON)\n      one pattern for all layers, a list with one per layer, or a schedule\n");
}

std::string config_markdown() {
  std::string text =
      "# Configuration\n\n"
      "A config is a JSON object (comments are allowed) with the sections below; a key left out has its default. "
      "Every\n"
      "key can be given on the command line, where it wins over the file: `./train --config configs/hash_8k.json\n"
      "--train.steps 100 --attention.buckets 32`. `attention` is one entry for all layers or a list with one entry "
      "per\n"
      "layer. An entry is an object with the keys below, for all heads, or `{\"mixture\": [{\"heads\": 4, \"pattern\": "
      "\"dense\",\n"
      "\"window\": 256}, {\"heads\": 8, \"pattern\": \"hash\"}]}` for consecutive ranges of heads. Patterns may change "
      "during\n"
      "a run: `\"attention\": {\"schedule\": [{\"from\": 0, \"attention\": {\"pattern\": \"hash\"}}, {\"from\": 0.9, "
      "\"attention\":\n"
      "{\"pattern\": \"dense\"}}]}` ends with a tenth of the steps dense; `from` is the share of the steps before, and "
      "`attention` what\n"
      "it would be without a schedule. An evaluation or a checkpoint has the patterns of the last step before it. On "
      "the "
      "command\n"
      "line `--attention.KEY` changes every object of every layer and stage, and `--attention JSON` replaces them "
      "all.\n\n"
      "This page is generated: `./train --print-config-docs`.\n";
  std::string section = "?";
  for (const FieldDoc& doc : config_docs()) {
    const size_t dot = doc.key.find('.');
    const std::string its = dot == std::string::npos ? "" : doc.key.substr(0, dot);
    if (its != section) {
      section = its;
      text += "\n## " + (section.empty() ? std::string("Run") : "`" + section + "`") +
              "\n\n| key | type | default | meaning |\n| --- | --- | --- | --- |\n";
    }
    text += "| `" + doc.key + "` | " + doc.type + " | `" + doc.default_text + "` | " + doc.meaning + " |\n";
  }
  return text;
}

}  // namespace scfa
