#include "train/validation.h"

namespace scfa {

namespace {

struct Stopped {};  // thrown out of an evaluation when a signal came

std::string batch_after(int64_t step) {
  return concat("a batch of the evaluation after step ", step);
}

}  // namespace

std::optional<Evaluation> validate_model(RunControl& control, Evaluator& evaluator, TrainingMemory& memory,
                                         int64_t step) {
  World& world = control.world;
  const std::string what = batch_after(step);
  try {
    const Watched watched(control.watchdog, Work::kEvaluation, what);
    world.set_place(concat("the evaluation after step ", step));
    const Evaluation mine = evaluator.run(memory.model, memory.feeder, world.rank(), world.size(), [&](double share) {
      if (control.agreement.stop()) throw Stopped();
      control.watchdog.begin(Work::kEvaluation, what);
      control.console.progress(share, "evaluating");
    });
    return merge(world, mine);
  } catch (const Stopped&) {
    return {};
  }
}

double probe_model(RunControl& control, Evaluator& evaluator, TrainingMemory& memory, int64_t step) {
  const Watched watched(control.watchdog, Work::kEvaluation, batch_after(step));
  return control.world.broadcast("loss before saving", evaluator.probe(memory.model, memory.feeder));
}

}  // namespace scfa
