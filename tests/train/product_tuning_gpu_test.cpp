#include "train/product_tuning.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "support/compare.h"
#include "support/gpu.h"
#include "support/temp_dir.h"

namespace scfa::test {
namespace {

namespace fs = std::filesystem;

// A variable of the environment, set for as long as it lives.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    ::setenv(name, value.c_str(), 1);
  }
  ~Variable() {
    if (before_)
      ::setenv(name_, before_->c_str(), 1);
    else
      ::unsetenv(name_);
  }

 private:
  const char* name_;
  std::optional<std::string> before_;
};

class ProductTuningGpu : public GpuTest {};

TEST_F(ProductTuningGpu, ChoicesAreMeasuredOnceAndKept) {
  const TempDir folder;
  const Variable cache("XDG_CACHE_HOME", folder / "cache");
  GptConfig c;
  c.n_layer = 1, c.n_head = 2, c.n_embd = 128, c.sequence_length = 64, c.vocab_size = 96;
  std::string chosen;
  const auto tune = [&](const std::string& known = {}) {
    Context ctx(Device::kGpu);
    ParameterStore store(ctx, c, {.training = true, .sharded = false, .rank = 0, .ranks = 1, .bucket_elements = 0});
    Gpt model(store, c, 2, 1, Gpt::Mode::kTraining);
    Feeder feeder(ctx, 2, c.sequence_length);
    store.init(1);
    const TunedProducts tuned = tune_products(model, feeder, known);
    chosen = tuned.choices;
    const Array gradients({store.gradients().numel()});
    ctx.copy(gradients, store.gradients());
    for (int64_t i = 0; i < gradients.view().numel(); ++i) EXPECT_EQ(gradients.as<float>()[i], 0.0f) << i;
    const LossSums sums = model.take_losses();
    EXPECT_EQ(sums.tokens, 0);
    EXPECT_EQ(sums.loss, 0);
    return tuned.line;
  };
  const std::string path = product_cache_path();
  EXPECT_EQ(path.find(folder / "cache"), 0u) << path;
  EXPECT_NE(tune().find("measured and kept in " + path), std::string::npos);
  const std::string text = read_text(path), first = chosen;
  EXPECT_EQ(nlohmann::json::parse(chosen), nlohmann::json::parse(text));
  EXPECT_EQ(tune(), "products: algorithms from " + path);
  EXPECT_EQ(read_text(path), text);
  EXPECT_EQ(chosen, first);
  // A choice that the library refuses is measured again, and the file is whole afterwards.
  std::string refused = text;
  for (int word = 0; word < 8; ++word) {
    const std::string key = concat("\"algorithm_", word, "\": \"");
    const size_t at = refused.find(key);
    ASSERT_NE(at, std::string::npos) << text;
    refused.replace(at + key.size(), 16, std::string(16, 'f'));
  }
  write_text(path, refused);
  EXPECT_NE(tune().find("measured and kept in " + path), std::string::npos);
  EXPECT_EQ(tune(), "products: algorithms from " + path);
  EXPECT_NE(read_text(path), refused);
  // What a checkpoint or another rank chose is taken instead of what the file has, which stays.
  nlohmann::json other = nlohmann::json::parse(first);
  for (auto& product : other.at("products")) product["ms"] = 123.5;
  EXPECT_EQ(tune(other.dump()), "products: algorithms from the checkpoint");
  EXPECT_EQ(nlohmann::json::parse(chosen), other);
  const std::string kept = read_text(path);
  EXPECT_EQ(kept.find("123.5"), std::string::npos);
  fs::remove(path);
  EXPECT_EQ(tune(other.dump()), "products: algorithms from the checkpoint");
  EXPECT_EQ(nlohmann::json::parse(read_text(path)), other);  // which it lacked
  write_text(path, kept);
  other["driver"] = "1.2.3";
  EXPECT_EQ(tune(other.dump()), "products: algorithms from " + path);
  EXPECT_EQ(tune("{\"gpu\": 3"), "products: algorithms from " + path);
  EXPECT_EQ(read_text(path), kept);
  write_text(path, "{ not JSON");
  EXPECT_NE(tune().find("measured and kept in " + path), std::string::npos);
  EXPECT_EQ(tune(), "products: algorithms from " + path);
  write_text(folder / "file", "");
  const Variable nowhere("XDG_CACHE_HOME", folder / "file");  // a folder cannot be made below it
  EXPECT_NE(tune().find("by cuBLASLt's heuristics"), std::string::npos);
  EXPECT_NE(tune().find("file/scfa/products"), std::string::npos);
  EXPECT_EQ(chosen, "");
  EXPECT_EQ(tune(first), "products: algorithms from the checkpoint");
  EXPECT_EQ(chosen, first);
}

}  // namespace
}  // namespace scfa::test
