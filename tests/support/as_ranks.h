// Several ranks as threads of a test: each has a world of its own, as processes would.
#pragma once
#include <exception>
#include <functional>
#include <thread>
#include <vector>

#include "comm/world.h"

namespace scfa::test {

// Runs body(world) as each of so many ranks, which find one another as torchrun's would.
inline void as_ranks(int size, const std::function<void(World&)>& body) {
  const int port = Listener(0).port();
  std::vector<std::thread> threads;
  std::vector<std::exception_ptr> errors(static_cast<size_t>(size));
  for (int r = 0; r < size; ++r)
    threads.emplace_back([&, r] {
      try {
        World world({.launcher = Launcher::kTorchrun, .rank = r, .size = size, .address = "127.0.0.1", .port = port});
        body(world);
        world.leave();
      } catch (...) {
        errors[static_cast<size_t>(r)] = std::current_exception();
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace scfa::test
