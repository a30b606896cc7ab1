#include "train/agreement.h"

#include "core/signals.h"

namespace scfa {

namespace {

struct Vote {
  LossSums sums;
  int32_t signal = 0, save = 0;
};

}  // namespace

bool Agreement::stop() {
  return decide({}, false).stop;
}

Decision Agreement::decide(const LossSums& mine, bool save) {
  const std::vector<Vote> votes = world_.all_gather_values(
      "vote on stopping and saving", Vote{mine, stop_requested() ? stop_signal() : 0, save ? 1 : 0});
  Decision all;
  for (size_t r = 0; r < votes.size(); ++r) {
    all.sums += votes[r].sums;
    all.save = all.save || votes[r].save != 0;
    if (votes[r].signal == 0) continue;
    if (!all.stop && !stopping_ && r > 0)  // rank 0 has said it where it got one itself
      console_.line(concat(world_.name_of(static_cast<int>(r)), " received signal ", votes[r].signal,
                           "; all ranks save and stop"));
    if (!all.stop) request_stop(votes[r].signal);
    all.stop = true;
  }
  stopping_ = all.stop;
  return all;
}

}  // namespace scfa
