// Attention over segments for Hopper, after FlashAttention-3 (Shah et al. 2024, arXiv:2407.08608) on index lists
// (Pagliardini et al. 2023, arXiv:2306.01160). A block is three warpgroups: one gathers rows from token order into
// rings of stages, two compute, 64 rows of the tile each. Barriers in shared memory pass stages back and forth, so that
// copies for the next steps, and for the next tile, run beside the products.
#include <algorithm>

#include "core/gpu.h"
#include "kernels/attention/attention_sm90.h"
#include "kernels/attention/attention_tiles.cuh"
#include "kernels/attention/wgmma_sm90.cuh"

namespace scfa::gpu::sm90 {

namespace {

constexpr int kGroups = 2;                        // that compute
constexpr int kThreads = kGroup * (1 + kGroups);  // warpgroup 0 gathers
constexpr int kRows = 128;                        // of a tile
static_assert(kRows == kTile && kRows == 64 * kGroups);

// What the warpgroups that compute know of a tile. Two slots: the next tile is fetched while this one is computed.
struct Slot {
  int head, rows;  // head < 0: no tile is left
  int begin, end;  // rows of the other side that the tile meets
  alignas(16) int tokens[kRows];
  alignas(16) int bounds[kRows];         // k_limit or q_first of the rows; zero past them
  alignas(16) float2 statistics[kRows];  // lse and delta, where the rows are queries in backward
};

// Shared memory behind the tiles: slots and barriers.
constexpr int kMaxStages = 4;
struct Barriers {
  uint64_t entry_full[2], tile_full[2], tile_empty[2], first_full[kMaxStages], first_empty[kMaxStages],
      second_full[kMaxStages], second_empty[kMaxStages];
};

// How a kernel cuts its work: kOwn tiles of own rows, two tiles a stage of kStep rows of the other side.
template <int kD_, int kOwn_, int kSlots_, int kStep_, int kStages_>
struct Shape {
  static constexpr int kD = kD_, kOwn = kOwn_, kSlots = kSlots_, kStep = kStep_, kStages = kStages_;
  // A thread's: those that gather give theirs to those that compute.
  static constexpr int kGatherRegisters = 56, kComputeRegisters = 224;
  static_assert(kGatherRegisters + kGroups * kComputeRegisters <= 512);
  using Own = Tile<kRows, kD>;
  using Other = Tile<kStep, kD>;
  static constexpr int kStageStart = kSlots * kOwn * Own::kBytes;
  static constexpr int kSlotStart = kStageStart + kStages * 2 * Other::kBytes;
  static constexpr int kStatisticsStart = kSlotStart + kSlots * static_cast<int>(sizeof(Slot));
  static constexpr int kEntryStart = kStatisticsStart + kStages * kStep * static_cast<int>(sizeof(float2));
  static constexpr int kBarrierStart = kEntryStart + 2 * 32;
  static constexpr int kSharedBytes = kBarrierStart + static_cast<int>(sizeof(Barriers)) + 1024;  // to align
  static_assert(kSharedBytes <= 232448 && kStages <= kMaxStages && kSlots <= 2);
};
using Forward64 = Shape<64, 1, 2, 128, 4>;
using Forward128 = Shape<128, 1, 2, 128, 2>;
using Queries64 = Shape<64, 2, 2, 128, 3>;
using Queries128 = Shape<128, 2, 1, 64, 3>;
using Keys64 = Shape<64, 2, 2, 64, 4>;

// Addresses within a block's shared memory.
template <class S>
struct Memory {
  uint32_t base;
  __device__ Memory() {
    extern __shared__ unsigned char shared[];
    base = (shared_address(shared) + 1023u) & ~1023u;
  }
  __device__ uint32_t own(int slot, int which) const { return base + (slot * S::kOwn + which) * S::Own::kBytes; }
  __device__ uint32_t other(int stage, int which) const {
    return base + S::kStageStart + (stage * 2 + which) * S::Other::kBytes;
  }
  __device__ Slot& slot(int i) const { return static_cast<Slot*>(__cvta_shared_to_generic(base + S::kSlotStart))[i]; }
  __device__ uint32_t statistics(int stage) const {
    return base + S::kStatisticsStart + stage * S::kStep * static_cast<int>(sizeof(float2));
  }
  __device__ uint32_t entry(int i) const { return base + S::kEntryStart + 32 * i; }
  __device__ uint32_t entry_full() const { return base + S::kBarrierStart + offsetof(Barriers, entry_full); }
  __device__ uint32_t tile_full() const { return base + S::kBarrierStart + offsetof(Barriers, tile_full); }
  __device__ uint32_t tile_empty() const { return base + S::kBarrierStart + offsetof(Barriers, tile_empty); }
  __device__ uint32_t first_full() const { return base + S::kBarrierStart + offsetof(Barriers, first_full); }
  __device__ uint32_t first_empty() const { return base + S::kBarrierStart + offsetof(Barriers, first_empty); }
  __device__ uint32_t second_full() const { return base + S::kBarrierStart + offsetof(Barriers, second_full); }
  __device__ uint32_t second_empty() const { return base + S::kBarrierStart + offsetof(Barriers, second_empty); }

