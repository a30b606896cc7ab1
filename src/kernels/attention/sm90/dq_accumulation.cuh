// Where dq is summed up over key tiles. Two policies of one interface, used by each warp of the dq warpgroup (see
// backward.cu) and by the epilogue of a key tile:
//
//   DqPrivate  the thread block takes the whole segment: a part of dq_accum is its own, and nobody waits
//   DqShared   several blocks share the segment: a ring of blocks of queries, in an order kept by semaphores
//
//   backwards()            whether this tile goes through its blocks of queries from the last to the first
//   poll(block)            reads the semaphore of a block of queries; wait() takes what it returned
//   wait(block, polled)    returns when this tile may add to the block
//   add(dq, block, half, comes_first)   adds 64 columns, half = 0 first; where that completes the sum of DqShared,
//   writes
//                          dq. comes_first lives from half 0 to half 1: which side of a merge this is
//   signal(block)          says that this tile has added to the block, unless the producer says so (kDqSignalLag)
//   merge(...)             epilogue, with normalised keys: adds the gradient through the keys to dq of the tile's rows
//   finish(...)            epilogue, without: DqPrivate writes dq of a segment after its last tile
//
// A block of queries is kQueryBlock queries, one step. Sums are f32 in the layout of a warpgroup's 64 x 64 accumulator
// in registers: float4 number c of thread t is at [c * 128 + t]; the sums of columns 64 to 127 follow. So a word is
// only ever accessed by the same thread of a warpgroup, by 16-byte accesses that are side by side for side by side
// threads.
#pragma once
#include "kernels/attention/sm90/dq_semaphore.cuh"
#include "kernels/attention/sm90/epilogue.cuh"
#include "kernels/attention/sm90/shared_storage.cuh"

