#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "data/json_file.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "train/config_io.h"

namespace scfa {
namespace {

using test::expect_error;

Config parse(const std::string& text) {
  const test::TempDir dir;
  test::write_text(dir / "my.json", text);
  return read_config(dir / "my.json");
}

TEST(Config, ReadsSectionsAndNamesTheRunAfterTheFile) {
  const Config c = parse(R"({"seed": 5, "data": {"directory": "d"}, "train": {"steps": 7}, "schedule": {"lr": 2},
                             "attention": {"pattern": "hash", "buckets": 8, "attend_self": true}})");
  EXPECT_EQ(c.name, "my");
  EXPECT_EQ(c.seed, 5);
  EXPECT_EQ(c.train.steps, 7);
  EXPECT_EQ(c.schedule.lr, 2.0);
  EXPECT_EQ(c.model.attention.size(), 1u);
  EXPECT_EQ(c.model.attention[0][0].buckets, 8);
  EXPECT_EQ(c.model.attention[0][0].attend_self, true);
}

TEST(Config, AttentionMayBeAListWithOneALayer) {
  const Config c = parse(R"({"model": {"n_layer": 2}, "attention": [{"pattern": "dense"}, {"pattern": "drop"}]})");
  ASSERT_EQ(c.model.attention.size(), 2u);
  EXPECT_EQ(c.model.patterns(1)[0].pattern, "drop");
  EXPECT_FALSE(c.model.patterns(1)[0].attend_self.has_value());
}

constexpr const char* kMixture = R"({"mixture": [{"heads": 4, "pattern": "dense", "window": 256},
                                                 {"heads": 8, "pattern": "hash", "rounds": 2}]})";

TEST(Config, AttentionMayBeAMixtureOfHeads) {
  Config c = parse(concat(R"({"attention": )", kMixture, "}"));
  ASSERT_EQ(c.model.attention.size(), 1u);
  const HeadPatterns& patterns = c.model.patterns(5);
  ASSERT_EQ(patterns.size(), 2u);
  EXPECT_EQ(patterns[0].heads, 4);
  EXPECT_EQ(patterns[0].window, 256);
  EXPECT_EQ(patterns[1].pattern, "hash");
  EXPECT_EQ(patterns[1].rounds, 2);
  c.model.vocab_size = 10;
  EXPECT_NO_THROW(validate(c.model));
  c.model.n_head = 6;
  expect_error([&] { validate(c.model); }, {"attention.heads", "model.n_head = 6", "12"});
  override_config(c, "attention.buckets", "32");
  EXPECT_TRUE(patterns[0].buckets == 32 && patterns[1].buckets == 32);
  // A layer of a list may be one too.
  c = parse(concat(R"({"model": {"n_layer": 2}, "attention": [{"pattern": "drop"}, )", kMixture, "]}"));
  EXPECT_EQ(c.model.patterns(0).size(), 1u);
  EXPECT_EQ(c.model.patterns(1).size(), 2u);
  override_config(c, "attention.window", "9");
  for (const HeadPatterns& layer : c.model.attention)
    for (const AttentionPattern& pattern : layer) EXPECT_EQ(pattern.window, 9);
  override_config(c, "attention", kMixture);
  EXPECT_EQ(c.model.attention.size(), 1u);
}

TEST(Config, AMixtureSurvivesTheRoundTrip) {
  const Config one = parse(concat(R"({"attention": )", kMixture, "}"));
  const Config list = parse(concat(R"({"model": {"n_layer": 2}, "attention": [{"pattern": "drop"}, )", kMixture, "]}"));
  for (const Config& c : {one, list}) {
    const Config again = config_from_json(to_json(c), "round trip");
    EXPECT_TRUE(differences(c, again).empty());
    EXPECT_EQ(to_json(again), to_json(c));
    EXPECT_EQ(again.model.patterns(1)[1].rounds, 2);
  }
  EXPECT_EQ(to_json(one)["attention"]["mixture"].size(), 2u);
  Config other = one;
  other.model.attention[0][1].rounds = 3;
  const std::vector<Difference> found = differences(one, other);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].key, "attention.mixture.1.rounds");
}

constexpr const char* kEndsDense = R"({"schedule": [{"from": 0, "attention": {"pattern": "hash", "buckets": 8}},
                                                    {"from": 0.9, "attention": [{"window": 9}, {}]}]})";