  // By all threads of the block.
  __device__ void make_barriers() const {
    if (threadIdx.x == 0) {
      for (int i = 0; i < 2; ++i) {
        barrier_init(entry_full() + 8 * i, 1);
        barrier_init(tile_full() + 8 * i, kGroup + 1);  // every thread's copies, and the slot
        barrier_init(tile_empty() + 8 * i, 4 * kGroups);
      }
      for (int i = 0; i < S::kStages; ++i) {
        barrier_init(first_full() + 8 * i, kGroup);
        barrier_init(second_full() + 8 * i, kGroup);
        barrier_init(first_empty() + 8 * i, 4 * kGroups);
        barrier_init(second_empty() + 8 * i, 4 * kGroups);
      }
      barriers_are_made();
    }
    __syncthreads();
  }
};

// By each warp that computes.
[[maybe_unused]] __device__ inline void release(uint32_t barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier_arrive(barrier);
}

enum class Side { kQueries, kKeys };  // whose rows a tile's own are

// Copies rows that an index list names into a tile, with few registers: a thread has the same chunk of every row it
// copies, and the rows differ by a multiple of eight, so that one address in shared memory and constants will do.
template <int kCopied, int kD, int kTileRows = kCopied>
class Rows {
 public:
  static constexpr int kChunks = kD / 8, kAtOnce = kGroup / kChunks, kEach = kCopied / kAtOnce;
  static_assert(kAtOnce % 8 == 0 && kEach * kAtOnce == kCopied);

  // Which tokens the rows from `begin` on are; rows from `end` on become zeros.
  __device__ void look_up(const int* index, int begin, int end) {
    const int first = begin + static_cast<int>(threadIdx.x) / kChunks;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int row = first + i * kAtOnce;
      token_[i] = row < end ? index[row] : -1;
    }
  }
  // head: the head's first element of this thread's chunk.
  __device__ void start(uint32_t tile, const char* head, uint32_t stride_bytes, bool inside) const {
    const uint32_t to = Tile<kTileRows, kD>::at(tile, threadIdx.x / kChunks, threadIdx.x % kChunks);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const bool valid = inside && token_[i] >= 0;
      const char* from = head + (valid ? static_cast<uint64_t>(static_cast<uint32_t>(token_[i])) * stride_bytes : 0);
      copy_async<16>(to + i * kAtOnce * 128, from, valid);
    }
  }

 private:
  int token_[kEach];
};

