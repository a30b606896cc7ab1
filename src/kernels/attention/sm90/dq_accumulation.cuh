// Where dq is summed up over key tiles. Two policies of one interface, used by the dq warpgroup (key_tile_consumer.cuh)
// and by the epilogue of a key tile:
//
//   DqPrivate  the thread block takes the whole segment: a part of dq_accum is its own, and nobody waits
//   DqShared   several blocks share the segment: a ring of blocks of queries, in an order kept by semaphores
//
//   backwards()            whether this tile goes through its blocks of queries from the last to the first
//   poll(m_block)          reads the semaphore of a block of queries; wait() takes what it returned
//   wait(m_block, polled)  returns when this tile may add to the block
//   add(dq, m_block, column_half, is_first_side)
//                          adds 64 columns, column_half = 0 first. Where that completes the sum, DqShared writes dq.
//                          is_first_side: of a merge; the caller keeps it from the first half to the second
//   signal(m_block, m_block_max)
//                          says that this tile has added to the block, unless the producer says so (kDqSignalLag)
//   merge(...)             epilogue, where fuses_norm(): adds the gradient through the keys to dq of the tile's rows
//   write_dq(...)          epilogue, elsewhere: DqPrivate writes dq of a segment after its last tile
//
// A block of queries (m_block) is kQueryBlock queries, one step. Sums are f32 in the layout of a warpgroup's 64 x 64
// accumulator in registers: float4 number c of thread t is at [c * 128 + t]; the sums of columns 64 to 127 follow. So a
// word is only ever accessed by the same thread of a warpgroup, and neighbouring threads access neighbouring 16 bytes.
#pragma once
#include "kernels/attention/sm90/dq_semaphore.cuh"
#include "kernels/attention/sm90/epilogue.cuh"
#include "kernels/attention/sm90/shared_storage.cuh"

namespace scfa::gpu::sm90 {

// store: nothing is there yet. kEvictLast: with L2::evict_last.
template <bool kEvictLast>
__device__ inline void add_to_accum(float4* to, const float (&dq)[32], bool store) {
  uint64_t policy = 0;
  if (kEvictLast) asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
#pragma unroll
  for (int c = 0; c < 8; ++c) {
    float4* at = to + c * kWarpgroupSize;
    const float* x = &dq[4 * c];
    if (kEvictLast && store)
      asm volatile("st.global.L2::cache_hint.v4.f32 [%0], {%1, %2, %3, %4}, %5;" ::"l"(at), "f"(x[0]), "f"(x[1]),
                   "f"(x[2]), "f"(x[3]), "l"(policy)
                   : "memory");
    else if (kEvictLast)
      asm volatile("red.relaxed.gpu.global.add.L2::cache_hint.v4.f32 [%0], {%1, %2, %3, %4}, %5;" ::"l"(at), "f"(x[0]),
                   "f"(x[1]), "f"(x[2]), "f"(x[3]), "l"(policy)
                   : "memory");
    else if (store)
      asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(at), "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3])
                   : "memory");
    else
      asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(at), "f"(x[0]), "f"(x[1]),
                   "f"(x[2]), "f"(x[3])
                   : "memory");
  }
}
template <int kN>
__device__ inline void load_accum(float (&dq)[kN], const float4* from) {
#pragma unroll
  for (int c = 0; c < kN / 4; ++c)
    asm volatile("ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(dq[4 * c]), "=f"(dq[4 * c + 1]), "=f"(dq[4 * c + 2]), "=f"(dq[4 * c + 3])
                 : "l"(from + c * kWarpgroupSize)
                 : "memory");
}

// The same, or zeros where nothing has been added.
template <int kN>
__device__ inline void load_accum_if(float (&dq)[kN], bool any, const float4* from) {
  if (any) {
    load_accum(dq, from);
  } else {
#pragma unroll
    for (float& x : dq) x = 0.0f;
  }
}

// Where a consumer warp's rows of a key tile are.
struct WarpCoord {
  int warp_group, warp_group_first, warp, warp_first, row;  // rows of the tile; row: the thread's first
  __device__ WarpCoord() {
    warp_group = warp_uniform(threadIdx.x / kWarpgroupSize) - 1;
    warp = warp_uniform(threadIdx.x / 32) % 4;
    warp_group_first = 64 * warp_group, warp_first = warp_group_first + 16 * warp,
    row = warp_first + threadIdx.x % 32 / 4;
  }
};

// What the epilogue of a key tile needs besides its registers. keys, values, inverse_norm: shared memory addresses. The
// epilogue stages its results in the tile of the values.
struct KeyTileEpilogue {
  uint32_t keys, values, inverse_norm;
  int head, num_rows, m_block_max;
  __device__ float norm(int row) const { return __int_as_float(load_int(inverse_norm + 4 * row)); }
};

// ---- a block alone --------------------------------------------------------------------------------------------------