TEST(Config, AttentionMayHaveASchedule) {
  Config c = parse(concat(R"({"model": {"n_layer": 2, "vocab_size": 10}, "attention": )", kEndsDense, "}"));
  EXPECT_NO_THROW(validate(c.model));
  ASSERT_EQ(c.model.stages(), 2);
  EXPECT_EQ(c.model.patterns(1)[0].buckets, 8);
  EXPECT_EQ(c.model.at_stage(1).patterns(0)[0].window, 9);
  EXPECT_EQ(c.model.first_step(1, 750), 675);
  for (const auto& [step, stage] : std::vector<std::pair<int64_t, int64_t>>{{0, 0}, {674, 0}, {675, 1}, {749, 1}})
    EXPECT_EQ(c.model.stage_of(step, 750), stage) << step;
  EXPECT_EQ(c.model.stage_after(0, 750), 0);
  EXPECT_EQ(c.model.stage_after(675, 750), 0);  // the last step was one of the first stage
  EXPECT_EQ(c.model.stage_after(676, 750), 1);
  EXPECT_EQ(describe_schedule(c.model), "hash with 8 buckets; from 90 % of the steps on dense, window 9 | dense");
  EXPECT_EQ(to_json(config_from_json(to_json(c), "again")), to_json(c));
  c.train.steps = 750;
  EXPECT_EQ(model_after(c, 100).patterns(0)[0].pattern, "hash");
  EXPECT_EQ(model_after(c, 750).patterns(0)[0].pattern, "dense");
  EXPECT_TRUE(model_after(c, 750).schedule.empty());
  override_config(c, "attention.near", "5");  // in all stages
  EXPECT_EQ(c.model.patterns(0)[0].near, 5);
  EXPECT_EQ(c.model.at_stage(1).patterns(1)[0].near, 5);
  override_config(c, "attention", R"({"pattern": "drop"})");
  EXPECT_EQ(c.model.stages(), 1);
  EXPECT_EQ(c.model.patterns(0)[0].pattern, "drop");
}

TEST(Config, ErrorsInSchedulesAreNamed) {
  const auto read = [](const std::string& schedule) {
    return [=] {
      validate(
          parse(R"({"model": {"n_layer": 2, "vocab_size": 10}, "attention": {"schedule": )" + schedule + "}}").model);
    };
  };
  const std::string first = R"([{"from": 0, "attention": {}}, )";
  expect_error(read("[]"), {"attention.schedule", "list"});
  expect_error(read("5"), {"attention.schedule", "list"});
  expect_error(read("[5]"), {"attention.schedule[0]", "from", "attention"});
  expect_error(read(R"([{"from": 0}])"), {"attention.schedule[0]", "from", "attention"});
  expect_error(read(R"([{"from": 0, "attention": {"bucket": 4}}])"), {"attention.schedule[0].attention.bucket"});
  expect_error(read(R"([{"from": 0.1, "attention": {}}])"), {"attention.schedule[0].from", "0", "0.1"});
  expect_error(read(first + R"({"from": 1.5, "attention": {}}])"), {"attention.schedule[1].from", "from 0 to 1"});
  expect_error(read(first + R"({"from": 1, "attention": {}}])"), {"attention.schedule[1].from", "less than 1"});
  expect_error(read(first + R"({"from": 0, "attention": {}}])"), {"attention.schedule[1].from", "more than 0"});
  expect_error(read(first + R"({"from": 0.5, "attention": [{}, {}, {}]}])"), {"n_layer = 2", "3"});
  expect_error(read(first + R"({"from": 0.5, "attention": {"pattern": "reformer"}}])"), {"reformer", "shared_qk"});
  expect_error([] { parse(R"({"attention": {"schedule": [{"from": 0, "attention": {}}], "window": 4}})"); },
               {"attention.schedule", "must be the only key"});
}