// What warpgroup 0 does. first and second are the other side's two operands: k and v, or q and dout.
template <class S, Side kSide, bool kStatistics>
__device__ inline void gather(const Problem& p, const Memory<S>& memory, const HeadRows& own0, const HeadRows& own1,
                              const HeadRows& first, const HeadRows& second) {
  constexpr bool kQueries = kSide == Side::kQueries;
  Ring<S::kSlots> slots;
  Ring<S::kStages> ring;
  Ring<2> entries;
  const int chunk = static_cast<int>(threadIdx.x) % (S::kD / 8) * 8;
  const bool inside = chunk < p.D;
  // Thread 0 asks for a ticket two tiles ahead and has the entry copied one tile ahead, so that nobody waits for
  // either.
  int ticket = threadIdx.x == 0 ? atomicAdd(p.ticket, 1) : 0;
  const auto look_ahead = [&](int to) {
    if (threadIdx.x != 0) return;
    const uint32_t entry = memory.entry(to);
    if (ticket < p.tile_count[kQueries ? 0 : 1]) {
      copy_async<16>(entry, p.tiles + 2 * ticket, true);
      copy_async<16>(entry + 16, p.tiles + 2 * ticket + 1, true);
    } else {
      asm volatile("st.shared.b32 [%0], %1;" ::"r"(entry), "r"(-1) : "memory");
    }
    barrier_arrive_copied(memory.entry_full() + 8 * to);
    ticket = atomicAdd(p.ticket, 1);
  };
  look_ahead(0);
  for (;; entries.next()) {
    sync_threads(1, kGroup);  // all have read the entry before the last one
    barrier_wait(entries.barrier(memory.entry_full()), entries.parity());
    const uint4 tile_words = load_chunk(memory.entry(entries.stage)),
                where_words = load_chunk(memory.entry(entries.stage) + 16);
    const int4 tile = reinterpret_cast<const int4&>(tile_words), where = reinterpret_cast<const int4&>(where_words);
    barrier_wait(slots.barrier(memory.tile_empty()), slots.parity() ^ 1);
    Slot& slot = memory.slot(slots.stage);
    const uint32_t tile_full = slots.barrier(memory.tile_full());
    if (tile.x < 0) {
      if (threadIdx.x == 0) {
        slot.head = -1;
        barrier_arrive(tile_full);
      }
      barrier_arrive(tile_full);
      break;
    }
    const int* other_index = (kQueries ? p.k_index : p.q_index) + where.y;
    const int* bounds = (kQueries ? p.k_limit : p.q_first) + where.x;
    const int begin = where.z / S::kStep * S::kStep, end = where.w;
    const float2* statistics = p.statistics + where.y;  // of the other side, where that is queries
    const auto head_of = [&](const HeadRows& rows) {
      return reinterpret_cast<const char*>(rows.data + tile.x / p.H * rows.batch + tile.x % p.H * rows.head + chunk);
    };
    const auto stride_of = [](const HeadRows& rows) { return static_cast<uint32_t>(rows.token) * 2; };
    // Of the next steps: two where there are registers for it.
    constexpr int kAhead = Rows<S::kStep, S::kD>::kEach <= 8 ? 2 : 1;
    Rows<S::kStep, S::kD> even, odd;
    even.look_up(other_index, begin, end);
    if (kAhead == 2) odd.look_up(other_index, begin + S::kStep, end);
    {
      const int* own_index = (kQueries ? p.q_index : p.k_index) + where.x;
      constexpr int kPart = S::kD == 64 ? kRows : kRows / 2;  // as many as there are registers for
#pragma unroll 1
      for (int part = 0; part < kRows; part += kPart) {
        Rows<kPart, S::kD, kRows> own;
        own.look_up(own_index, part, tile.w);
        own.start(memory.own(slots.stage, 0) + part * 128, head_of(own0), stride_of(own0), inside);
        if (S::kOwn == 2) own.start(memory.own(slots.stage, 1) + part * 128, head_of(own1), stride_of(own1), inside);
      }
      const int row = threadIdx.x;
      const bool valid = row < tile.w;
      copy_async<4>(shared_address(&slot.tokens[row]), own_index + (valid ? row : 0), valid);
      copy_async<4>(shared_address(&slot.bounds[row]), bounds + (valid ? row : 0), valid);
      if (kStatistics && kQueries)
        copy_async<8>(shared_address(&slot.statistics[row]), p.statistics + where.x + (valid ? row : 0), valid);
    }
    barrier_arrive_copied(tile_full);
    if (threadIdx.x == 0) {
      slot.head = tile.x, slot.rows = tile.w, slot.begin = begin, slot.end = end;
      barrier_arrive(tile_full);
    }
    look_ahead(entries.stage ^ 1);
    const char *first_head = head_of(first), *second_head = head_of(second);
    const auto copy = [&](int at, Rows<S::kStep, S::kD>& rows) {
      barrier_wait(ring.barrier(memory.first_empty()), ring.parity() ^ 1);
      rows.start(memory.other(ring.stage, 0), first_head, stride_of(first), inside);
      if (kStatistics && !kQueries && threadIdx.x < S::kStep) {
        const int query = at + static_cast<int>(threadIdx.x);
        copy_async<8>(memory.statistics(ring.stage) + threadIdx.x * 8, statistics + min(query, end - 1), query < end);
      }
      barrier_arrive_copied(ring.barrier(memory.first_full()));
      barrier_wait(ring.barrier(memory.second_empty()), ring.parity() ^ 1);
      rows.start(memory.other(ring.stage, 1), second_head, stride_of(second), inside);
      barrier_arrive_copied(ring.barrier(memory.second_full()));
      rows.look_up(other_index, at + kAhead * S::kStep, end);
      ring.next();
    };
#pragma unroll 1
    for (int at = begin; at < end; at += kAhead * S::kStep) {
      copy(at, even);
      if (kAhead == 2 && at + S::kStep < end) copy(at + S::kStep, odd);
    }
    slots.next();
  }
  wait_copies<0>();
}

// Steps [begin, end) that only the other computing warpgroup needs.
template <class S>
__device__ inline void skip_steps(const Memory<S>& memory, Ring<S::kStages>& keys, Ring<S::kStages>& values, int begin,
                                  int end) {
  for (int step = begin; step < end; ++step) {
    barrier_wait(keys.barrier(memory.first_full()), keys.parity());
    release(keys.barrier(memory.first_empty()));
    keys.next();
    barrier_wait(values.barrier(memory.second_full()), values.parity());
    release(values.barrier(memory.second_empty()));
    values.next();
  }
}

