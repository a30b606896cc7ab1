// What this rank has heard of the others by their heartbeats: where each is, how long it has been silent, whether it
// has left. Rank 0 hears from all, any other rank from rank 0 only. Not safe to use from several threads at once.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "comm/connections.h"

namespace scfa {

class PeerStates {
 public:
  // connections must outlive it. limit: see set_limit().
  PeerStates(const Connections& connections, double limit);

  void set_limit(double seconds) { limit_ = seconds; }  // a rank may be silent for so long; 0: for ever

  void set_place(size_t rank, const std::string& place) { states_[rank].place = place; }
  void heard_from(size_t rank) { states_[rank].silent = 0; }
  void left(size_t rank) { states_[rank].left = true; }

  const std::string& place(size_t rank) const { return states_[rank].place; }
  double silent(size_t rank) const { return states_[rank].silent; }  // seconds
  bool has_left(size_t rank) const { return states_[rank].left; }

  // Adds `seconds`, in which this process ran, to every silence. Names a rank that is silent for the limit and 2 s more
  // (7 s except on rank 0): watchdogs, which say more, and then rank 0 come first. Empty if there is none.
  std::string pass(double seconds);

  // Of ranks that have not been heard from for some seconds, or else of where ranks differ; empty if nothing is odd.
  std::string describe_odd() const;

 private:
  struct State {
    std::string place;
    double silent = 0;  // seconds since it was heard from, in which this process ran
    bool left = false;
  };
  bool hears(size_t rank) const { return (c_.rank == 0) != (rank == 0); }

  const Connections& c_;
  double limit_;
  std::vector<State> states_;  // by rank
};

// Seconds without a heartbeat after which a rank is named; half the limit if that is less.
inline constexpr double kSilentSeconds = 3;

}  // namespace scfa