namespace scfa::gpu::sm90 {

// store: nothing is there yet. kEvictLast: other lines are to leave the L2 cache before these.
template <bool kEvictLast>
__device__ inline void add_to_sums(float4* to, const float (&dq)[32], bool store) {
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
__device__ inline void load_sums(float (&dq)[kN], const float4* from) {
#pragma unroll
  for (int c = 0; c < kN / 4; ++c)
    asm volatile("ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(dq[4 * c]), "=f"(dq[4 * c + 1]), "=f"(dq[4 * c + 2]), "=f"(dq[4 * c + 3])
                 : "l"(from + c * kWarpgroupSize)
                 : "memory");
}

// The same, or zeros where nothing has been added.
template <int kN>
__device__ inline void load_sums_if(float (&dq)[kN], bool any, const float4* from) {
  if (any) {
    load_sums(dq, from);
  } else {
#pragma unroll
    for (float& x : dq) x = 0.0f;
  }
}

// Where a consumer warp's rows of a key tile are, for epilogues.
struct WarpTile {
  int group, group_first, warp, warp_first, row;  // rows of the tile; row: the thread's first
  __device__ WarpTile() {
    group = warp_uniform(threadIdx.x / kWarpgroupSize) - 1;
    warp = warp_uniform(threadIdx.x / 32) % 4;
    group_first = 64 * group, warp_first = group_first + 16 * warp, row = warp_first + threadIdx.x % 32 / 4;
  }
};

// What an epilogue needs of a key tile besides its registers: addresses of the tile's keys and values, and of 1 / |q|
// of its rows; what has been computed lies where the values were.
struct KeyTileEpilogue {
  uint32_t keys, values, inverse_norm;
  int head, num_rows, end_block;
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
  WarpTile at;

  __device__ float4* sums(int block, int half) const {
    const int thread = opaque(threadIdx.x % kWarpgroupSize),
              place = opaque(static_cast<int>(blockIdx.x)) * p.dq_accum_blocks + block;
    return reinterpret_cast<float4*>(p.dq_accum + place * int64_t{64 * kD}) + half * 8 * kWarpgroupSize + thread;
  }
  __device__ bool backwards() const { return warp_uniform(info.index()) % 2 != 0; }
  __device__ unsigned poll(int) const { return 0; }
  __device__ void wait(int, unsigned) const {}
  __device__ void add(const float (&dq)[32], int block, int half, bool&) const {
    add_to_sums<true>(sums(block, half), dq, warp_uniform(info.index()) == 0);
  }
  __device__ void signal(int, int) const {}

  // dq of the tile's rows is complete: later keys are not seen by them. It is loaded ahead, where there are registers.
  __device__ void merge(float (&dk)[kD / 2], const float (&dv)[kD / 2], const KeyTileEpilogue& e) const {
    using T = typename Traits::OuterTile;
    const float one[2] = {1.0f, 1.0f};
    const int block = warp_uniform(info.index()) * Traits::kConsumerWarpgroups + at.group;
    const auto token = [&](int row) { return info.token(row); };
    float dq[kD / 2];
    if (kD == 64) load_sums_if(dq, block < e.end_block, sums(block, 0));
    scatter<T>(dv, one, e.values, at.warp_first, e.num_rows, p.dv.head(e.head, p.H), p.D, token);
    if (kD > 64) load_sums_if(dq, block < e.end_block, sums(block, 0));
    const float inverse_norm[2] = {e.norm(at.row), e.norm(at.row + 8)};
    l2_normalise_backward<T>(dk, e.keys, at.row, inverse_norm, p.scale);
#pragma unroll
    for (int i = 0; i < kD / 2; ++i) dk[i] += dq[i] * p.scale;
    scatter<T>(dk, one, e.values, at.warp_first, e.num_rows, p.dq.head(e.head, p.H), p.D, token);
  }

  __device__ void finish(const KeyTileEpilogue& e) const {
    if (warp_uniform(info.is_last()) == 0) return;
    const float scale[2] = {p.scale, p.scale};
    const int* index = p.q_index + warp_uniform(info.query_offset());
    const int first_seen = warp_uniform(info.first_seen()), end = warp_uniform(info.end());
    for (int query = at.group * kQueryBlock; query < end; query += Traits::kConsumerWarpgroups * kQueryBlock) {
      float dq[kD / 2];
      load_sums_if(dq, query >= first_seen, sums(query / kQueryBlock, 0));
      scatter<typename Traits::OuterTile>(dq, scale, e.values, at.warp_first, at.group_first + end - query,
                                          p.dq.head(e.head, p.H), p.D,
                                          [&](int row) { return index[query + row - at.group_first]; });
    }
  }
};

// ---- blocks that share ----------------------------------------------------------------------------------------------

template <class Storage>
struct DqShared {
  using Traits = typename Storage::Traits;
  static constexpr int kD = Traits::kD, kHalves = kD / 64;
  const AttentionParams& p;
  const Storage& storage;
  WorkTileInfoView<Traits> info;
  WarpTile at;

  struct Place {
    RingBlock block;
    int tile;
    bool is_last_tile;  // the last key tile that the block of queries sees: the first to add
  };
  __device__ Place place_of(int block) const {
    const int4 order = info.dq_order();
    return {RingBlock(p, order.y, order.z, block), order.w, block * kQueryBlock < order.x};
  }
  __device__ bool backwards() const { return false; }
  __device__ unsigned poll(int block) const { return load_relaxed(place_of(block).block.dq_semaphore(p, at.warp)); }
  __device__ void wait(int block, unsigned polled) const {
    const Place place = place_of(block);
    for (const Spin spin(SpinSite::kDqSemaphore, static_cast<uint32_t>(block));
         polled != place.block.awaited_value(place.tile, place.is_last_tile); spin.again())
      polled = load_relaxed(place.block.dq_semaphore(p, at.warp));
    __syncwarp();
  }
  __device__ void signal(int block, int end_block) const {
    if (block < end_block - Traits::kDqSignalLag) return;  // the producer signals
    const Place place = place_of(block);
    __syncwarp();
    if (threadIdx.x % 32 == 0) place.block.signal(p, place.tile, at.warp, storage.fuses_norm());
  }
  __device__ void add(float (&dq)[32], int block, int half, bool& comes_first) const {
    const Place place = place_of(block);
    float4* sums = place.block.sums(p, kD) + half * 8 * kWarpgroupSize;
    if (place.tile > 0) {
      add_to_sums<false>(sums, dq, place.is_last_tile);
      return;
    }
    const bool asks = half == 0 && storage.fuses_norm();
    const unsigned before = asks ? place.block.try_acquire_merge(p, at.warp) : 0;
    if (!place.is_last_tile) {
#pragma unroll
      for (int batch = 0; batch < 2; ++batch) {
        float others[16];
        load_sums(others, sums + batch * 4 * kWarpgroupSize);
#pragma unroll
        for (int i = 0; i < 16; ++i) dq[16 * batch + i] += others[i];
      }
    }
    if (half == 0) comes_first = !asks || place.block.is_first(p, at.warp, before);
    write(dq, block, half, comes_first);
    if (half + 1 == kHalves && storage.fuses_norm()) place.block.release_merge(p, at.warp, comes_first);
  }
  // Writes complete sums as dq, or adds them to what the side of the keys has written.
  __device__ void write(const float (&dq)[32], int block, int half, bool comes_first) const {
    uint4 piece[2][2];
    accumulator_to_chunks(piece, dq, p.scale);
    const int lane = opaque(threadIdx.x % 32), first = 16 * at.warp + lane / 4;
    const int last = info.end() - 1 - block * kQueryBlock;
    const int* index = p.q_index + info.query_offset() + block * kQueryBlock;
    const int head = info.head();
    __nv_bfloat16* data = p.dq.head(head, p.H).data + 64 * half + lane % 4 * 8;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (first + 8 * i > last) continue;
      __nv_bfloat16* row = data + index[first + 8 * i] * p.dq.row_stride;
      const bool inside[2] = {64 * half + lane % 4 * 8 < p.D, 64 * half + 32 + lane % 4 * 8 < p.D};
      if (!comes_first) {
        const uint4 none = make_uint4(0, 0, 0, 0);
        const uint4 there[2] = {inside[0] ? load_coherent(row) : none, inside[1] ? load_coherent(row + 32) : none};
        piece[i][0] = add_bf16(piece[i][0], there[0]), piece[i][1] = add_bf16(piece[i][1], there[1]);
      }
      if (inside[0]) store_global(row, piece[i][0]);
      if (inside[1]) store_global(row + 32, piece[i][1]);
    }
  }

  __device__ void merge(float (&dk)[kD / 2], const float (&dv)[kD / 2], const KeyTileEpilogue& e) const {
    using T = typename Traits::OuterTile;
    const float one[2] = {1.0f, 1.0f};
    const int query_block = warp_uniform(info.index()) * Traits::kConsumerWarpgroups + at.group;
    const auto token = [&](int row) { return info.token(row); };
    const RingBlock block = place_of(query_block).block;
    unsigned before = 0;
    if (query_block < e.end_block) before = block.try_acquire_merge(p, at.warp);
    scatter<T>(dv, one, e.values, at.warp_first, e.num_rows, p.dv.head(e.head, p.H), p.D, token);
    const float inverse_norm[2] = {e.norm(at.row), e.norm(at.row + 8)};
    l2_normalise_backward<T>(dk, e.keys, at.row, inverse_norm, p.scale);
    if (query_block >= e.end_block) return;
    const bool first = block.is_first(p, at.warp, before);
    if (first)
      scatter<T>(dk, one, e.values, at.warp_first, e.num_rows, p.dq.head(e.head, p.H), p.D, token);
    else
      scatter<T, true>(dk, one, e.values, at.warp_first, e.num_rows, p.dq.head(e.head, p.H), p.D, token);
    block.release_merge(p, at.warp, first);
  }
  __device__ void finish(const KeyTileEpilogue&) const {}
};

}  // namespace scfa::gpu::sm90
