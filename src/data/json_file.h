// JSON that came from outside: configs, manifests, checkpoint states, headers of safetensors files. What is nested
// deep, huge, or gives a key twice is refused with one clear line, and values in messages are cut short.
#pragma once
#include <nlohmann/json.hpp>
#include <string>

#include "core/error.h"

namespace scfa {

using Json = nlohmann::ordered_json;

struct JsonLimits {
  int64_t bytes = int64_t{16} << 20;
  int depth = 32;
  size_t keys = 1'000;  // of one object
};

// The JSON object in `text`, in which comments are allowed. Throws Error naming `origin`, and the place or the key: not
// JSON, not an object, a key that stands twice, beyond the limits.
Json parse_json(const std::string& text, const std::string& origin, const JsonLimits& limits = {});

// The same for a value of any kind.
Json parse_json_value(const std::string& text, const std::string& origin, const JsonLimits& limits = {});

// The same as parse_json with keys in alphabetical order, which are found fast where there are many.
using SortedJson = nlohmann::json;
SortedJson parse_sorted_json(const std::string& text, const std::string& origin, const JsonLimits& limits = {});

// The same of a file that a program of ours wrote: it must be a regular one.
Json read_json_file(const std::string& path, const JsonLimits& limits = {});

// Whether text is UTF-8 without control characters, and so fit for names, messages and JSON.
bool is_plain_text(const std::string& text);

// A value as JSON text for messages, cut short.
std::string shown(const Json& value);

// The members of one object, typed; errors name the file and the key. The object must outlive the reader.
class JsonReader {
 public:
  // path: the file. prefix: in front of keys in messages, "validation." for one.
  JsonReader(const Json& object, std::string path, std::string prefix = "");

  const Json& at(const char* key) const;
  std::string text(const char* key) const;
  int64_t count(const char* key) const;  // a whole number, zero or more
  double number(const char* key) const;
  uint64_t hex(const char* key) const;  // 16 hexadecimal digits in a string
  JsonReader object(const char* key) const { return {at(key), path_, concat(prefix_, key, ".")}; }
  bool has(const char* key) const { return object_.contains(key); }

  const std::string& path() const { return path_; }
  const std::string& prefix() const { return prefix_; }

 private:
  [[noreturn]] void wrong(const char* key, const char* want) const;
  const Json& object_;
  std::string path_, prefix_;
};

}  // namespace scfa