template <class Storage>
struct DqPrivate {
  using Traits = typename Storage::Traits;
  static constexpr int kD = Traits::kD;
  const AttentionParams& p;
  const Storage& storage;
  WorkTileInfoView<Traits> info;
  WarpCoord coord;

  __device__ float4* accum(int m_block, int column_half) const {
    const int thread = opaque(threadIdx.x % kWarpgroupSize),
              accum_block = opaque(static_cast<int>(blockIdx.x)) * p.dq_accum_blocks + m_block;
    return reinterpret_cast<float4*>(p.dq_accum + accum_block * int64_t{64 * kD}) + column_half * 8 * kWarpgroupSize +
           thread;
  }
  __device__ bool backwards() const { return warp_uniform(info.n_block()) % 2 != 0; }
  __device__ unsigned poll(int) const { return 0; }
  __device__ void wait(int, unsigned) const {}
  __device__ void add(const float (&dq)[32], int m_block, int column_half, bool&) const {
    const bool store = Traits::kIsLocal ? m_block * kQueryBlock >= warp_uniform(info.previous_end())
                                        : warp_uniform(info.n_block()) == 0;
    add_to_accum<true>(accum(m_block, column_half), dq, store);
  }
  __device__ void signal(int, int) const {}

  // dq of the tile's rows is complete: keys of later tiles come after these queries. It is loaded ahead, where there
  // are registers for it.
  __device__ void merge(float (&dk)[kD / 2], const float (&dv)[kD / 2], const KeyTileEpilogue& e) const {
    using T = typename Traits::OuterTile;
    const float one[2] = {1.0f, 1.0f};
    const int m_block = warp_uniform(info.n_block()) * Traits::kConsumerWarpgroups + coord.warp_group;
    const auto token = [&](int row) { return info.token(row); };
    float dq[kD / 2];
    if (kD == 64) load_accum_if(dq, m_block < e.m_block_max, accum(m_block, 0));
    scatter<T>(dv, one, e.values, coord.warp_first, e.num_rows, p.dv.head(e.head, p.H), p.D, token);
    if (kD > 64) load_accum_if(dq, m_block < e.m_block_max, accum(m_block, 0));
    const float inverse_norm[2] = {e.norm(coord.row), e.norm(coord.row + 8)};
    l2_normalise_backward<T>(dk, e.keys, coord.row, inverse_norm, p.scale);
#pragma unroll
    for (int i = 0; i < kD / 2; ++i) dk[i] += dq[i] * p.scale;
    scatter<T>(dk, one, e.values, coord.warp_first, e.num_rows, p.dq.head(e.head, p.H), p.D, token);
  }

  __device__ void write_dq(const KeyTileEpilogue& e) const {
    if (warp_uniform(info.is_last()) == 0) return;
    const float scale[2] = {p.scale, p.scale};
    const int* index = p.q_index + warp_uniform(info.query_offset());
    const int first_seen = warp_uniform(info.first_seen()), end = warp_uniform(info.end());
    for (int query = coord.warp_group * kQueryBlock; query < end; query += Traits::kConsumerWarpgroups * kQueryBlock) {
      float dq[kD / 2];
      load_accum_if(dq, query >= first_seen, accum(query / kQueryBlock, 0));
      scatter<typename Traits::OuterTile>(
          dq, scale, e.values, coord.warp_first, coord.warp_group_first + end - query, p.dq.head(e.head, p.H), p.D,
          [&](int row) { return index[query + row - coord.warp_group_first]; },
          std::conditional_t<Traits::kAccumulate, Accumulate<>, Overwrite>());
    }
  }
};

// ---- blocks that share ----------------------------------------------------------------------------------------------

template <class Storage>
struct DqShared {
  using Traits = typename Storage::Traits;
  static constexpr int kD = Traits::kD;
  const AttentionParams& p;
  const Storage& storage;
  WorkTileInfoView<Traits> info;
  WarpCoord coord;

