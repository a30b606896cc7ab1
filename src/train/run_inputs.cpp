#include "train/run_inputs.h"

#include "train/describe_run.h"
#include "train/machine.h"
#include "train/preflight.h"
#include "train/ranks.h"

namespace scfa {

RunInputs::RunInputs(const Config& given)
    : train_set(open_split(given, Split::kTrain)),
      val_set(open_split(given, Split::kVal)),
      config(complete(given, train_set, choose_device(given.device))),
      ctx(choose_device(config.device)),
      evaluator(val_set, config.eval.windows, config.model.sequence_length, config.train.micro_batch_size) {}

int planned_ranks(const TrainOptions& options, const World& world) {
  return options.plan_ranks > 0 ? options.plan_ranks : world.size();
}

void check_inputs(RunControl& control, RunInputs& inputs, const TrainOptions& options) {
  const Config& config = inputs.config;
  compare_ranks(control.world, config, options,
                data_fingerprint(inputs.train_set) + " " + data_fingerprint(inputs.val_set), inputs.ctx.device());
  const int ranks = planned_ranks(options, control.world);
  control.world.run_on_all("checking the run", [&] {
    describe_run(control.console, inputs.ctx, config, inputs.train_set, inputs.evaluator, ranks);
    describe_ranks(control.console, control.world, inputs.ctx.device());
    check_precision(inputs.ctx, config);
    inputs.recompute = check_memory(inputs.ctx, config, ranks, control.console);
    require(!options.resume || !options.overwrite, "--resume goes on with a run and --overwrite replaces it: give one");
  });
}

void check_text(RunControl& control, const RunInputs& inputs) {
  control.world.run_on_all("checking the data", [&] {
    if (control.world.local_rank() == 0) verify_data(inputs.config, inputs.train_set, inputs.val_set, control.console);
  });
}

}  // namespace scfa
