#include "train/non_finite.h"

#include <cmath>
#include <vector>

namespace scfa {

namespace {

// look: whether this rank's may be at fault. Empty if none is.
std::string first_bad_tensor(World& world, const Gpt& model, bool look) {
  const std::vector<std::string> found =
      world.all_gather("first bad tensor", look ? model.first_non_finite() : std::string());
  for (size_t r = 0; r < found.size(); ++r)
    if (!found[r].empty()) return r == 0 ? found[r] : found[r] + " of " + world.name_of(static_cast<int>(r));
  return {};
}

}  // namespace

void fail_step(World& world, const Gpt& model, int64_t step, double loss, double norm, double mine) {
  const bool in_loss = !std::isfinite(loss);
  const std::string tensor = first_bad_tensor(world, model, in_loss == !std::isfinite(mine));
  throw CollectiveError(concat("step ", step, ": the ", in_loss ? "loss" : "gradient norm", " is not finite (",
                               in_loss ? loss : norm,
                               "); first bad tensor: ", tensor.empty() ? "none; the sum itself overflowed" : tensor,
                               std::isfinite(norm) ? "." : ". The step was not applied and",
                               std::isfinite(norm) ? " No" : " no", " checkpoint was touched"));
}

void fail_evaluation(World& world, const Gpt& model, int64_t step, double loss, const std::string& last_checkpoint) {
  const std::string tensor = first_bad_tensor(world, model, true);
  throw CollectiveError(concat("after step ", step, " the validation loss is not finite (", loss,
                               "); first bad tensor: ", tensor.empty() ? "none" : tensor,
                               ". Nothing was saved; the last checkpoint is ",
                               last_checkpoint.empty() ? "none" : last_checkpoint));
}

}  // namespace scfa
