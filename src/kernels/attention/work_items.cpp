#include "kernels/attention/work_items.h"

namespace scfa {

std::array<WorkLists::List, 6> WorkLists::layout(int64_t B, int64_t H, int64_t T, int64_t S) {
  const int64_t tiles = tile_capacity(B, H, T, S), wide_tiles = tile_capacity(B, H, T, S, kWideTileRows);
  return {{{"query_tiles", &WorkLists::query_tiles, tiles, kWordsOf<QueryTile>},
           {"key_tiles", &WorkLists::key_tiles, tiles, kWordsOf<KeyTile>},
           {"wide_query_tiles", &WorkLists::wide_query_tiles, wide_tiles, kWordsOf<QueryTile>},
           {"wide_key_tiles", &WorkLists::wide_key_tiles, wide_tiles, kWordsOf<KeyTile>},
           {"single_block_segments", &WorkLists::single_block_segments, B * H * S, kWordsOf<SingleBlockSegment>},
           {"counts", &WorkLists::counts, 1, kWordsOf<WorkCounts>}}};
}

WorkLists plan_work_lists(Arena& arena, int64_t B, int64_t H, int64_t T, int64_t D, int64_t S) {
  WorkLists lists;
  lists.single_block_max_rows = single_block_max_rows_of(D);
  if (arena.device() == Device::kCpu) return lists;
  for (const WorkLists::List& list : WorkLists::layout(B, H, T, S))
    lists.*list.tensor = arena.take("segments", DType::kI32, {list.capacity, list.words});
  return lists;
}

}  // namespace scfa
