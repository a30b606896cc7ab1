// Balanced buckets of the hash. Queries of a head have a large mean in common, which decides the bucket of most of
// them. So each score y = direction . x / |x| is standardised by the mean and the deviation of y over earlier rows of
// the same sequence and head, and the bucket is the argmax of +-(y - mean) / deviation. Adding one vector to all keys
// of a query changes no softmax, so the mean carries nothing that attention could use.
//
// A bias per bucket (bucket_bias.h) is added to the score before the argmax, where there is one. Then scores that are
// not standardised are y sqrt(D), so that those of random unit vectors have deviation 1.
//
// The statistics of a row cover all rows before its chunk, and a prior of kPriorRows unit vectors of random direction.
// Chunks begin at 0, 32, 64, 128 and every 128 rows from there on. Scores are in fixed point and sums are integers:
// they do not depend on the order, so that training, evaluation and generation have the same statistics to the bit.
#pragma once
#include <cmath>
#include <cstdint>

#include "core/host_device.h"
#include "kernels/attention/patterns/top_k.h"

namespace scfa {

enum class HashBalance { kNone, kMean, kPrefix };

inline constexpr int kScoreChunk = 128, kFirstScoreChunk = 32;  // rows
inline constexpr float kScoreUnit = 32767.0f;                   // the score 1
inline constexpr int kSquareShift = 6;  // right shift of squared scores, so that 128 (a chunk) sum up within 32 bits
inline constexpr double kPriorRows = 16;

// Number of rows that the statistics for the row at `position` cover.
SCFA_HOST_DEVICE inline int64_t statistics_rows(int64_t position) {
  if (position >= kScoreChunk) return position / kScoreChunk * kScoreChunk;
  constexpr int64_t kSecond = int64_t{2} * kFirstScoreChunk;
  return position >= kSecond ? kSecond : position / kFirstScoreChunk * kFirstScoreChunk;
}

// A score in fixed point. Not a number is 0.
SCFA_HOST_DEVICE inline int fixed_point(float y) {
  const float inside = y >= 1.0f ? 1.0f : y > -1.0f ? y : y <= -1.0f ? -1.0f : 0.0f;
  return static_cast<int>(rintf(inside * kScoreUnit));
}

// Of scores in fixed point and of their squares.
struct ScoreSums {
  int64_t sum, square;
  SCFA_HOST_DEVICE void add(int y) {
    sum += y;
    square += y * y >> kSquareShift;
  }
};

// What a sequence and head remember for a direction: sums over the rows that the last row's statistics are of, and over
// all rows so far.
struct ScoreState {
  ScoreSums before, all;
};

// Of scores in fixed point. rstd is 1 / standard deviation; with kMean that of random unit vectors, sqrt(D).
struct ScoreStatistics {
  float mean, rstd;
};
SCFA_HOST_DEVICE inline ScoreStatistics score_statistics(const ScoreSums& sums, int64_t rows, int64_t D,
                                                         HashBalance balance) {
  const double n = static_cast<double>(rows) + kPriorRows, unit = kScoreUnit;
  const double mean = static_cast<double>(sums.sum) / n;
  if (balance == HashBalance::kMean)
    return {static_cast<float>(mean), static_cast<float>(sqrt(static_cast<double>(D)) / unit)};
  const double square =
      static_cast<double>(sums.square) * (1 << kSquareShift) + kPriorRows * unit * unit / static_cast<double>(D);
  const double variance = square / n - mean * mean;
  return {static_cast<float>(mean), static_cast<float>(1.0 / sqrt(variance > 1.0 ? variance : 1.0))};
}

// a * b, never contracted to an fma with a later addition, so that every kernel has the same bits.
SCFA_HOST_DEVICE inline float rounded_product(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

SCFA_HOST_DEVICE inline float standardised(int y, const ScoreStatistics& statistics) {
  return rounded_product(static_cast<float>(y) - statistics.mean, statistics.rstd);
}

// The kProbes largest of [z, -z] + bias, the largest first: offer() the score z of each direction in order. Ties go to
// the lowest direction, and of its two buckets to the first. bias: of each bucket, or null; then only as many places
// are filled as there are directions, and the others must not be read.
template <int kProbes>
struct BestBuckets {
  TopK<kProbes> best{0};
  SCFA_HOST_DEVICE void offer(float z, int direction, int directions, const float* bias) {
    if (bias == nullptr) {
      best.offer(fabsf(z), z < 0.0f ? direction + directions : direction);
    } else {
      best.offer(z + bias[direction], direction);
      best.offer(bias[direction + directions] - z, direction + directions);
    }
  }
  SCFA_HOST_DEVICE uint16_t bucket(int probe) const { return static_cast<uint16_t>(best.id[probe]); }
};

}  // namespace scfa
