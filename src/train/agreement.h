// What the ranks of a run decide together, so that none waits in a collective that another never enters: to stop, to
// save, and what the loss of a step was. With one rank nothing is exchanged.
#pragma once
#include "comm/world.h"
#include "model/gpt.h"
#include "train/console.h"

namespace scfa {

struct Decision {
  LossSums sums;      // of all ranks, added up in their order
  bool stop = false;  // a signal asked one of them to
  bool save = false;
};

class Agreement {
 public:
  Agreement(World& world, Console& console) : world_(world), console_(console) {}

  // Whether a signal asked any rank to stop; then all take it as theirs.
  bool stop();

  // The same with the losses of this rank, and whether it wants to save.
  Decision decide(const LossSums& mine, bool save);

 private:
  World& world_;
  Console& console_;
  bool stopping_ = false;
};

}  // namespace scfa
