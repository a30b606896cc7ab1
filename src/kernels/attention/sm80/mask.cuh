// Which inner rows the 16 outer rows of a warp see.
#pragma once
#include <climits>

namespace scfa::gpu::sm80 {

// A lane's two rows (lane / 4 and lane / 4 + 8 of the warp's) and the bound of each: end_key of a query, or
// begin_query of a key. With ranges there is another end: begin_key of a query, or end_query of a key. least and most
// are over the rows of the warp.
struct RowBounds {
  int bound[2], least = INT_MAX, most = 0;

  RowBounds() = default;
  // first: the warp's first row of the tile; rows past `rows` have the bound bound_past_end.
  __device__ RowBounds(const int* bounds, int first, int rows, int bound_past_end) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first + 8 * half + static_cast<int>(threadIdx.x) % 32 / 4;
      bound[half] = row < rows ? bounds[row] : bound_past_end;
      least = min(least, bound[half]);
      most = max(most, bound[half]);
    }
    least = __reduce_min_sync(0xFFFFFFFFu, least);
    most = __reduce_max_sync(0xFFFFFFFFu, most);
  }
};

}  // namespace scfa::gpu::sm80