TEST(Config, KeysOfAttentionThatNoPatternUsesAreFound) {
  const auto unused = [](const char* attention) {
    Config config;
    override_config(config, "attention", attention);
    return unused_attention_keys(config);
  };
  using Keys = std::vector<std::string>;
  EXPECT_EQ(unused(R"({"pattern": "dense", "window": 8, "attend_self": false})"), Keys{});
  EXPECT_EQ(unused(R"({"pattern": "dense", "buckets": 8, "drop_rate": 0.1, "chunk": 0})"),
            (Keys{"buckets", "drop_rate"}));
  EXPECT_EQ(unused(R"({"pattern": "hash", "buckets": 8, "top_k": 2})"), Keys{"top_k"});
  EXPECT_EQ(unused(R"([{"pattern": "dense", "buckets": 8}, {"pattern": "reformer"}])"), Keys{});
  EXPECT_EQ(unused(R"({"schedule": [{"from": 0, "attention": {"pattern": "hash"}},
                                    {"from": 0.5, "attention": {"pattern": "dense", "drop_rate": 0}}]})"),
            Keys{"drop_rate"});
}

TEST(Config, ARotaryBaseThatIsSmallForTheSequencesHasALargerOne) {
  Config config;
  config.model.n_head = 4, config.model.n_embd = 32;  // heads of 8: the slowest pair turns by 64 * theta^(-6/8)
  config.model.sequence_length = 64, config.model.positions = "rotary";
  const auto larger = [&](double theta) {
    config.model.rotary_theta = theta;
    return larger_rotary_theta(config);
  };
  EXPECT_EQ(larger(255), 1e6);  // 1.003 radians
  EXPECT_EQ(larger(257), 0);    // 0.997
  config.model.sequence_length = 65'536;
  EXPECT_DOUBLE_EQ(larger(1e6), 1e8);  // one radian at 2.6e6
  config.model.positions = "learned";
  EXPECT_EQ(larger(1), 0);
  config.model.positions = "rotary", config.model.documents = true;
  EXPECT_EQ(larger(1), 0);
  config.model.documents = false;
  config.model.n_head = 16;  // one pair, which turns by a radian per token whatever the base
  EXPECT_EQ(larger(1), 0);
  config.model.n_head = 4;
  override_config(config, "attention", R"({"mixture": [{"window": 8}, {"heads": 1, "pattern": "hash", "window": 9}]})");
  EXPECT_EQ(larger(1), 0);
  override_config(config, "attention", R"({"mixture": [{"window": 8}, {"heads": 1, "pattern": "hash"}]})");
  EXPECT_GT(larger(1), 0);
}

TEST(Config, ErrorsInMixturesAreNamed) {
  const auto read = [](const char* attention) { return [=] { parse(concat(R"({"attention": )", attention, "}")); }; };
  expect_error(read(R"({"mixture": []})"), {"attention.mixture", "list"});
  expect_error(read(R"({"mixture": {"pattern": "hash"}})"), {"attention.mixture", "list"});
  expect_error(read(R"({"mixture": [{}], "window": 5})"), {"attention.mixture", "must be the only key"});
  expect_error(read(R"({"mixture": [{}, 5]})"), {"attention.mixture[1]", "object"});
  expect_error(read(R"({"mixture": [{}, {"bucket": 5}]})"), {"attention.mixture[1].bucket", "attention.buckets"});
  expect_error(read(R"({"mixture": [{"rounds": 9}]})"), {"attention.mixture[0].rounds", "from 1 to 8", "9"});
  expect_error(read(R"([{}, {"mixture": [{"mixture": []}]}])"), {"attention[1].mixture[0].mixture"});
  expect_error(read(R"({"heads": -1})"), {"attention.heads", "from 0 to 65535"});
}

TEST(Config, ErrorsNameTheFileTheKeyAndWhatWouldBeRight) {
  expect_error([] { read_config("nowhere.json"); }, {"nowhere.json", "No such file"});
  expect_error([] { parse("{\"train\": {"); }, {"my.json", "line 1"});
  expect_error([] { parse("[]"); }, {"my.json", "JSON object"});
  expect_error([] { parse(R"({"trian": {"steps": 1}})"); }, {"my.json", "trian.steps", "train.steps"});
  expect_error([] { parse(R"({"train": {"step": 1}})"); }, {"my.json: train.step", "did you mean \"train.steps\""});
  expect_error([] { parse(R"({"train": 5})"); }, {"my.json", "train"});
  expect_error([] { parse(R"({"train": {"steps": "many"}})"); }, {"train.steps", "integer", "many"});
  expect_error([] { parse(R"({"train": {"steps": 1.5}})"); }, {"train.steps", "integer", "1.5"});
  expect_error([] { parse(R"({"train": {"steps": 0}})"); }, {"train.steps", "from 1 to", "0"});
  expect_error([] { parse(R"({"train": {"steps": 18446744073709551615}})"); }, {"train.steps", "integer"});
  expect_error([] { parse(R"({"model": {"n_embd": 4000000000}})"); }, {"model.n_embd", "from 1 to 65536"});
  expect_error([] { parse(R"({"optimizer": {"beta1": 2}})"); }, {"optimizer.beta1", "from 0 to"});
  expect_error([] { parse(R"({"model": {"gelu": "tan"}})"); }, {"model.gelu", "erf, tanh", "did you mean \"tanh\""});
  expect_error([] { parse(R"({"seed": 1, "seed": 2})"); }, {"my.json", "seed", "twice"});
  expect_error([] { parse(R"({"train": {"steps": 1, "steps": 2}})"); }, {"steps", "twice"});
  expect_error([] { parse(R"({"attention": {"bucket": 4}})"); }, {"attention.bucket", "attention.buckets"});
  expect_error([] { parse(R"({"attention": []})"); }, {"attention", "one entry per layer"});
  expect_error([] { parse(R"({"attention": 3})"); }, {"attention", "object"});
}

