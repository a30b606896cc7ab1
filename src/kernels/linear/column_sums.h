// Sums of columns on a GPU, in two steps: kernels leave partial sums, of some rows each, in the workspace, and these
// are added in a fixed order.
#pragma once
#include "kernels/linear/workspace.h"

namespace scfa::gpu {

// Into how many parts rows are cut, each of which has a partial sum of every column. Throws Error if none fits.
int64_t row_parts(int64_t rows, int64_t columns, const char* op);

// sums[c] += the sum of partial_sums(ctx)[i * columns + c] over all parts i.
void add_partial_sums(Context& ctx, const Tensor& sums, int64_t parts, const char* op);

}  // namespace scfa::gpu
