// Several ranks as threads of the test: each has a world of its own, as processes would.
#include "comm/world.h"

#include <gtest/gtest.h>

#include <cmath>
#include <thread>

#include "comm/collectives.h"
#include "core/signals.h"
#include "support/as_ranks.h"
#include "support/compare.h"
#include "support/expect_error.h"

namespace scfa {
namespace {

using test::Array;
using test::as_ranks;
using test::expect_error;

TEST(World, AloneNeedsNobody) {
  World world;
  EXPECT_EQ(world.size(), 1);
  EXPECT_TRUE(world.is_rank0());
  EXPECT_EQ(world.all_gather("x", "mine"), std::vector<std::string>{"mine"});
  expect_error([&] { world.run_on_all("x", [] { fail("as it is"); }); }, "as it is");
  expect_error([&] { world.guard([] { fail("text"); }); }, "text");
}

TEST(World, RanksLearnOfOneAnother) {
  as_ranks(3, [](World& world) {
    EXPECT_EQ(world.size(), 3);
    EXPECT_EQ(world.local_size(), 3);
    EXPECT_EQ(world.local_rank(), world.rank());
    EXPECT_EQ(world.machines(), 1);
    EXPECT_EQ(world.all_gather("names", std::string(static_cast<size_t>(world.rank()), 'x')),
              (std::vector<std::string>{"", "x", "xx"}));
    EXPECT_EQ(world.all_gather_values("numbers", world.rank() * 10), (std::vector<int>{0, 10, 20}));
    EXPECT_EQ(world.broadcast("one", world.rank() + 5), 5);
    EXPECT_NE(world.describe().find("3 ranks on 1 host, started by torchrun"), std::string::npos);
  });
}

TEST(World, AnErrorOfOneIsThrownOnAll) {
  as_ranks(3, [](World& world) {
    expect_error<CollectiveError>([&] { world.run_on_all("work", [&] { require(world.rank() != 1, "no disk"); }); },
                                  world.name_of(1) + ": no disk");
    // That of the lowest rank, which needs no name where it is rank 0.
    expect_error<CollectiveError>([&] { world.run_on_all("work", [&] { fail("rank ", world.rank()); }); }, "rank 0");
    expect_error<CollectiveError>([&] { world.run_on_rank0("work", [&] { fail("only once"); }); }, "only once");
    world.run_on_all("work", [] {});
  });
}

TEST(World, AStopOfOneStopsAll) {
  reset_signals();
  as_ranks(2, [](World& world) {
    EXPECT_THROW(world.run_on_all("work",
                                  [&] {
                                    if (world.rank() == 1) {
                                      request_stop(15);
                                      check_stop("stopped early");
                                    }
                                  }),
                 Interrupted);
  });
  EXPECT_EQ(stop_signal(), 15);
  reset_signals();
}

TEST(World, RanksInDifferentPlacesAreAnError) {
  as_ranks(2, [](World& world) {
    if (world.is_rank0())
      expect_error([&] { world.all_gather("losses", ""); }, "in exchange 0 checkpoint instead of 0 losses");
    else
      EXPECT_THROW(world.all_gather("checkpoint", ""), Error);  // rank 0 goes away
  });
}

TEST(World, RanksThatDoNotComeAreNamed) {
  setenv("SCFA_JOIN_SECONDS", "0.3", 1);
  const int port = Listener(0).port();
  expect_error(
      [&] { World({.launcher = Launcher::kTorchrun, .rank = 0, .size = 3, .address = "127.0.0.1", .port = port}); },
      "ranks 1, 2 of 3 did not connect within 0.3 s");
  expect_error(
      [&] { World({.launcher = Launcher::kTorchrun, .rank = 1, .size = 3, .address = "127.0.0.1", .port = port}); },
      "rank 1 on ");
  unsetenv("SCFA_JOIN_SECONDS");
}

// A process of another run, or anyone else, that comes to the port is not taken for a rank.
TEST(World, StrangersAreTurnedAway) {
  const int port = Listener(0).port();
  const auto join = [&](int rank, const std::string& job) {
    World world(
        {.launcher = Launcher::kTorchrun, .rank = rank, .size = 2, .address = "127.0.0.1", .port = port, .job = job});
    EXPECT_EQ(world.all_gather("jobs", job), (std::vector<std::string>{"right", "right"}));
    world.leave();
  };
  std::thread first([&] { join(0, "right"); });
  std::string error;
  std::optional<Socket> noise = connect_to("127.0.0.1", port, 5, &error);
  ASSERT_TRUE(noise.has_value()) << error;
  ASSERT_TRUE(noise->write_message("GET / HTTP/1.1"));
  std::optional<Socket> other = connect_to("127.0.0.1", port, 5, &error);
  ASSERT_TRUE(other.has_value() && other->write_message("scfa-1 wrong 2 1 0 host machine"));
  join(1, "right");
  first.join();
}

// ---- collectives of CPU ranks, by way of rank 0 ---------------------------------------------------------------------

class HostCollectives : public testing::TestWithParam<std::tuple<int, int64_t>> {};

TEST_P(HostCollectives, SumInTheOrderOfTheRanks) {
  const auto [ranks, n] = GetParam();
  std::vector<float> want(static_cast<size_t>(n));
  for (int r = 0; r < ranks; ++r) {
    const Array its = test::normal({n}, static_cast<uint64_t>(r));
    for (int64_t i = 0; i < n; ++i) {
      float& sum = want[static_cast<size_t>(i)];
      sum = r == 0 ? its.as<float>()[i] : sum + its.as<float>()[i];
    }
  }
  as_ranks(ranks, [&, n = n](World& world) {
    const auto collectives = make_host_collectives(world);
    const Range mine = part_of(n, world.rank(), world.size());
    const Array all = test::normal({n}, static_cast<uint64_t>(world.rank()));
    collectives->all_reduce(all);
    EXPECT_EQ(std::vector<float>(all.as<float>(), all.as<float>() + n), want);
    Array scattered = test::normal({n}, static_cast<uint64_t>(world.rank()));
    collectives->reduce_scatter(scattered);
    for (int64_t i = mine.begin; i < mine.end; ++i)
      EXPECT_EQ(scattered.as<float>()[i], want[static_cast<size_t>(i)]) << i;
    for (int64_t i = 0; i < n; ++i)
      if (i < mine.begin || i >= mine.end) scattered.as<float>()[i] = NAN;
    collectives->all_gather(scattered);
    EXPECT_EQ(std::vector<float>(scattered.as<float>(), scattered.as<float>() + n), want);
    const Array first = test::normal({n}, static_cast<uint64_t>(100 + world.rank()));
    collectives->broadcast(first);
    EXPECT_TRUE(first.same_bits(test::normal({n}, 100)));
  });
}

INSTANTIATE_TEST_SUITE_P(Comm, HostCollectives,
                         testing::Combine(testing::Values(2, 3, 4), testing::Values<int64_t>(1, 64, 1000, 5000011)));

TEST(Parts, CoverEverythingOnce) {
  for (const int64_t n : {0, 1, 64, 128, 1000, 4096, 100000})
    for (const int ranks : {1, 2, 3, 7, 64}) {
      int64_t end = 0;
      for (int r = 0; r < ranks; ++r) {
        const Range part = part_of(n, r, ranks);
        EXPECT_EQ(part.begin, end);
        EXPECT_EQ(part.begin % kPartAlignment, 0);
        end = part.end;
      }
      EXPECT_EQ(end, n);
    }
}

}  // namespace
}  // namespace scfa
