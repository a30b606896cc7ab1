// Which tile a block works on next.
#pragma once
#include "kernels/attention/attention_params.cuh"

namespace scfa::gpu::sm80 {

// Rows [skip, skip + rows) of a tile; possibly none. end_key and begin_query stay those of the whole tile: kernels read
// the bounds of the rows instead.
__device__ inline void narrow(QueryTile& tile, int skip, int rows) {
  tile.first_query += skip, tile.query_offset += skip;
  tile.num_queries = min(tile.num_queries - skip, rows);
}
__device__ inline void narrow(KeyTile& tile, int skip, int rows) {
  tile.first_key += skip, tile.key_offset += skip;
  tile.num_keys = min(tile.num_keys - skip, rows);
}

// A dynamic persistent scheduler: blocks take tiles in the order of the list, so that the most expensive ones start
// first. What a tile computes does not depend on who takes it. The tile stays in shared memory, so that the epilogue
// can read it again and the main loop needs no registers for it. kRows: rows that a block takes at a time, a whole tile
// of the list or an even part of one.
template <class Item, int kRows>
class TileScheduler {
 public:
  // Takes the next tile; false when none is left. By all threads of the block.
  __device__ bool next(const AttentionParams& p) {
    __syncthreads();  // nobody reads the last tile's shared memory any more
    if (threadIdx.x == 0) {
      constexpr int kParts = static_cast<int>(kTileRows) / kRows;
      const int taken = atomicAdd(p.tile_counter, 1);
      Item& next = shared_tile();
      next.head = -1;
      if (taken / kParts < *p.num_items) {
        next = work_items<Item>(p)[taken / kParts];
        narrow(next, taken % kParts * kRows, kRows);
      }
    }
    __syncthreads();
    return shared_tile().head >= 0;
  }
  __device__ const Item& tile() const { return shared_tile(); }

 private:
  __device__ static Item& shared_tile() {
    __shared__ Item tile;
    return tile;
  }
};

}  // namespace scfa::gpu::sm80