// A warp's 16 rows of an accumulator, times factor, as bf16 to the tokens of the slot, through the warp's own rows of a
// tile that nobody reads any more.
template <int kD>
__device__ inline void scatter(const float (&acc)[kD / 2], const float (&factor)[2], uint32_t tile, int first,
                               const HeadRows& to, const Problem& p, const Slot& slot) {
  using T = Tile<kRows, kD>;
  const int lane = threadIdx.x % 32;
  const uint32_t corner = T::at(tile, first + lane % 16, lane / 16);
#pragma unroll
  for (int k = 0; k < kD / 16; ++k) {
    uint32_t packed[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      packed[i] = pack_bf16(acc[8 * k + 2 * i] * factor[i % 2], acc[8 * k + 2 * i + 1] * factor[i % 2]);
    store_matrices(T::step(corner, 0, 2 * k), packed);
  }
  __syncwarp();
  constexpr int kRowsAtOnce = 32 / T::kChunks;
  const int chunk = lane % T::kChunks, rows = slot.rows;
  __nv_bfloat16* head = to.data + slot.head / p.H * to.batch + slot.head % p.H * to.head + chunk * 8;
#pragma unroll 4
  for (int i = 0; i < 16 / kRowsAtOnce; ++i) {
    const int row = first + i * kRowsAtOnce + lane / T::kChunks;
    if (row >= rows || chunk * 8 >= p.D) continue;
    *reinterpret_cast<uint4*>(head + slot.tokens[row] * to.token) = load_chunk(T::at(tile, row, chunk));
  }
}

// ---- forward --------------------------------------------------------------------------------------------------------

// Online softmax of a step: s becomes probabilities relative to the highest score so far, shrink what sums and results
// before are to be multiplied by.
template <bool kMasked, int kStep>
__device__ inline void softmax_step(float (&s)[kStep / 2], float (&top)[2], float (&sum)[2], float (&shrink)[2],
                                    const int (&limit)[2], int begin, float scale_log2) {
  const int column = begin + 2 * (threadIdx.x % 4);
  float base[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float highest[4] = {top[half], -INFINITY, -INFINITY, -INFINITY};  // several, so that none waits for the last
#pragma unroll
    for (int j = 0; j < kStep / 8; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& x = s[4 * j + 2 * half + i];
        if (kMasked && column + 8 * j + i >= limit[half]) x = -INFINITY;
        highest[2 * (j % 2) + i] = fmaxf(highest[2 * (j % 2) + i], x);
      }
    const float most = quad_max(fmaxf(fmaxf(highest[0], highest[1]), fmaxf(highest[2], highest[3])));
    base[half] = kMasked && most == -INFINITY ? 0.0f : most * scale_log2;
    shrink[half] = exp2_fast(top[half] * scale_log2 - base[half]);
    top[half] = most;
  }
  float total[2][2] = {};
#pragma unroll
  for (int j = 0; j < kStep / 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float& x = s[4 * j + i];
      x = exp2_fast(x * scale_log2 - base[i / 2]);
      total[i / 2][i % 2] += x;
    }
#pragma unroll
  for (int half = 0; half < 2; ++half) sum[half] = sum[half] * shrink[half] + (total[half][0] + total[half][1]);
}

template <class S>
__device__ inline void compute_forward(const Problem& p, const Memory<S>& memory) {
  constexpr int kD = S::kD, kStep = S::kStep;
  const int group = uniform(threadIdx.x / kGroup) - 1, lane = threadIdx.x % 32;
  const int warp = uniform(threadIdx.x / 32) % 4;
  const int group_first = 64 * group, warp_first = group_first + 16 * warp, row = warp_first + lane / 4;
  Ring<S::kSlots> slots;
  Ring<S::kStages> keys, values;
  while (true) {
    barrier_wait(slots.barrier(memory.tile_full()), slots.parity());
    fence_for_products();
    const Slot& slot = memory.slot(slots.stage);
    if (uniform(slot.head) < 0) break;
    const int limit[2] = {slot.bounds[row], slot.bounds[row + 8]};
    const int all_steps = (uniform(slot.end) + kStep - 1) / kStep, rows = uniform(slot.rows);
    const int least = uniform(slot.bounds[group_first]);
    const int most = uniform(group_first < rows ? slot.bounds[min(group_first + 63, rows - 1)] : 0);
    const int steps = (most + kStep - 1) / kStep;
    const uint32_t queries = memory.own(slots.stage, 0);
    float top[2] = {-INFINITY, -INFINITY}, sum[2] = {}, shrink[2], out[kD / 2] = {};
    uint32_t probabilities[kStep / 16][4] = {};
    const auto softmax = [&](float(&s)[kStep / 2], int step) {
      if ((step + 1) * kStep > least)
        softmax_step<true, kStep>(s, top, sum, shrink, limit, step * kStep, p.scale_log2);
      else
        softmax_step<false, kStep>(s, top, sum, shrink, limit, step * kStep, p.scale_log2);
    };
    // What the next product of results adds.
    const auto prepare = [&](const float(&s)[kStep / 2]) {
#pragma unroll
      for (int j = 0; j < kD / 8; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) out[4 * j + i] *= shrink[i / 2];
#pragma unroll
      for (int k = 0; k < kStep / 16; ++k) operand_of(probabilities[k], s, k);
    };
    if constexpr (kD == 64) {
      const auto wait_values = [&] { barrier_wait(values.barrier(memory.second_full()), values.parity()); };
      const auto release_values = [&] {
        release(values.barrier(memory.second_empty()));
        values.next();
      };
      // Two steps a turn. The second's scores, and the results of the turn before, run under the first's exponentials,
      // the first's results under the second's. Where there is nothing to multiply, the queries stand in for it: zero
      // probabilities times them in the first turn, scores that nobody reads after an odd last step.
#pragma unroll 1
      for (int step = 0; step < steps; step += 2) {
        const bool two = step + 1 < steps;
        const uint32_t first_keys = memory.other(keys.stage, 0);
        const uint32_t first_empty = keys.barrier(memory.first_empty());
        barrier_wait(keys.barrier(memory.first_full()), keys.parity());
        keys.next();
        if (two) barrier_wait(keys.barrier(memory.first_full()), keys.parity());
        if (step > 0) wait_values();
        fence_for_products();
        float even[kStep / 2], odd[kStep / 2];
        pin(even);
        pin(odd);
        pin(out);
        pin(probabilities);
        warpgroup_arrive();
        start_rows<kStep, kRows, kStep, kD>(even, queries, group_first, first_keys);
        warpgroup_commit();
        start_scores<kStep, kStep, kD>(out, probabilities, step > 0 ? memory.other(values.stage, 1) : queries, true);
        warpgroup_commit();
        start_rows<kStep, kRows, kStep, kD>(odd, queries, group_first, two ? memory.other(keys.stage, 0) : queries);
        warpgroup_commit();
        warpgroup_wait<2>();
        pin(even);
        release(first_empty);
        softmax(even, step);
        warpgroup_wait<0>();
        pin(odd);
        pin(out);
        pin(probabilities);
        if (step > 0) release_values();
        prepare(even);
        if (!two) break;
        release(keys.barrier(memory.first_empty()));
        keys.next();
        wait_values();
        fence_for_products();
        pin(out);
        pin(probabilities);
        warpgroup_arrive();
        start_scores<kStep, kStep, kD>(out, probabilities, memory.other(values.stage, 1), true);
        warpgroup_commit();
        softmax(odd, step + 1);
        warpgroup_wait<0>();
        pin(out);
        pin(probabilities);
        release_values();
        prepare(odd);
      }
      if (steps > 0) {
        wait_values();
        fence_for_products();
        pin(out);
        pin(probabilities);
        warpgroup_arrive();
        start_scores<kStep, kStep, kD>(out, probabilities, memory.other(values.stage, 1), true);
        warpgroup_commit();
        warpgroup_wait<0>();
        pin(out);
        release_values();
      }
    } else {  // registers for one step's scores only
      if (steps > 0) {
        barrier_wait(keys.barrier(memory.first_full()), keys.parity());
        fence_for_products();
        float s[kStep / 2];
        pin(s);
        warpgroup_arrive();
        start_rows<kStep, kRows, kStep, kD>(s, queries, group_first, memory.other(keys.stage, 0));
        warpgroup_commit();
        warpgroup_wait<0>();
        pin(s);
        release(keys.barrier(memory.first_empty()));
        keys.next();
        softmax(s, 0);
        prepare(s);
      }
#pragma unroll 1
      for (int step = 1; step < steps; ++step) {
        // Scores of this step beside the results of the last one, whose products run under this step's exponentials.
        barrier_wait(keys.barrier(memory.first_full()), keys.parity());
        fence_for_products();
        float s[kStep / 2];
        pin(s);
        warpgroup_arrive();
        start_rows<kStep, kRows, kStep, kD>(s, queries, group_first, memory.other(keys.stage, 0));
        warpgroup_commit();
        barrier_wait(values.barrier(memory.second_full()), values.parity());
        fence_for_products();
        pin(out);
        pin(probabilities);
        warpgroup_arrive();
        start_scores<kStep, kStep, kD>(out, probabilities, memory.other(values.stage, 1), true);
        warpgroup_commit();
        warpgroup_wait<1>();
        pin(s);
        release(keys.barrier(memory.first_empty()));
        keys.next();
        softmax(s, step);
        warpgroup_wait<0>();
        pin(out);
        pin(probabilities);
        release(values.barrier(memory.second_empty()));
        values.next();
        prepare(s);
      }
      if (steps > 0) {
        barrier_wait(values.barrier(memory.second_full()), values.parity());
        fence_for_products();
        pin(out);
        pin(probabilities);
        warpgroup_arrive();
        start_scores<kStep, kStep, kD>(out, probabilities, memory.other(values.stage, 1), true);
        warpgroup_commit();
        warpgroup_wait<0>();
        pin(out);
        release(values.barrier(memory.second_empty()));
        values.next();
      }
    }
    skip_steps(memory, keys, values, steps, all_steps);
    sync_threads(2 + group, kGroup);  // no warp of the group reads its queries any more
    float inverse[2];
    float* lse = p.lse + static_cast<int64_t>(slot.head) * p.T;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float total = quad_sum(sum[half]);
      inverse[half] = total > 0.0f ? 1.0f / total : 0.0f;
      if (lane % 4 == 0 && row + 8 * half < rows)
        lse[slot.tokens[row + 8 * half]] = total > 0.0f ? top[half] * p.scale_log2 + log2f(total) : INFINITY;
    }
    scatter<kD>(out, inverse, queries, warp_first, p.out, p, slot);
    release(slots.barrier(memory.tile_empty()));
    slots.next();
  }
}

