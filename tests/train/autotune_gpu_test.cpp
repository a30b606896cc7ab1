#include "train/autotune.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/linear/gemm.h"
#include "support/compare.h"
#include "support/environment.h"
#include "support/gpu.h"
#include "support/temp_dir.h"

namespace scfa::test {
namespace {

namespace fs = std::filesystem;

class AutotuneGpu : public GpuTest {};

TEST_F(AutotuneGpu, ChoicesAreMeasuredOnceAndKept) {
  const TempDir folder;
  const EnvironmentVariable cache("XDG_CACHE_HOME", folder / "cache");
  GptConfig c;
  c.n_layer = 1, c.n_head = 2, c.n_embd = 128, c.sequence_length = 64, c.vocab_size = 96;
  std::string chosen;
  const auto tune = [&](const std::string& known = {}) {
    Context ctx(Device::kGpu);
    ParameterStore store(ctx, c, {.training = true, .sharded = false, .rank = 0, .ranks = 1, .bucket_elements = 0});
    Gpt model(store, c, 2, 1, Gpt::Mode::kTraining);
    Feeder feeder(ctx, 2, c.sequence_length);
    store.init(1);
    const AutotunedGemms tuned = autotune_gemms(model, feeder, known);
    chosen = tuned.choices;
    const Array gradients({store.gradients().numel()});
    ctx.copy(gradients, store.gradients());
    for (int64_t i = 0; i < gradients.view().numel(); ++i) EXPECT_EQ(gradients.as<float>()[i], 0.0f) << i;
    const LossSums sums = model.take_losses();
    EXPECT_EQ(sums.tokens, 0);
    EXPECT_EQ(sums.loss, 0);
    return tuned.line;
  };
  const std::string path = gemm_cache_path();
  EXPECT_EQ(path.find(folder / "cache"), 0u) << path;
  EXPECT_NE(tune().find("measured and kept in " + path), std::string::npos);
  const std::string text = read_text(path), first = chosen;
  EXPECT_EQ(nlohmann::json::parse(chosen), nlohmann::json::parse(text));
  EXPECT_EQ(tune(), "GEMMs: algorithms from " + path);
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
  EXPECT_EQ(tune(), "GEMMs: algorithms from " + path);
  EXPECT_NE(read_text(path), refused);
  // What a checkpoint or another rank chose is taken instead of what the file has, which stays.
  nlohmann::json other = nlohmann::json::parse(first);
  for (auto& gemm : other.at("gemms")) gemm["ms"] = 123.5;
  EXPECT_EQ(tune(other.dump()), "GEMMs: algorithms from the checkpoint");
  EXPECT_EQ(nlohmann::json::parse(chosen), other);
  const std::string kept = read_text(path);
  EXPECT_EQ(kept.find("123.5"), std::string::npos);
  fs::remove(path);
  EXPECT_EQ(tune(other.dump()), "GEMMs: algorithms from the checkpoint");
  EXPECT_EQ(nlohmann::json::parse(read_text(path)), other);  // which it lacked
  write_text(path, kept);
  {
    Context ctx(Device::kGpu);  // another rank takes those of rank 0 and no others
    take_gemm_algorithms(ctx, other.dump());
    const std::vector<gpu::GemmAlgorithm> taken = gpu::gemm_algorithms(ctx);
    EXPECT_EQ(taken.size(), other.at("gemms").size());
    for (const gpu::GemmAlgorithm& choice : taken) EXPECT_EQ(choice.milliseconds, 123.5);
    other["driver"] = "1.2.3";
    take_gemm_algorithms(ctx, other.dump());
    EXPECT_TRUE(gpu::gemm_algorithms(ctx).empty());
  }
  for (const std::string& strange : {other.dump(), std::string("{\"gpu\": 3")})
    EXPECT_EQ(tune(strange),
              "GEMMs: those of the checkpoint are of another GPU, driver or library; algorithms from " + path);
  EXPECT_EQ(read_text(path), kept);
  write_text(path, "{ not JSON");
  EXPECT_NE(tune().find("measured and kept in " + path), std::string::npos);
  EXPECT_EQ(tune(), "GEMMs: algorithms from " + path);
  write_text(folder / "file", "");
  const EnvironmentVariable nowhere("XDG_CACHE_HOME", folder / "file");  // a folder cannot be made below it
  EXPECT_NE(tune().find("by cuBLASLt's heuristics"), std::string::npos);
  EXPECT_NE(tune().find("file/scfa/gemms"), std::string::npos);
  EXPECT_TRUE(nlohmann::json::parse(chosen).at("gemms").empty());
  const std::string heuristics = chosen;
  EXPECT_NE(tune(first).find("algorithms from the checkpoint, others by cuBLASLt's heuristics"), std::string::npos);
  EXPECT_EQ(chosen, first);
  EXPECT_EQ(tune(heuristics), "GEMMs: algorithms by cuBLASLt's heuristics, as the checkpoint has it");
  EXPECT_EQ(chosen, heuristics);
}

}  // namespace
}  // namespace scfa::test
