// A hash of a tensor's bits, for comparing copies of it.
#pragma once
#include "core/context.h"

namespace scfa {

// hash = sum over 32-bit words w_i of splitmix64(w_i + i * 0x9E3779B97F4A7C15), modulo 2^64: no order of summation, so
// the CPU and any GPU find the same.
//   hash  out (2) i32: its two halves, low first      t  in, contiguous, of any type; a multiple of 4 bytes
void hash_bits(Context& ctx, Tensor hash, ConstTensor t);

namespace cpu {
decltype(scfa::hash_bits) hash_bits;
}
namespace gpu {
decltype(scfa::hash_bits) hash_bits;
}
}  // namespace scfa