// Tuned for segments of 512 rows and more.
template <class S>
__global__ void __launch_bounds__(kThreads, 1) forward_kernel(const __grid_constant__ Problem p) {
#ifdef SCFA_SM90A
  const Memory<S> memory;
  memory.make_barriers();
  if (uniform(threadIdx.x / kGroup) == 0) {
    give_registers_back<S::kGatherRegisters>();
    gather<S, Side::kQueries, false>(p, memory, p.q, p.q, p.k, p.v);
  } else {
    take_registers<S::kComputeRegisters>();
    compute_forward(p, memory);
  }
#endif
}

// ---- backward -------------------------------------------------------------------------------------------------------

// dq: as forward, with probabilities from lse, and their gradients from dout and v.
template <class S>
__device__ inline void compute_backward_queries(const Problem& p, const Memory<S>& memory) {
  constexpr int kD = S::kD, kStep = S::kStep;
  const int group = uniform(threadIdx.x / kGroup) - 1, lane = threadIdx.x % 32;
  const int warp = uniform(threadIdx.x / 32) % 4;
  const int group_first = 64 * group, warp_first = group_first + 16 * warp, row = warp_first + lane / 4;
  Ring<S::kSlots> slots;
  Ring<S::kStages> keys, values;
  while (true) {
    barrier_wait(slots.barrier(memory.tile_full()), slots.parity());
    fence_for_products();
    const Slot& slot = memory.slot(slots.stage);
    if (uniform(slot.head) < 0) break;
    const int limit[2] = {slot.bounds[row], slot.bounds[row + 8]};
    const int all_steps = (uniform(slot.end) + kStep - 1) / kStep, rows = uniform(slot.rows);
    const int least = uniform(slot.bounds[group_first]);
    const int most = uniform(group_first < rows ? slot.bounds[min(group_first + 63, rows - 1)] : 0);
    const int steps = (most + kStep - 1) / kStep;
    const float2 statistics[2] = {slot.statistics[row], slot.statistics[row + 8]};  // lse, delta
    const uint32_t queries = memory.own(slots.stage, 0), douts = memory.own(slots.stage, 1);
    float dq[kD / 2] = {};
    uint32_t gradients[kStep / 16][4];
    Ring<S::kStages> done = keys;  // the stage whose keys the last product of dq reads
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      barrier_wait(keys.barrier(memory.first_full()), keys.parity());
      barrier_wait(values.barrier(memory.second_full()), values.parity());
      float s[kStep / 2], ds[kStep / 2];
      fence_for_products();
      pin(s);
      pin(ds);
      warpgroup_arrive();
      start_rows<kStep, kRows, kStep, kD>(s, queries, group_first, memory.other(keys.stage, 0));
      warpgroup_commit();
      start_rows<kStep, kRows, kStep, kD>(ds, douts, group_first, memory.other(values.stage, 1));
      warpgroup_commit();
      warpgroup_wait<1>();
      pin(s);
      if (step > 0) {  // the product of dq that was started a step ago is done too
        pin(dq);
        pin(gradients);
        release(done.barrier(memory.first_empty()));
        done.next();
      }
      const int begin = step * kStep, column = begin + 2 * (lane % 4);
      const bool masked = begin + kStep > least;
#pragma unroll
      for (int j = 0; j < kStep / 8; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) s[4 * j + i] = exp2_fast(s[4 * j + i] * p.scale_log2 - statistics[i / 2].x);
      if (masked) {
#pragma unroll
        for (int j = 0; j < kStep / 8; ++j)
#pragma unroll
          for (int i = 0; i < 4; ++i)
            if (column + 8 * j + i % 2 >= limit[i / 2]) s[4 * j + i] = 0.0f;
      }
      warpgroup_wait<0>();
      pin(ds);
      release(values.barrier(memory.second_empty()));
      values.next();
#pragma unroll
      for (int j = 0; j < kStep / 8; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) ds[4 * j + i] = s[4 * j + i] * (ds[4 * j + i] - statistics[i / 2].y);
#pragma unroll
      for (int k = 0; k < kStep / 16; ++k) operand_of(gradients[k], ds, k);
      pin(dq);
      pin(gradients);
      warpgroup_arrive();
      start_scores<kStep, kStep, kD>(dq, gradients, memory.other(keys.stage, 0), true);
      warpgroup_commit();
      keys.next();
    }
    warpgroup_wait<0>();
    pin(dq);
    pin(gradients);
    if (steps > 0) release(done.barrier(memory.first_empty()));
    skip_steps(memory, keys, values, steps, all_steps);
    sync_threads(2 + group, kGroup);
    const float factor[2] = {p.scale, p.scale};
    scatter<kD>(dq, factor, queries, warp_first, p.dq, p, slot);
    release(slots.barrier(memory.tile_empty()));
    slots.next();
  }
}

