#include "train/safetensors.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>

#include "core/error.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace scfa {
namespace {

using test::expect_error;

std::string file_of(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + header + data;
}

class Safetensors : public testing::Test {
 protected:
  void read(const std::string& header, const std::string& data = std::string(16, '\0')) {
    read_bytes(file_of(header, data));
  }
  void read_bytes(const std::string& bytes) {
    const std::string path = folder.put("x.safetensors", bytes);
    read_safetensors(path, {{"a", {2}, values}, {"b", {1, 2}, values + 2}});
  }
  static std::string entry(const std::string& offsets, const std::string& shape = "[2]",
                           const std::string& dtype = "\"F32\"") {
    return R"({"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
  }
  static std::string with(const std::string& a) { return R"({"a":)" + a + R"(,"b":)" + entry("[8,16]", "[1,2]") + "}"; }

  test::TempDir folder;
  float values[4] = {1, 1, 1, 1};
};

TEST_F(Safetensors, HeadersThatAreWrongAreErrorsAndFillNothing) {
  for (const std::string& a :
       {entry("[0,12]"), entry("[8,0]"), entry("[-8,0]"), entry("[0.0,8.0]"), entry("[0,8,9]"), entry("8"),
        entry("[\"0\",\"8\"]"), entry("[12,20]"), entry("[18446744073709551608,0]"),
        entry("[9223372036854775800,9223372036854775808]"), entry("[0,8]", "[3]"), entry("[0,8]", "[2,1]"),
        entry("[0,8]", "2"), entry("[0,8]", "[2]", "\"F16\""), entry("[0,8]", "[2]", "1"), std::string("5"),
        std::string("null"), std::string("{}"), std::string("[]")})
    expect_error([&] { read(with(a)); }, {"x.safetensors", "tensor \"a\" must be F32 [2]"});
  expect_error([&] { read(R"({"a":)" + entry("[0,8]") + "}"); }, {"has no tensor \"b\""});
  expect_error([&] { read(with(entry("[0,8]") + R"(,"c":)" + entry("[0,8]"))); }, {"\"c\"", "does not have"});
  expect_error([&] { read(with(entry("[0,8]") + R"(,"a":)" + entry("[0,8]"))); }, {"\"a\"", "twice"});
  expect_error([&] { read("[]"); }, {"must hold a JSON object"});
  expect_error([&] { read("{"); }, {"not valid JSON"});
  expect_error([&] { read_bytes("short"); }, {"not a safetensors file"});
  expect_error([&] { read_bytes(std::string(8, '\xff')); }, {"not a safetensors file"});
  expect_error([&] { read_bytes(file_of("{}", "").substr(0, 9)); }, {"ends within its header"});
  for (const float value : values) EXPECT_EQ(value, 1);
  read(with(entry("[0,8]")));
  for (const float value : values) EXPECT_EQ(value, 0);
}

TEST_F(Safetensors, HugeHeadersEndSoon) {
  std::string many = "{";
  for (int i = 0; i < 300000; ++i) many += concat(i ? "," : "", "\"t", i, "\":{}");
  many += "}";
  const auto began = std::chrono::steady_clock::now();
  expect_error([&] { read(many); }, {"has no tensor \"a\""});
  expect_error([&] { read(std::string(200000, '[')); }, {"nested more than 8 deep"});
  expect_error([&] { read(with(std::string(200000, '['))); }, {"nested more than 8 deep"});
  expect_error([&] { read(with("\"" + std::string(1'000'000, 'x') + "\"")); }, {"must be F32", "1000002 bytes"});
  EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count(), 20);  // quadratic: minutes
}

TEST_F(Safetensors, ManyTensorsAreWrittenAndReadBack) {
  std::vector<float> data(20000);
  std::vector<NamedTensor> tensors;
  for (size_t i = 0; i < data.size(); ++i) {
    data[i] = static_cast<float>(i);
    tensors.push_back({concat("layer.", i, ".\"quoted\""), {1}, &data[i]});
  }
  const std::string path = folder / "many.safetensors";
  write_safetensors(path, tensors, {{"format", "scfa"}});
  const std::vector<float> before = data;
  std::fill(data.begin(), data.end(), -1.0f);
  read_safetensors(path, tensors);
  EXPECT_EQ(data, before);
}

}  // namespace
}  // namespace scfa