  // When this key tile adds to a block of queries.
  struct DqTurn {
    RingBlock block;
    int n_block;
    bool adds_first;  // the tile with the highest number that these queries see: stores, does not add
    bool completes;   // the one with the lowest number: finishes the sum and writes dq
  };
  __device__ DqTurn turn_of(int m_block) const {
    const auto order = info.dq_order();
    return {RingBlock(p, order.ring_position, order.ring_round, m_block), order.n_block,
            m_block * kQueryBlock < order.next_begin,
            Traits::kIsLocal ? m_block * kQueryBlock >= info.previous_end() : order.n_block == 0};
  }
  __device__ bool backwards() const { return false; }
  __device__ unsigned poll(int m_block) const {
    return load_relaxed(turn_of(m_block).block.dq_semaphore(p, coord.warp));
  }
  // By relaxed loads: see dq_semaphore.cuh.
  __device__ void wait(int m_block, unsigned polled) const {
    const DqTurn turn = turn_of(m_block);
    for (const Spin spin(SpinSite::kDqSemaphore, static_cast<uint32_t>(turn.block.position));
         polled != turn.block.awaited_value(turn.n_block, turn.adds_first); spin.again())
      polled = load_relaxed(turn.block.dq_semaphore(p, coord.warp));
    __syncwarp();
  }
  __device__ void signal(int m_block, int m_block_max) const {
    if (m_block < m_block_max - Traits::kDqSignalLag) return;  // the producer signals
    const DqTurn turn = turn_of(m_block);
    __syncwarp();
    if (threadIdx.x % 32 == 0) turn.block.signal(p, turn.n_block, turn.completes, coord.warp, storage.fuses_norm());
  }
  __device__ void add(float (&dq)[32], int m_block, int column_half, bool& is_first_side) const {
    const DqTurn turn = turn_of(m_block);
    float4* accum = turn.block.accum(p, kD) + column_half * 8 * kWarpgroupSize;
    if (!turn.completes) {
      add_to_accum<false>(accum, dq, turn.adds_first);
      return;
    }
    const bool begins_merge = column_half == 0 && storage.fuses_norm();
    const unsigned observed = begins_merge ? turn.block.try_acquire_merge(p, coord.warp) : 0;
    if (!turn.adds_first) {
#pragma unroll
      for (int batch = 0; batch < 2; ++batch) {
        float others[16];
        load_accum(others, accum + batch * 4 * kWarpgroupSize);
#pragma unroll
        for (int i = 0; i < 16; ++i) dq[16 * batch + i] += others[i];
      }
    }
    if (column_half == 0) is_first_side = !begins_merge || turn.block.wait_for_merge_turn(p, coord.warp, observed);
    write(dq, m_block, column_half, is_first_side);
    if (column_half + 1 == kD / 64 && storage.fuses_norm()) turn.block.release_merge(p, coord.warp, is_first_side);
  }
  // Writes complete sums as dq, or adds them to what the key side of a merge or another relation has written.
  __device__ void write(const float (&dq)[32], int m_block, int column_half, bool is_first_side) const {
    uint4 piece[2][2];
    accumulator_to_chunks(piece, dq, p.scale);
    const int lane = opaque(threadIdx.x % 32), first = 16 * coord.warp + lane / 4;
    const int last = (Traits::kIsLocal ? info.num_queries() : info.end()) - 1 - m_block * kQueryBlock;
    const int* index = p.q_index + info.query_offset() + m_block * kQueryBlock;
    const int head = info.head();
    __nv_bfloat16* data = p.dq.head(head, p.H).data + 64 * column_half + lane % 4 * 8;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (first + 8 * i > last) continue;
      __nv_bfloat16* row = data + index[first + 8 * i] * p.dq.row_stride;
      const bool inside[2] = {64 * column_half + lane % 4 * 8 < p.D, 64 * column_half + 32 + lane % 4 * 8 < p.D};
      if (Traits::kAccumulate || !is_first_side) {
        const uint4 none = make_uint4(0, 0, 0, 0);
        const uint4 there[2] = {inside[0] ? load_coherent(row) : none, inside[1] ? load_coherent(row + 32) : none};
        piece[i][0] = add_bf16(piece[i][0], there[0]), piece[i][1] = add_bf16(piece[i][1], there[1]);
      }
      if (inside[0]) store_global(row, piece[i][0]);
      if (inside[1]) store_global(row + 32, piece[i][1]);
    }
  }

  // The key side of a merge.
  __device__ void merge(float (&dk)[kD / 2], const float (&dv)[kD / 2], const KeyTileEpilogue& e) const {
    using T = typename Traits::OuterTile;
    const float one[2] = {1.0f, 1.0f};
    const int m_block = warp_uniform(info.n_block()) * Traits::kConsumerWarpgroups + coord.warp_group;
    const auto token = [&](int row) { return info.token(row); };
    const RingBlock block = turn_of(m_block).block;
    unsigned observed = 0;
    if (m_block < e.m_block_max) observed = block.try_acquire_merge(p, coord.warp);
    scatter<T>(dv, one, e.values, coord.warp_first, e.num_rows, p.dv.head(e.head, p.H), p.D, token);
    if (kD > 64) __syncwarp();  // keeps the compiler from loading keys earlier, when there are no registers for them
    const float inverse_norm[2] = {e.norm(coord.row), e.norm(coord.row + 8)};
    l2_normalise_backward<T>(dk, e.keys, coord.row, inverse_norm, p.scale);
    if (m_block >= e.m_block_max) return;
    const bool is_first_side = block.wait_for_merge_turn(p, coord.warp, observed);
    if (is_first_side)
      scatter<T>(dk, one, e.values, coord.warp_first, e.num_rows, p.dq.head(e.head, p.H), p.D, token);
    else
      scatter<T>(dk, one, e.values, coord.warp_first, e.num_rows, p.dq.head(e.head, p.H), p.D, token, Accumulate<1>());
    block.release_merge(p, coord.warp, is_first_side);
  }
  __device__ void write_dq(const KeyTileEpilogue&) const {}
};

}  // namespace scfa::gpu::sm90
