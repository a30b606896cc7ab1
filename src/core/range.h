// Stretches of flat tensors, and how they are shared out.
#pragma once
#include <cstdint>

namespace scfa {

struct Range {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
};

inline constexpr int64_t kPartAlignment = 64;  // elements

// Which of `length` elements are rank r's part. Parts are equal but for the last rank's, which has the rest too.
inline Range part_of(int64_t length, int rank, int ranks) {
  const int64_t each = length / kPartAlignment / ranks * kPartAlignment;
  return {rank * each, rank == ranks - 1 ? length : (rank + 1) * each};
}

}  // namespace scfa