TEST(Config, CrossChecksNameTheKeys) {
  Config c = parse(R"({"data": {"directory": "d"}, "train": {"batch_size": 6, "micro_batch_size": 4}})");
  expect_error([&] { validate(c); }, {"train.micro_batch_size", "6", "4"});
  c.train.micro_batch_size = 3;
  EXPECT_NO_THROW(validate(c));
  c.name = "../up";
  expect_error([&] { validate(c); }, {"name"});
  c = parse("{}");
  expect_error([&] { validate(c); }, {"data.directory", "prepare_data"});
  c.model.vocab_size = 10;
  c.model.attention[0][0].pattern = "hash";
  c.model.attention[0][0].buckets = 7;
  expect_error([&] { validate(c.model); }, {"attention.buckets", "even", "7"});
  c.model.n_head = 5;
  expect_error([&] { validate(c.model); }, {"model.n_embd", "model.n_head", "5"});
}

TEST(Config, TheTokenThatEndsDocumentsIsInTheVocabulary) {
  Config c = parse(R"({"model": {"documents": true, "vocab_size": 10}})");
  for (const int64_t wrong : {-1, 10}) {
    c.model.end_of_text = wrong;
    expect_error([&] { validate(c.model); }, {"model.end_of_text", "model.documents", "0 to 9", concat(wrong).c_str()});
  }
  c.model.end_of_text = 9;
  EXPECT_NO_THROW(validate(c.model));
  expect_error([] { parse(R"({"model": {"end_of_text": -2}})"); }, {"model.end_of_text", "-2"});
}

TEST(Config, HeadsOfKeysAndValuesDivideThoseOfQueries) {
  Config c = parse(R"({"model": {"n_head": 12, "n_kv_head": 4, "vocab_size": 10}})");
  EXPECT_NO_THROW(validate(c.model));
  c.model.n_kv_head = 5;
  expect_error([&] { validate(c.model); }, {"model.n_kv_head: must be a divisor of model.n_head = 12", "5"});
  c.model.n_kv_head = 24;
  expect_error([&] { validate(c.model); }, {"model.n_kv_head", "24"});
  c.model.n_kv_head = 6;
  c.model.shared_qk = true;
  expect_error([&] { validate(c.model); }, {"model.n_kv_head", "model.shared_qk", "0 or model.n_head = 12", "6"});
  c.model.n_kv_head = 12;
  EXPECT_NO_THROW(validate(c.model));
  expect_error([] { parse(R"({"model": {"n_kv_head": -1}})"); }, {"model.n_kv_head", "-1"});
}

TEST(Config, CommandLineOverridesAnyKey) {
  Config c = parse(R"({"model": {"n_layer": 2}, "attention": [{"pattern": "hash"}, {"pattern": "drop"}]})");
  override_config(c, "train.steps", "100");
  override_config(c, "schedule.lr", "1e-4");
  override_config(c, "model.bias", "false");
  override_config(c, "name", "7");  // text stays text
  override_config(c, "attention.attend_self", "true");
  EXPECT_EQ(c.train.steps, 100);
  EXPECT_EQ(c.schedule.lr, 1e-4);
  EXPECT_FALSE(c.model.bias);
  EXPECT_EQ(c.name, "7");
  EXPECT_TRUE(*c.model.attention[0][0].attend_self && *c.model.attention[1][0].attend_self);
  EXPECT_EQ(c.model.attention[1][0].pattern, "drop");
  override_config(c, "attention", R"({"pattern": "dense"})");
  EXPECT_EQ(c.model.attention.size(), 1u);
  expect_error([&] { override_config(c, "train.steps", "ten"); }, {"--train.steps", "ten"});
  expect_error([&] { override_config(c, "train.stepz", "1"); }, {"--train.stepz", "train.steps"});
  expect_error([&] { override_config(c, "attention", "{"); }, {"--attention", "JSON"});
}

