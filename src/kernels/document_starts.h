// Where the documents of packed sequences begin, for attention that does not cross them.
#pragma once
#include "core/context.h"

namespace scfa {

// starts[b, t] = the position of the first token of the document of token t: one behind the last end_of_text before t,
// or 0. A token end_of_text belongs to the document that it ends.
//   starts  out (B, T) i32      ids  in (B, T) i32, T below 2^31
// Deterministic.
void document_starts(Context& ctx, Tensor starts, ConstTensor ids, int32_t end_of_text);

namespace cpu {
decltype(scfa::document_starts) document_starts;
}
namespace gpu {
decltype(scfa::document_starts) document_starts;
}
}  // namespace scfa