template <class S>
__global__ void __launch_bounds__(kThreads, 1) backward_queries_kernel(const __grid_constant__ Problem p) {
#ifdef SCFA_SM90A
  const Memory<S> memory;
  memory.make_barriers();
  if (uniform(threadIdx.x / kGroup) == 0) {
    give_registers_back<S::kGatherRegisters>();
    gather<S, Side::kQueries, true>(p, memory, p.q, p.dout, p.k, p.v);
  } else {
    take_registers<S::kComputeRegisters>();
    compute_backward_queries(p, memory);
  }
#endif
}

// dk and dv: scores are transposed, keys by queries, so that probabilities become an operand without leaving their
// registers; this step's scores run beside the last one's gradients. Queries past the end are zeros with statistics of
// zero: they add nothing. For D <= 64: wider accumulators do not fit.
template <class S>
__device__ inline void compute_backward_keys(const Problem& p, const Memory<S>& memory) {
  constexpr int kD = S::kD, kStep = S::kStep;
  const int group = uniform(threadIdx.x / kGroup) - 1, lane = threadIdx.x % 32;
  const int warp = uniform(threadIdx.x / 32) % 4;
  const int group_first = 64 * group, warp_first = group_first + 16 * warp, row = warp_first + lane / 4;
  Ring<S::kSlots> slots;
  Ring<S::kStages> ring;
  while (true) {
    barrier_wait(slots.barrier(memory.tile_full()), slots.parity());
    fence_for_products();
    const Slot& slot = memory.slot(slots.stage);
    if (uniform(slot.head) < 0) break;
    const int first_query[2] = {slot.bounds[row], slot.bounds[row + 8]};
    const int rows = uniform(slot.rows), end = uniform(slot.end);
    const int least = uniform(group_first < rows ? slot.bounds[group_first] : end);
    const int most = uniform(slot.bounds[min(group_first + 63, rows - 1)]);
    const uint32_t keys = memory.own(slots.stage, 0), values = memory.own(slots.stage, 1);
    float dk[kD / 2] = {}, dv[kD / 2] = {};
    uint32_t operand[kStep / 16][4], gradients[kStep / 16][4];
    bool pending = false;  // whether the products of the last step still read its stage
    Ring<S::kStages> done = ring;
#pragma unroll 1
    for (int begin = uniform(slot.begin); begin < end; begin += kStep, ring.next()) {
      barrier_wait(ring.barrier(memory.first_full()), ring.parity());
      barrier_wait(ring.barrier(memory.second_full()), ring.parity());
      if (begin + kStep <= least) {  // no query of the step sees a key of the group: only before the first that does
        release(ring.barrier(memory.first_empty()));
        release(ring.barrier(memory.second_empty()));
        done.next();
        continue;
      }
      float s[kStep / 2], ds[kStep / 2];  // fresh every step: nothing of the last one is kept alive
      fence_for_products();
      pin(s);
      pin(ds);
      warpgroup_arrive();
      start_rows<kStep, kRows, kStep, kD>(s, keys, group_first, memory.other(ring.stage, 0));
      warpgroup_commit();
      start_rows<kStep, kRows, kStep, kD>(ds, values, group_first, memory.other(ring.stage, 1));
      warpgroup_commit();
      warpgroup_wait<1>();
      pin(s);
      if (pending) {
        pin(dk);
        pin(dv);
        pin(operand);
        pin(gradients);
        release(done.barrier(memory.first_empty()));
        release(done.barrier(memory.second_empty()));
        done.next();
      }
      const uint32_t statistics = memory.statistics(ring.stage) + lane % 4 * 16;  // lse, delta of two queries
      const int column = begin + 2 * (lane % 4);
      const bool masked = begin < most;
#pragma unroll
      for (int j = 0; j < kStep / 8; ++j) {
        const uint4 two = load_chunk(statistics + 64 * j);
        const float lse[2] = {__uint_as_float(two.x), __uint_as_float(two.z)};
#pragma unroll
        for (int i = 0; i < 4; ++i) s[4 * j + i] = exp2_fast(s[4 * j + i] * p.scale_log2 - lse[i % 2]);
      }
      if (masked) {
#pragma unroll
        for (int j = 0; j < kStep / 8; ++j)
#pragma unroll
          for (int i = 0; i < 4; ++i)
            if (column + 8 * j + i % 2 < first_query[i / 2]) s[4 * j + i] = 0.0f;
      }
#pragma unroll
      for (int k = 0; k < kStep / 16; ++k) operand_of(operand[k], s, k);
      warpgroup_wait<0>();
      pin(ds);
      pin(dv);
      pin(operand);
      warpgroup_arrive();
      start_scores<kStep, kStep, kD>(dv, operand, memory.other(ring.stage, 1), true);
      warpgroup_commit();
#pragma unroll
      for (int j = 0; j < kStep / 8; ++j) {
        const uint4 two = load_chunk(statistics + 64 * j);
        const float delta[2] = {__uint_as_float(two.y), __uint_as_float(two.w)};
#pragma unroll
        for (int i = 0; i < 4; ++i) ds[4 * j + i] = s[4 * j + i] * (ds[4 * j + i] - delta[i % 2]);
      }
#pragma unroll
      for (int k = 0; k < kStep / 16; ++k) operand_of(gradients[k], ds, k);
      pin(dk);
      pin(gradients);
      warpgroup_arrive();
      start_scores<kStep, kStep, kD>(dk, gradients, memory.other(ring.stage, 0), true);
      warpgroup_commit();
      pending = true;
    }
    warpgroup_wait<0>();
    pin(dk);
    pin(dv);
    pin(operand);
    pin(gradients);
    if (pending) {
      release(done.barrier(memory.first_empty()));
      release(done.barrier(memory.second_empty()));
    }
    sync_threads(2 + group, kGroup);
    const float scale[2] = {p.scale, p.scale}, one[2] = {1.0f, 1.0f};
    scatter<kD>(dk, scale, keys, warp_first, p.dk, p, slot);
    scatter<kD>(dv, one, values, warp_first, p.dv, p, slot);
    release(slots.barrier(memory.tile_empty()));
    slots.next();
  }
}

