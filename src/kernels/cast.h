// Between element types.
#pragma once
#include "core/context.h"

namespace scfa {

// to = from, rounded to nearest even. The same number of elements, contiguous.
//   to  out bf16|f32      from  in bf16|f32      GPU; on the CPU, which has no bf16, f32 to f32 only
void cast(Context& ctx, Tensor to, ConstTensor from);

namespace cpu {
decltype(scfa::cast) cast;
}
namespace gpu {
decltype(scfa::cast) cast;
}
}  // namespace scfa
