// Several ranks of ./train on a tiny run, started as torchrun would start them, or by mpirun.
#pragma once
#include <string>
#include <vector>

#include "comm/socket.h"
#include "data/json_file.h"
#include "support/run_program.h"
#include "support/tiny_run.h"
#include "train/config_io.h"

namespace scfa::test {

using Words = std::vector<std::string>;

class RankRun : public TinyRun {
 public:
  // So that 1, 2, 3 and 4 ranks can share the batch out.
  RankRun() {
    Config config = TinyRun::config();
    config.train.micro_batch_size = 1;
    config.checkpoint.every = 4;
    config.checkpoint.minutes = 0;
    write_text(folder / "tiny.json", to_json(config).dump());
  }

  Words words(const Words& more) const {
    Words all{"train", "--config", folder / "tiny.json"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  // The variables of rank r of n, which meet at a port.
  static Streams as_rank(int r, int n, int port) {
    Streams streams;
    streams.environment = {{"RANK", std::to_string(r)},
                           {"WORLD_SIZE", std::to_string(n)},
                           {"MASTER_ADDR", "127.0.0.1"},
                           {"MASTER_PORT", std::to_string(port)},
                           {"OMP_NUM_THREADS", "1"}};
    return streams;
  }

  // act(pids) is called once all have started. change(rank, words, streams) may give a rank of its own what it is to
  // get.
  template <class Act, class Change>
  std::vector<Outcome> ranks(int n, const Words& more, const Act& act, const Change& change) const {
    const int port = Listener(0).port();
    const TempDir outputs;
    std::vector<pid_t> pids;
    const auto file = [&](const char* kind, int r) { return outputs / concat(kind, r); };
    for (int r = 0; r < n; ++r) {
      Streams streams = as_rank(r, n, port);
      streams.out = file("out", r), streams.err = file("err", r);
      Words its = words(more);
      change(r, its, streams);
      pids.push_back(start_program_of_build(its, streams));
    }
    act(pids);
    std::vector<Outcome> outcomes;
    for (int r = 0; r < n; ++r) {
      int status = 0;
      waitpid(pids[static_cast<size_t>(r)], &status, 0);
      outcomes.push_back({WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), read_text(file("out", r)),
                          read_text(file("err", r))});
    }
    return outcomes;
  }
  template <class Act>
  std::vector<Outcome> ranks(int n, const Words& more, const Act& act) const {
    return ranks(n, more, act, [](int, Words&, Streams&) {});
  }
  std::vector<Outcome> ranks(int n, const Words& more = {}) const {
    return ranks(n, more, [](const std::vector<pid_t>&) {});
  }

  // All of them went well, and rank 0 alone spoke.
  static void expect_success(const std::vector<Outcome>& outcomes) {
    for (size_t r = 0; r < outcomes.size(); ++r) {
      EXPECT_EQ(outcomes[r].code, 0) << "rank " << r << ": " << outcomes[r].err;
      if (r > 0) {
        EXPECT_EQ(outcomes[r].out + outcomes[r].err, "") << "rank " << r;
      }
    }
  }

  // All of them ended with an error in one line, which rank `voice` alone printed.
  static void expect_one_voice(const std::vector<Outcome>& outcomes, const std::string& part, size_t voice = 0) {
    for (size_t r = 0; r < outcomes.size(); ++r) {
      if (outcomes[r].code < 0) continue;  // the one that the test killed
      EXPECT_EQ(outcomes[r].code, 1) << "rank " << r;
      if (r == voice) {
        expect_one_line(outcomes[r], "train: ", part);
        continue;
      }
      EXPECT_EQ(outcomes[r].err, "") << "rank " << r;
    }
  }

  std::string checkpoint(int step, const char* file) const {
    char name[64];
    std::snprintf(name, sizeof name, "checkpoint-%08d/%s", step, file);
    return path(name);
  }
};

}  // namespace scfa::test