template <class S>
__global__ void __launch_bounds__(kThreads, 1) backward_keys_kernel(const __grid_constant__ Problem p) {
#ifdef SCFA_SM90A
  const Memory<S> memory;
  memory.make_barriers();
  if (uniform(threadIdx.x / kGroup) == 0) {
    give_registers_back<S::kGatherRegisters>();
    gather<S, Side::kKeys, true>(p, memory, p.k, p.v, p.q, p.dout);
  } else {
    take_registers<S::kComputeRegisters>();
    compute_backward_keys(p, memory);
  }
#endif
}

// ---------------------------------------------------------------------------------------------------------------------

// A product of ones by one warpgroup: what it says is whether this build's code for sm_90a runs on this GPU.
__global__ void __launch_bounds__(kGroup) probe_kernel(float* result) {
#ifdef SCFA_SM90A
  __shared__ alignas(1024) __nv_bfloat16 ones[64 * 64];
  for (int i = threadIdx.x; i < 64 * 64; i += kGroup) ones[i] = __float2bfloat16_rn(1.0f);
  fence_for_products();
  __syncthreads();
  float d[32];
  pin(d);
  warpgroup_arrive();
  start_rows<64, 64, 64, 64>(d, shared_address(ones), 0, shared_address(ones));
  warpgroup_commit();
  warpgroup_wait<0>();
  pin(d);
  if (threadIdx.x == 0) *result = d[0];
#endif
}

