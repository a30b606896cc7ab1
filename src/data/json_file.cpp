#include "data/json_file.h"

#include <unordered_set>
#include <vector>

#include "data/input_file.h"

namespace scfa {

namespace {

// Looks at a text without keeping it: an object of very many keys would take minutes to build.
class Watcher : public nlohmann::json_sax<Json> {
 public:
  Watcher(const std::string& origin, const JsonLimits& limits) : origin_(origin), limits_(limits) {}

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override { return open(); }
  bool end_object() override { return close(); }
  bool start_array(size_t) override { return open(); }
  bool end_array() override { return close(); }
  bool key(string_t& key) override {
    require(keys_.back().insert(key).second, origin_, ": key \"", abbreviate(key), "\" is given twice");
    require(keys_.back().size() <= limits_.keys, origin_, ": more than ", limits_.keys, " keys in one object");
    return true;
  }
  bool parse_error(size_t, const std::string&, const Json::exception& error) override {
    const std::string what = error.what();  // "[json.exception...] parse error at line 3, column 5: ..."
    const size_t start = what.find("] ");
    fail(origin_, ": not valid JSON: ", what.substr(start == std::string::npos ? 0 : start + 2, 300));
  }

 private:
  bool open() {
    keys_.emplace_back();
    require(keys_.size() <= static_cast<size_t>(limits_.depth), origin_, ": nested more than ", limits_.depth, " deep");
    return true;
  }
  bool close() {
    keys_.pop_back();
    return true;
  }

  const std::string& origin_;
  const JsonLimits& limits_;
  std::vector<std::unordered_set<std::string>> keys_;  // of each object or array that is open
};

template <class AnyJson>
AnyJson parse(const std::string& text, const std::string& origin, const JsonLimits& limits) {
  require(static_cast<int64_t>(text.size()) <= limits.bytes, origin, ": ", text.size(),
          " bytes, more than such a file can have (", limits.bytes, ")");
  const size_t zero = text.find('\0');  // the parser takes one for the end
  require(zero == std::string::npos, origin, ": not valid JSON: byte ", zero, " is zero");
  Watcher watcher(origin, limits);
  Json::sax_parse(text, &watcher, Json::input_format_t::json, true, true);
  return AnyJson::parse(text, nullptr, true, true);
}

template <class AnyJson>
AnyJson parse_object(const std::string& text, const std::string& origin, const JsonLimits& limits) {
  AnyJson json = parse<AnyJson>(text, origin, limits);
  require(json.is_object(), origin, ": must hold a JSON object");
  return json;
}

}  // namespace

Json parse_json(const std::string& text, const std::string& origin, const JsonLimits& limits) {
  return parse_object<Json>(text, origin, limits);
}

Json parse_json_value(const std::string& text, const std::string& origin, const JsonLimits& limits) {
  return parse<Json>(text, origin, limits);
}

SortedJson parse_sorted_json(const std::string& text, const std::string& origin, const JsonLimits& limits) {
  return parse_object<SortedJson>(text, origin, limits);
}

Json read_json_file(const std::string& path, const JsonLimits& limits) {
  return parse_json(read_regular_file(path, limits.bytes), path, limits);
}

bool is_plain_text(const std::string& text) {
  for (const char c : text)
    if (static_cast<unsigned char>(c) < ' ') return false;
  try {
    return !Json(text).dump().empty();
  } catch (const Json::exception&) {
    return false;
  }
}

std::string shown(const Json& value) {
  if (value.is_string()) return '"' + abbreviate(value.get_ref<const std::string&>()) + '"';
  return abbreviate(value.dump(-1, ' ', false, Json::error_handler_t::replace));
}

JsonReader::JsonReader(const Json& object, std::string path, std::string prefix)
    : object_(object), path_(std::move(path)), prefix_(std::move(prefix)) {
  require(object_.is_object(), path_, ": ",
          prefix_.empty() ? std::string("the file") : prefix_.substr(0, prefix_.size() - 1), " must be a JSON object");
}

void JsonReader::wrong(const char* key, const char* want) const {
  fail(path_, ": '", prefix_, key, "' must be ", want, ", not ", shown(at(key)));
}

const Json& JsonReader::at(const char* key) const {
  require(object_.contains(key), path_, ": no key '", prefix_, key, "'");
  return object_[key];
}

std::string JsonReader::text(const char* key) const {
  if (!at(key).is_string()) wrong(key, "a string");
  return at(key).get<std::string>();
}

int64_t JsonReader::count(const char* key) const {
  const Json& value = at(key);
  const bool fits = value.is_number_unsigned() ? value.get<uint64_t>() <= INT64_MAX
                                               : value.is_number_integer() && value.get<int64_t>() >= 0;
  if (!fits) wrong(key, "a whole number, zero or more");
  return value.get<int64_t>();
}

double JsonReader::number(const char* key) const {
  if (!at(key).is_number()) wrong(key, "a number");
  return at(key).get<double>();
}

uint64_t JsonReader::hex(const char* key) const {
  const std::string digits = text(key);
  if (digits.size() != 16 || digits.find_first_not_of("0123456789abcdef") != std::string::npos)
    wrong(key, "16 hexadecimal digits");
  return std::stoull(digits, nullptr, 16);
}

}  // namespace scfa
