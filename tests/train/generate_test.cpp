// Generating: the context's edge, sliding, samples, prompts, and what goes wrong.
#include "train/generate.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <limits>

#include "support/expect_error.h"
#include "support/run_program.h"
#include "support/tiny_run.h"
#include "train/checkpoint.h"
#include "train/checkpoint_evaluation.h"
#include "train/optimizer.h"
#include "train/run_folder.h"

namespace scfa {
namespace {

namespace fs = std::filesystem;
using test::execute;
using test::expect_error;
using test::expect_one_line;
using test::Outcome;

// One run for all tests of this file: context 64, tokens are bytes.
class Generate : public test::TinyRunSuite {
 protected:
  static std::vector<std::string> words(std::initializer_list<std::string> more) {
    std::vector<std::string> all{"generate", "--checkpoint", run()};
    all.insert(all.end(), more);
    return all;
  }
  static Generated text(GenerateOptions options, std::string& made) {
    options.checkpoint = run();
    made.clear();
    return generate(options, [&](std::string_view bytes) { made += bytes; });
  }
};

TEST_F(Generate, EndsAtTheEdgeOfTheContextAndSaysSo) {
  std::string made;
  const Generated result = text({.prompt = "Line ", .tokens = 1000}, made);
  EXPECT_EQ(result.end, GenerationEnd::kContextFull);
  EXPECT_EQ(result.prompt_tokens, 5);
  EXPECT_EQ(result.tokens, 60);  // the last one is not fed
  EXPECT_EQ(text({.prompt = "Line ", .tokens = 60}, made).end, GenerationEnd::kTokens);
  const Outcome full = execute(words({"--prompt", "Line ", "--tokens", "1000", "--samples", "2"}));
  EXPECT_EQ(full.code, 0) << full.err;
  for (const char* part :
       {"generate: ", "context of 64 tokens is full", "5 of the prompt", "1000 asked for", "--slide"})
    EXPECT_NE(full.err.find(part), std::string::npos) << full.err;
  EXPECT_EQ(std::count(full.err.begin(), full.err.end(), '\n'), 1) << full.err;
  EXPECT_EQ(execute(words({"--prompt", "Line ", "--tokens", "20"})).err, "");
}

TEST_F(Generate, SlidesPastTheEdge) {
  std::string ended, slid, again;  // of likely tokens, so that none of them ends the text
  text({.prompt = "Line ", .tokens = 1000, .sampling = {.top_k = 8}}, ended);
  const Generated result = text({.prompt = "Line ", .tokens = 300, .sampling = {.top_k = 8}, .slide = true}, slid);
  EXPECT_EQ(result.tokens, 300);
  EXPECT_EQ(result.end, GenerationEnd::kTokens);
  EXPECT_EQ(slid.substr(0, ended.size()), ended);  // the same up to the edge
  text({.prompt = "Line ", .tokens = 300, .sampling = {.top_k = 8}, .slide = true}, again);
  EXPECT_EQ(again, slid);
  const std::string prompt(200, 'a');
  expect_error([&] { text({.prompt = prompt}, again); }, {"200 tokens", "context of 64", "--slide"});
  EXPECT_EQ(text({.prompt = prompt, .tokens = 3, .slide = true}, again).prompt_tokens, 200);
  EXPECT_EQ(again.substr(0, 200), prompt);
  const Outcome program =
      execute(words({"--prompt", "Line ", "--tokens", "300", "--slide", "--temperature", "1", "--top-k", "8"}));
  EXPECT_EQ(program.out, slid + "\n");
  EXPECT_EQ(program.err, "");
}

TEST_F(Generate, SamplesAreThoseOfTheirSeeds) {
  const auto one = [&](const char* seed) {
    return execute(words({"--prompt", "Line ", "--tokens", "12", "--seed", seed})).out;
  };
  EXPECT_EQ(execute(words({"--prompt", "Line ", "--tokens", "12", "--seed", "7", "--samples", "3"})).out,
            "---- sample 1 of 3, seed 7\n" + one("7") + "---- sample 2 of 3, seed 8\n" + one("8") +
                "---- sample 3 of 3, seed 9\n" + one("9"));
}

TEST_F(Generate, TakesThePromptFromAFileAPipeOrStandardInput) {
  const test::TempDir folder;
  const std::string prompt = "Line 3\nof --two\n", file = folder.put("prompt.txt", prompt);
  const std::string want = execute(words({"--tokens", "5", "--prompt=" + prompt})).out;
  EXPECT_EQ(want.substr(0, prompt.size()), prompt);
  EXPECT_EQ(execute(words({"--tokens", "5", "--prompt-file", file})).out, want);
  test::Streams streams;
  streams.in = file;
  EXPECT_EQ(execute(words({"--tokens", "5", "--prompt-file", "-"}), streams).out, want);
  EXPECT_EQ(execute(words({"--tokens", "5", "--prompt-file", "/dev/null"})).out, execute(words({"--tokens", "5"})).out);
  expect_one_line(execute(words({"--prompt", "a", "--prompt-file", file})), "generate: ", "exclude each other");
  expect_one_line(execute(words({"--prompt-file", folder / "none"})), "generate: ", "none: cannot be opened");
  expect_one_line(execute(words({"--prompt-file", folder / "."})), "generate: ", "is a folder");
}

TEST_F(Generate, EveryOptionOutOfRangeIsNamed) {
  for (const auto& [option, value] : std::vector<std::pair<const char*, const char*>>{{"--tokens", "0"},
                                                                                      {"--tokens", "-1"},
                                                                                      {"--tokens", "99999999999"},
                                                                                      {"--tokens", "1e3"},
                                                                                      {"--tokens", "many"},
                                                                                      {"--top-k", "-1"},
                                                                                      {"--top-k", "0.5"},
                                                                                      {"--top-p", "0"},
                                                                                      {"--top-p", "1.1"},
                                                                                      {"--top-p", "nan"},
                                                                                      {"--temperature", "-0.1"},
                                                                                      {"--temperature", "inf"},
                                                                                      {"--temperature", "hot"},
                                                                                      {"--seed", "-1"},
                                                                                      {"--samples", "0"},
                                                                                      {"--samples", "1e9"},
                                                                                      {"--device", "tpu"},
                                                                                      {"--slide", "yes"}}) {
    const Outcome outcome = execute(words({concat(option, '=', value)}));
    expect_one_line(outcome, "generate: ", concat(option, ": must be "));
    EXPECT_EQ(outcome.out, "");
  }
  expect_one_line(execute(words({"-seed", "3"})), "generate: ", "-seed");
  expect_one_line(execute(words({"stray"})), "generate: ", "stray");
  expect_one_line(execute(words({"--tokns", "3"})), "generate: ", "did you mean \"tokens\"");
  expect_one_line(execute({"generate"}), "generate: ", "--checkpoint");
  const Outcome none = execute({"generate", "--checkpoint", "nowhere"});
  EXPECT_EQ(none.err.find("generate: nowhere"), 0u) << none.err;  // the program is named once
}

TEST_F(Generate, SaysThatANewerCheckpointIsNotWhole) {
  const test::TempDir folder;
  fs::copy(run(), folder / "run", fs::copy_options::recursive);
  std::vector<std::string> names = checkpoint_folders(folder / "run");
  std::sort(names.begin(), names.end());
  ASSERT_GE(names.size(), 2u);
  test::write_text(names.back() + "/model.safetensors", "cut");
  const Outcome outcome = execute({"generate", "--checkpoint", folder / "run", "--prompt", "Line", "--tokens", "2"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.err.find("generate: warning: passed over " + names.back()), 0u) << outcome.err;
  EXPECT_EQ(evaluate_checkpoint({.checkpoint = folder / "run", .device = "cpu"}).warnings.size(), 1u);
}

TEST_F(Generate, ABrokenModelIsAnErrorAndNoText) {
  const CheckpointState state = find_checkpoint(run());
  for (const float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    const test::TempDir folder;
    Context ctx;
    ParameterStore store(ctx, state.config.model, {.training = true});
    load_checkpoint(state.path, store);
    std::fill_n(store.master_params().as<float>(), store.master_params().numel(), value);
    HostState values(store, true);
    values.download();
    const std::string path = save_checkpoint(folder / "run", state, store.table(), values);
    for (const char* temperature : {"0", "1"}) {
      const Outcome outcome =
          execute({"generate", "--checkpoint", path, "--prompt", "Line", "--temperature", temperature});
      expect_one_line(outcome, "generate: ", "not finite");
      EXPECT_EQ(outcome.out, "Line");
    }
  }
}

TEST_F(Generate, AWriteThatFailsEndsItAtOnce) {
  const std::vector<std::string> endless =
      words({"--prompt", "Line ", "--tokens", "1000000000", "--slide", "--top-k", "8"});
  test::Streams full, closed;
  full.out = "/dev/full";
  closed.close_out = true;
  for (const test::Streams& streams : {full, closed})
    expect_one_line(execute(endless, streams), "generate: ", "standard output: cannot be written");
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  test::Streams piped;
  piped.out_fd = ends[1];
  const Outcome outcome = execute(
      endless,
      [&](pid_t) {
        ::close(ends[1]);
        char byte = 0;
        EXPECT_EQ(::read(ends[0], &byte, 1), 1);
        ::close(ends[0]);  // as "head -c 1" does
      },
      piped);
  EXPECT_EQ(outcome.code, 128 + SIGPIPE) << outcome.err;
}

TEST_F(Generate, ASignalEndsItWithWhatIsWritten) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    const test::TempDir folder;
    test::Streams streams;
    streams.out = folder / "out.txt";
    const Outcome outcome = execute(
        words({"--prompt", "Line ", "--tokens", "1000000000", "--slide", "--top-k", "8"}),
        [&](pid_t pid) {
          test::wait_until([&] { return fs::exists(streams.out) && fs::file_size(streams.out) > 200; });
          ::kill(pid, signal);
        },
        streams);
    EXPECT_EQ(outcome.code, 128 + signal) << outcome.err;
    EXPECT_EQ(outcome.out.substr(0, 5), "Line ");
    EXPECT_EQ(outcome.out.back(), '\n');
    EXPECT_NE(outcome.err.find(": ending with what is written so far"), std::string::npos) << outcome.err;
  }
}

// Once: a write that waits for a reader must not keep the signal waiting too.
TEST_F(Generate, ASignalEndsWaitingForWhoDoesNotRead) {
  const test::FullPipe pipe;
  test::Streams streams;
  streams.out_fd = pipe.out();
  for (const std::vector<std::string>& program :
       {words({"--prompt", "Line ", "--tokens", "100"}), {"inspect", run(), "--json"}}) {
    const Outcome outcome = execute(
        program,
        [](pid_t pid) {
          test::wait_until_idle(pid);
          test::stop_program(pid, SIGTERM);
        },
        streams);
    EXPECT_EQ(outcome.code, 128 + SIGTERM) << outcome.err;
    EXPECT_NE(outcome.err.find("standard output: nobody reads it"), std::string::npos) << outcome.err;
  }
}

TEST_F(Generate, APromptFromAStandardInputThatIsClosedIsAnError) {
  test::Streams streams;
  streams.close_in = true;
  expect_one_line(execute(words({"--prompt-file", "-"}), streams), "generate: ", "standard input: cannot be read");
  EXPECT_EQ(execute(words({"--tokens", "1"}), streams).code, 0);  // who does not read it does not need it
}

TEST_F(Generate, ASignalEndsWaitingForAPrompt) {
  const test::TempDir folder;
  const std::string fifo = folder / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  const Outcome outcome = execute(words({"--prompt-file", fifo}), [&](pid_t pid) {
    ::usleep(200'000);
    ::kill(pid, SIGTERM);
  });
  EXPECT_TRUE(outcome.code == 128 + SIGTERM || outcome.code == -SIGTERM) << outcome.code << outcome.err;
}

}  // namespace
}  // namespace scfa