template <class S>
void launch(Context& ctx, const char* op, void (*kernel)(Problem), const Tensor& tiles, const Problem& p) {
  const cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes);
  if (status != cudaSuccess) fail(op, ": ", cudaGetErrorString(status));
  const int64_t grid = std::min(tiles.size(0), int64_t{properties().multiprocessors});
  kernel<<<static_cast<unsigned>(grid), kThreads, S::kSharedBytes, ctx.stream()>>>(p);
  check_launch(op, ctx.stream());
}

}  // namespace

const Probe& probe() {
  static const Probe found = []() -> Probe {
    if (properties().compute != 90) return {false, properties().name + " is not a Hopper GPU"};
    Buffer result(sizeof(float), Device::kGpu);
    float value = 0;
    cudaMemset(result.data(), 0, sizeof(float));
    probe_kernel<<<1, kGroup>>>(static_cast<float*>(result.data()));
    const cudaError_t status = cudaMemcpy(&value, result.data(), sizeof(float), cudaMemcpyDeviceToHost);
    cudaGetLastError();
    if (status != cudaSuccess) return {false, concat("a trial failed: ", cudaGetErrorString(status))};
    if (value != 64.0f) return {false, "this build has no code for sm_90a"};
    return {true, properties().name + " runs code for sm_90a"};
  }();
  return found;
}

void forward(Context& ctx, const Problem& p, const Segments& s) {
  constexpr const char* kOp = "attention_forward";
  if (p.D <= 64)
    launch<Forward64>(ctx, kOp, forward_kernel<Forward64>, s.q_tiles, p);
  else
    launch<Forward128>(ctx, kOp, forward_kernel<Forward128>, s.q_tiles, p);
}

void backward_queries(Context& ctx, const Problem& p, const Segments& s) {
  constexpr const char* kOp = "attention_backward";
  if (p.D <= 64)
    launch<Queries64>(ctx, kOp, backward_queries_kernel<Queries64>, s.q_tiles, p);
  else
    launch<Queries128>(ctx, kOp, backward_queries_kernel<Queries128>, s.q_tiles, p);
}

bool backward_keys(Context& ctx, const Problem& p, const Segments& s) {
  if (p.D > 64) return false;
  launch<Keys64>(ctx, "attention_backward", backward_keys_kernel<Keys64>, s.k_tiles, p);
  return true;
}

}  // namespace scfa::gpu::sm90
