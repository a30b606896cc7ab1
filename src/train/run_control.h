// What every part of a training run needs of what is around it: the ranks, the console, what watches over the work, and
// what the ranks decide together.
#pragma once
#include "comm/world.h"
#include "train/agreement.h"
#include "train/config.h"
#include "train/console.h"
#include "train/watchdog.h"

namespace scfa {

struct RunControl {
  // world and console must outlive it.
  RunControl(World& of_ranks, Console& of_rank, const TrainConfig& config)
      : world(of_ranks),
        console(of_rank),
        agreement(of_ranks, of_rank),
        watchdog(
            {config.watchdog_seconds, config.stop_seconds}, [&of_rank] { of_rank.redraw_if_resized(); },
            [&of_ranks](const std::string& text) { of_ranks.end_all(text); }) {}

  World& world;
  Console& console;
  Agreement agreement;
  Watchdog watchdog;
};

}  // namespace scfa
