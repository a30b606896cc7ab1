#include "comm/peer_states.h"

#include <algorithm>
#include <cstdint>
#include <map>

#include "core/error.h"

namespace scfa {

PeerStates::PeerStates(const Connections& connections, double limit)
    : c_(connections), limit_(limit), states_(c_.peers.size()) {}

std::string PeerStates::pass(double seconds) {
  std::string overdue;
  for (size_t r = 0; r < states_.size(); ++r) {
    State& state = states_[r];
    if (!hears(r) || state.left) continue;
    state.silent += seconds;
    if (limit_ > 0 && state.silent > limit_ + (c_.rank == 0 ? 2 : 7))
      overdue = concat(c_.name_of(r), " has not been heard from for ", static_cast<int64_t>(state.silent),
                       " s, last seen in ", state.place);
  }
  return overdue;
}

std::string PeerStates::describe_odd() const {
  std::string silent;
  std::map<std::string, std::vector<size_t>> places;
  for (size_t r = 0; r < states_.size(); ++r) {
    if (c_.rank != 0 && r != 0) continue;  // only rank 0 hears from all
    const State& state = states_[r];
    places[state.place].push_back(r);
    if (state.silent > std::min(kSilentSeconds, limit_ > 0 ? limit_ / 2 : kSilentSeconds))
      silent += concat(silent.empty() ? "" : ", ", c_.name_of(r), " has not been heard from for ",
                       static_cast<int64_t>(state.silent), " s (last seen in ", state.place, ")");
  }
  if (!silent.empty() || places.size() < 2) return silent;
  std::string differing;
  for (const auto& [place, ranks] : places)
    differing += concat(differing.empty() ? "" : "; ", c_.name_of(ranks.front()),
                        ranks.size() > 1 ? concat(" and ", ranks.size() - 1, " more are in ") : " is in ", place);
  return differing;
}

}  // namespace scfa