// Seconds that work takes.
template <class Work>
double time_of(const Work& work) {
  const auto began = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
}

TEST(Config, HugeAndDeepJsonIsRefusedAtOnceWithAShortLine) {
  std::string many = "{";
  for (int i = 0; i < 300000; ++i) many += concat(i ? "," : "", "\"key", i, "\":", i);
  many += "}";
  const std::string deep = std::string(200000, '['), pattern = R"({"attention": )";
  std::string list = R"({"attention": [)";
  for (int i = 0; i < 300000; ++i) list += "{},";
  list += "5]}";
  const std::vector<std::string> texts{many,
                                       list,
                                       R"({"attention": {"mixture": )" + list.substr(14) + "}",
                                       R"({"train": )" + many + "}",
                                       pattern + many + "}",
                                       deep,
                                       pattern + deep,
                                       R"({"train": {"steps": )" + deep,
                                       R"({"name": ")" + std::string(10'000'000, 'x') + "/\"}",
                                       R"({"train": {"steps": ")" + std::string(10'000'000, 'x') + "\"}}",
                                       R"({"model": {"gelu": ")" + std::string(10'000'000, 'x') + "\"}}",
                                       R"({")" + std::string(10'000'000, 'x') + "\": 1}",
                                       R"({"seed": 1, "seed)" + std::string(10'000'000, ' ') + "\": 1}",
                                       std::string(20'000'000, ' ')};
  for (const std::string& text : texts) {
    std::string error;
    const double seconds = time_of([&] {
      try {
        Config c = parse(text);
        c.data.directory = "d";
        validate(c);
      } catch (const Error& thrown) {
        error = thrown.what();
      }
    });
    EXPECT_FALSE(error.empty()) << text.substr(0, 40);
    EXPECT_LT(error.size(), 500u) << error.substr(0, 1000);
    EXPECT_LT(seconds, 20) << error;  // quadratic: minutes
  }
}

TEST(Config, JsonOnTheCommandLineIsCheckedTheSameWay) {
  Config c = parse("{}");
  for (const char* key : {"attention", "train.steps", "model.bias", "attention.buckets"})
    for (const std::string& text :
         {std::string(100000, '['), std::string(100000, 'x'), std::string("{\"a\":1,\"a\":2}")}) {
      std::string error;
      try {
        override_config(c, key, text);
      } catch (const Error& thrown) {
        error = thrown.what();
      }
      EXPECT_TRUE(error.starts_with(concat("--", key))) << error.substr(0, 500);
      EXPECT_LT(error.size(), 500u);
    }
  override_config(c, "attention", R"([{"pattern": "hash"}, {"pattern": "drop"}])");
  EXPECT_EQ(c.model.attention.size(), 2u);
}

TEST(Config, JsonRoundTripKeepsEveryField) {
  Config c = parse(R"({"attention": {"pattern": "hash"}})");
  for (const FieldDoc& doc : config_docs()) {  // a value other than the default for every key
    std::string text = "\"?\"";
    if (doc.type == "integer") text = "3";
    if (doc.type == "number") text = "0.25";
    if (doc.type == "true or false") text = doc.default_text == "true" ? "false" : "true";
    if (doc.key == "model.rotary_theta") text = "3.5";
    if (doc.key == "device") text = "cpu";
    if (doc.key == "data.order") text = "random";
    if (doc.key == "model.gelu") text = "erf";
    if (doc.key == "model.positions") text = "rotary";
    if (doc.key == "schedule.schedule") text = "wsd";
    if (doc.key == "train.zero") text = "1";
    if (doc.key == "train.reduce_dtype") text = "bf16";
    if (doc.key == "train.overlap") text = "after";
    if (doc.key == "train.recompute") text = "gelu";
    if (doc.key == "train.precision") text = "fp8";
    if (doc.key == "attention.pattern") text = "drop";
    if (doc.key == "attention.balance") text = "prefix";
    if (doc.key == "attention.top_k") text = "2";
    if (doc.key == "attention.bias_rate") text = "0.5";
    ASSERT_NE(text, doc.default_text) << doc.key;
    override_config(c, doc.key, text);
  }
  const Config again = config_from_json(to_json(c), "round trip");
  EXPECT_TRUE(differences(c, again).empty());
  EXPECT_EQ(to_json(again), to_json(c));
  EXPECT_EQ(differences(c, Config()).size(), config_docs().size());
}

