// The best few of what is offered one after the other.
#pragma once
#include <cmath>

#include "core/host_device.h"

namespace scfa {

// The k highest scores offered so far and their ids, in descending order. Of equal scores, the one offered first wins.
//   kMost  capacity, in registers; offer() may be given a smaller k
template <int kMost>
struct TopK {
  float score[kMost];
  int id[kMost];  // `none` where fewer were offered
  SCFA_HOST_DEVICE explicit TopK(int none) {
    for (int i = 0; i < kMost; ++i) score[i] = -INFINITY, id[i] = none;
  }
  SCFA_HOST_DEVICE void offer(float its_score, int its_id, int k = kMost) {
    bool moved = false;  // from there on the others move down a place
    for (int i = 0; i < kMost; ++i)
      if (i < k && (moved || its_score > score[i])) {
        const float next_score = score[i];
        const int next_id = id[i];
        score[i] = its_score, id[i] = its_id;
        its_score = next_score, its_id = next_id;
        moved = true;
      }
  }
};

}  // namespace scfa
