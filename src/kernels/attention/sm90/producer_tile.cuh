// A tile as the producer sees it, made of any kind of work item, and its steps.
#pragma once
#include <type_traits>

#include "kernels/attention/attention_params.cuh"
#include "kernels/sm90/ptx.cuh"

namespace scfa::gpu::sm90 {

// The steps through the inner rows [begin, end) that a tile meets. Where a block takes a segment whole, every second
// tile goes through them backwards: what the L2 cache still holds comes first.
struct Steps {
  int first, count, step;
  __device__ Steps(int begin, int end, int size, bool backwards)
      : first(begin), count((max(end - begin, 0) + size - 1) / size), step(size) {
    if (backwards) first = begin + (count - 1) * size, step = -size;
  }
  __device__ int row(int i) const { return first + i * step; }
};

template <class Traits, class Item>
struct ProducerTile {
  static constexpr bool kOuterAreQueries = std::is_same_v<Item, QueryTile>;
  static constexpr bool kWholeSegment = std::is_same_v<Item, SingleBlockSegment>;

  int head, n_block, outer_offset, num_rows, inner_offset, begin, end;

  // How many tiles an item has.
  __device__ static int count(const Item& item) {
    if constexpr (kWholeSegment)
      return max((item.num_keys + Traits::kOuterRows - 1) / Traits::kOuterRows, 1);
    else
      return 1;
  }
  __device__ static int inner_offset_of(const Item& item) {
    if constexpr (kOuterAreQueries)
      return item.key_offset;
    else
      return item.query_offset;
  }
  __device__ static int end_of(const Item& item) {
    if constexpr (kOuterAreQueries)
      return item.end_key;
    else if constexpr (kWholeSegment)
      return item.num_queries;
    else
      return item.end_query;
  }
  // begin is still to be set.
  __device__ ProducerTile(const Item& item, int i)
      : head(item.head), inner_offset(inner_offset_of(item)), end(end_of(item)) {
    if constexpr (kOuterAreQueries) {
      n_block = 0, outer_offset = item.query_offset, num_rows = item.num_queries;
    } else if constexpr (kWholeSegment) {
      n_block = i, outer_offset = item.key_offset + i * Traits::kOuterRows;
      num_rows = min(Traits::kOuterRows, item.num_keys - i * Traits::kOuterRows);
    } else {
      n_block = item.first_key / Traits::kOuterRows, outer_offset = item.key_offset, num_rows = item.num_keys;
    }
  }
  __device__ void set_begin(const AttentionParams& p, const Item& item) {
    constexpr int kStep = Traits::kInnerRows;
    if constexpr (kOuterAreQueries)
      begin = item.begin_key;
    else if constexpr (kWholeSegment && Traits::kIsLocal)
      set_range(p, item);
    else if constexpr (kWholeSegment)  // a segment without keys has no steps, and none of its queries sees any
      begin = (num_rows > 0 ? p.begin_query[outer_offset] : end + kStep - 1) / kStep * kStep;
    else
      begin = item.begin_query / kStep * kStep;
  }
  // As work_lists.cu does it for a KeyTile: a tile begins where the one before ends, or earlier.
  __device__ void set_range(const AttentionParams& p, const Item& item) {
    constexpr int kStep = Traits::kInnerRows;
    const bool is_last = (n_block + 1) * Traits::kOuterRows >= item.num_keys;
    const int first = num_rows > 0 ? p.begin_query[outer_offset] : end + kStep - 1;
    begin = (n_block > 0 ? min(first, p.end_query[outer_offset - 1]) : first) / kStep * kStep;
    if (!is_last) end = p.end_query[outer_offset + Traits::kOuterRows - 1];
  }
  __device__ Steps steps() const { return Steps(begin, end, Traits::kInnerRows, kWholeSegment && n_block % 2 != 0); }
};

// Loads the first 32 bytes of a work item from shared memory. The last fields of a KeyTile are not set; they are read
// from shared memory where they are needed.
template <class Item>
__device__ inline Item load_item(uint32_t address) {
  Item item;
  reinterpret_cast<uint4*>(&item)[0] = load_chunk(address);
  reinterpret_cast<uint4*>(&item)[1] = load_chunk(address + 16);
  return item;
}

}  // namespace scfa::gpu::sm90