TEST(Config, ShippedConfigsAreValid) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(SCFA_SOURCE_DIR "/configs")) {
    Config c = read_config(entry.path());
    validate(c);
    c.model.vocab_size = 50257;
    if (c.model.documents) c.model.end_of_text = 50256;
    validate(c.model);
    EXPECT_EQ(unused_attention_keys(c), std::vector<std::string>()) << entry.path();
    ++count;
  }
  EXPECT_GE(count, 12);
}

TEST(Config, PaperConfigsHaveThePapersNumbers) {
  for (const char* name : {"dense_8k", "hash_8k", "drop_8k", "dense_16k", "hash_16k"}) {
    const Config c = read_config(concat(SCFA_SOURCE_DIR "/configs/", name, ".json"));
    const bool longer = c.model.sequence_length == 16384;
    const std::string text = name;
    EXPECT_EQ(longer, text.ends_with("16k"));
    EXPECT_EQ(c.model.attention[0][0].pattern, text.substr(0, text.find('_')));
    EXPECT_EQ(c.model.attention[0][0].buckets, 16);
    EXPECT_EQ(c.model.attention[0][0].drop_rate, 0.5);
    EXPECT_EQ(attends_self(c.model.attention[0][0]), !text.starts_with("hash"));
    EXPECT_EQ(c.train.batch_size * c.model.sequence_length, longer ? 491520 : 524288);
    EXPECT_EQ(c.train.steps, 15000);
    EXPECT_TRUE(c.model.n_layer == 12 && c.model.n_head == 12 && c.model.n_embd == 768);
    EXPECT_TRUE(c.model.shared_qk && !c.model.bias && c.model.tied_embedding && c.model.gelu == "erf");
    EXPECT_EQ(c.model.positions, "learned");
    EXPECT_TRUE(c.optimizer.beta1 == 0.9 && c.optimizer.beta2 == 0.95 && c.optimizer.weight_decay == 0.1);
    EXPECT_TRUE(c.optimizer.clip == 0 && !c.optimizer.decay_embeddings);
    EXPECT_TRUE(c.schedule.schedule == "onecycle" && c.schedule.lr == 1e-3 && c.schedule.warmup == 0.02);
    EXPECT_TRUE(c.schedule.initial_ratio == 0.01 && c.schedule.final_ratio == 0.2);
    EXPECT_EQ(c.data.order, "random");
    EXPECT_EQ(c.eval.every, 100);
  }
}

TEST(Config, SectionsAreTheKnownOnesAndKeysHaveNoDots) {
  const auto read = [](const char* text) { return [text] { config_from_json(Json::parse(text), "x.json"); }; };
  test::expect_error(read(R"({"trian": {}})"), {"x.json", "trian", "not a known key"});
  test::expect_error(read(R"({"seed": {}})"), {"x.json: seed", "must be an integer"});
  test::expect_error(read(R"({"train.steps": 5})"), {"x.json", "train.steps", "sections are objects"});
  test::expect_error(read(R"({"": {"seed": 5}})"), {"x.json", "not a key"});
  Config config;
  config.name = "a";
  config.data.directory = "b";
  EXPECT_NO_THROW(validate(config));
  for (const std::string& bad : {std::string("a\0b", 3), std::string("a\nb"), std::string("\xfe")}) {
    config.runs = bad;
    test::expect_error([&] { validate(config); }, {"runs", "UTF-8"});
  }
}

TEST(Config, DocumentationIsCommitted) {
  EXPECT_EQ(test::read_text(SCFA_SOURCE_DIR "/docs/configuration.md"), config_markdown())
      << "run ./train --print-config-docs > docs/configuration.md";
}

}  // namespace
}  // namespace scfa
