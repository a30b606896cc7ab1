#include "data/json_file.h"

#include <gtest/gtest.h>

#include <chrono>

#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace scfa {
namespace {

using test::expect_error;

// Runs body, which may take a second at most: what grows with the square of the size takes minutes.
template <class Body>
void quickly(const Body& body) {
  const auto began = std::chrono::steady_clock::now();
  body();
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - began;
  EXPECT_LT(taken.count(), 10.0);  // a fifth of a second, but for sanitizers and machines that are busy
}

void refused(const std::string& text, std::initializer_list<const char*> parts) {
  quickly([&] { expect_error([&] { parse_json(text, "x.json"); }, parts); });
}

std::string repeated(const std::string& part, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += part;
  return text;
}

TEST(ParseJson, ReadsAnObjectWithComments) {
  const Json json = parse_json("// about\n{\"b\": 1, /* and */ \"a\": [1, {\"b\": 2.5}]}", "x.json");
  EXPECT_EQ(json.dump(), "{\"b\":1,\"a\":[1,{\"b\":2.5}]}");
  EXPECT_EQ(json.begin().key(), "b");  // in the order of the file
}

TEST(ParseJson, RefusesWhatIsNoJsonObject) {
  for (const char* text : {"", " ", "{", "}", "{}}", "{\"a\"}", "{\"a\":1,}", "{a:1}", "{\"a\":1} x", "{\"a\":01}",
                           "{\"a\":nan}", "{\"a\":1e999}", "{\"a\":\"\xff\"}", "{\"a\":\"\n\"}", "// only"})
    refused(text, {"x.json: not valid JSON: "});
  refused(std::string("{\"a\":1}\0\0", 9), {"x.json: not valid JSON: byte 7 is zero"});
  for (const char* text : {"1", "null", "\"a\"", "[]", "[{}]"}) refused(text, {"x.json: must hold a JSON object"});
}

TEST(ParseJson, RefusesNestingThatIsDeep) {
  for (const int depth : {100, 200'000}) {
    refused("{\"a\":" + repeated("[", depth), {"x.json: nested more than 32 deep"});
    refused("{\"a\":" + repeated("[", depth) + repeated("]", depth) + "}", {"nested more than 32 deep"});
    refused(repeated("{\"a\":", depth), {"nested more than 32 deep"});
  }
  EXPECT_NO_THROW(parse_json(repeated("{\"a\":", 30) + "1" + repeated("}", 30), "x.json"));
}

TEST(ParseJson, RefusesMoreKeysThanAFileOfOursHas) {
  std::string text = "{";
  for (int i = 0; i < 300'000; ++i) text += concat("\"key", i, "\":0,");
  const std::string why = concat("more than ", JsonLimits{}.keys, " keys");
  refused(text + "\"last\":0}", {"x.json: ", why.c_str()});
  refused("{\"a\":{\"b\":" + text + "\"last\":0}}}", {why.c_str()});
  std::string many = "{\"a\":[";
  for (int i = 0; i < 100'000; ++i) many += "{\"a\":0},";  // few in each object
  EXPECT_NO_THROW(parse_json(many + "{}]}", "x.json"));
}

TEST(ParseJson, RefusesAKeyThatStandsTwice) {
  refused("{\"a\":1,\"a\":1}", {"x.json: key \"a\" is given twice"});
  refused("{\"a\":1,\"\\u0061\":1}", {"key \"a\" is given twice"});
  refused("{\"o\":[{\"x\":{\"b\":1,\"c\":2,\"b\":{}}}]}", {"key \"b\" is given twice"});
  EXPECT_NO_THROW(parse_json("{\"a\":{\"a\":{\"a\":1}},\"b\":[{\"a\":1},{\"a\":1}]}", "x.json"));
}

TEST(ParseJson, CutsWhatItQuotes) {
  const std::string huge(100'000'000, 'x');
  const auto short_error = [](const auto& body) {
    quickly([&] {
      try {
        body();
        ADD_FAILURE() << "no error";
      } catch (const Error& error) {
        EXPECT_LT(std::string(error.what()).size(), 500u);
      }
    });
  };
  const JsonLimits roomy{.bytes = int64_t{1} << 30};
  short_error([&] { parse_json("{\"" + huge.substr(0, 10'000'000), "x.json", roomy); });
  const std::string key = huge.substr(0, 5'000'000);
  short_error([&] { parse_json("{\"" + key + "\":1,\"" + key + "\":1}", "x.json", roomy); });
  short_error([&] { parse_json(huge, "x.json"); });  // more than such a file can have
  const Json object{{"a", huge}};
  short_error([&] { JsonReader(object, "x.json").count("a"); });
  short_error([&] { JsonReader(object, "x.json").hex("a"); });
  EXPECT_LT(shown(Json{{"a", huge.substr(0, 1'000'000)}, {"b", Json::array({huge.substr(0, 1000)})}}).size(), 100u);
  EXPECT_EQ(shown(Json("two\nlines")), "\"two?lines\"");
}

TEST(ReadJsonFile, NamesTheFile) {
  const test::TempDir folder;
  EXPECT_EQ(read_json_file(folder.put("good.json", "{\"a\":1}")).dump(), "{\"a\":1}");
  const std::string bad = folder.put("bad.json", "{\"a\":"), none = folder / "none.json";
  expect_error([&] { read_json_file(bad); }, {bad.c_str(), "not valid JSON", "line 1"});
  expect_error([&] { read_json_file(none); }, {none.c_str(), "No such file"});
  const std::string big = folder.put("big.json", "{\"a\":\"" + std::string(2000, 'x') + "\"}");
  expect_error([&] { read_json_file(big, {.bytes = 1000}); }, {big.c_str(), "more than the 1000 bytes"});
}

TEST(JsonReader, NamesFileAndKey) {
  const Json object = parse_json(
      "{\"text\":\"x\",\"count\":3,\"fraction\":20.7,\"whole\":20.0,\"negative\":-1,\"huge\":18446744073709551615,"
      "\"hex\":\"00000000000000ff\",\"inner\":{\"deep\":null}}",
      "x.json");
  const JsonReader reader(object, "x.json");
  EXPECT_EQ(reader.text("text"), "x");
  EXPECT_EQ(reader.count("count"), 3);
  EXPECT_EQ(reader.number("fraction"), 20.7);
  EXPECT_EQ(reader.number("count"), 3);
  EXPECT_EQ(reader.hex("hex"), 255u);
  EXPECT_TRUE(reader.has("inner") && !reader.has("outer"));
  for (const char* key : {"fraction", "whole", "negative", "huge", "text", "inner"})
    expect_error([&] { reader.count(key); }, {"x.json: '", key, "must be a whole number, zero or more"});
  expect_error([&] { reader.text("count"); }, {"'count' must be a string, not 3"});
  expect_error([&] { reader.number("text"); }, {"'text' must be a number, not \"x\""});
  expect_error([&] { reader.hex("text"); }, {"'text' must be 16 hexadecimal digits"});
  expect_error([&] { reader.at("none"); }, {"x.json: no key 'none'"});
  expect_error([&] { reader.object("count"); }, {"count must be a JSON object"});
  expect_error([&] { reader.object("inner").text("deep"); }, {"'inner.deep' must be a string, not null"});
  expect_error([&] { reader.object("inner").text("none"); }, {"no key 'inner.none'"});
}

}  // namespace
}  // namespace scfa
