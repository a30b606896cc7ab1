// GELU with a bias, its gradient, and sums of columns: memory-bound passes over rows. A lane has the same pack of
// columns in all rows of its block, so that the bias and the sums of the gradient stay in registers.
#include "kernels/linear/gelu.cuh"

#include "kernels/device_math.cuh"
#include "kernels/fp8_math.cuh"
#include "kernels/linear/column_sums.h"
#include "kernels/linear/linear.h"

namespace scfa::gpu {

namespace {

using Bf16 = __nv_bfloat16;
constexpr int kWarps = 8, kBlockColumns = 32 * kPack;
static_assert(kBlockColumns == 32 * kWarps);

enum class Pass { kForward, kBackward, kSum };  // out = gelu(x + b); out = dy * gelu'(x + b) and its sums; sums of dy

struct Operands {
  Bf16* out;
  const Bf16 *dy, *x, *bias;  // bias: or null
  float* partial;             // (parts, C), or null: no sums
  uint2* out_fp8;             // out / *scale, or null
  const float* scale;
  int64_t N, C;
};

// Rows are aligned to packs (kFp8: and there is an 8-bit output), or elements are loaded and stored one by one.
enum class Layout { kElements, kPacked, kFp8 };

// grid: (columns, parts of rows).
template <Pass kPass, Gelu kKind, Layout kLayout>
__global__ void __launch_bounds__(32 * kWarps) rows_kernel(const Operands p) {
  constexpr bool kPacked = kLayout != Layout::kElements;
  [[maybe_unused]] constexpr DType kFp8Type = kPass == Pass::kForward ? DType::kE4M3 : DType::kE5M2;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kBlockColumns + lane * kPack;
  const int64_t begin = p.N * blockIdx.y / gridDim.y, end = p.N * (blockIdx.y + 1) / gridDim.y;
  const auto get = [&](float(&v)[kPack], const Bf16* from) {
    if constexpr (kPacked) {
      load(v, from);
    } else {
#pragma unroll
      for (int e = 0; e < kPack; ++e) v[e] = c + e < p.C ? __bfloat162float(from[e]) : 0.0f;
    }
  };
  float bias[kPack] = {}, sum[kPack] = {};
  [[maybe_unused]] const float inverse_scale = kLayout == Layout::kFp8 ? 1.0f / *p.scale : 0.0f;
  if (c < p.C) {
    if (p.bias != nullptr) get(bias, p.bias + c);
    constexpr int kUnroll = kPass == Pass::kBackward ? 2 : 4;
#pragma unroll kUnroll
    for (int64_t i = begin + warp; i < end; i += kWarps) {
      const int64_t at = i * p.C + c;
      float v[kPack], g[kPack];
      if constexpr (kPass != Pass::kForward) get(g, p.dy + at);
      if constexpr (kPass != Pass::kSum) {
        get(v, p.x + at);
#pragma unroll
        for (int e = 0; e < kPack; ++e) {
          v[e] += bias[e];
          v[e] = kPass == Pass::kForward ? gelu<kKind>(v[e]) : (g[e] *= gelu_derivative<kKind>(v[e]));
        }
        if constexpr (kPacked) {
          store(p.out + at, v);
          if constexpr (kLayout == Layout::kFp8) {
            round_to_bf16(v);
            p.out_fp8[at / kPack] = pack_fp8<kFp8Type>(v, inverse_scale);
          }
        } else {
#pragma unroll
          for (int e = 0; e < kPack; ++e)
            if (c + e < p.C) p.out[at + e] = __float2bfloat16_rn(v[e]);
        }
      }
      if constexpr (kPass != Pass::kForward)
#pragma unroll
        for (int e = 0; e < kPack; ++e) sum[e] += g[e];
    }
  }
  if constexpr (kPass != Pass::kForward) {
    if (p.partial == nullptr) return;
    __shared__ float sums[kWarps][kPack][32];
#pragma unroll
    for (int e = 0; e < kPack; ++e) sums[warp][e][lane] = sum[e];
    __syncthreads();
    const int column = threadIdx.x;
    const int64_t to = static_cast<int64_t>(blockIdx.x) * kBlockColumns + column;
    if (to >= p.C) return;
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += sums[w][column % kPack][column / kPack];
    p.partial[blockIdx.y * p.C + to] = total;
  }
}

template <Pass kPass>
void launch(Context& ctx, const char* op, const Tensor& out, const Tensor& sums, const ConstTensor& dy,
            const ConstTensor& x, const ConstTensor& bias, Gelu kind, const ScaledTensor& out_fp8) {
  const auto data = [](const ConstTensor& t) { return static_cast<const Bf16*>(t.data); };
  const ConstTensor& rows = x ? x : dy;
  const Operands p{.out = static_cast<Bf16*>(out.data),
                   .dy = data(dy),
                   .x = data(x),
                   .bias = data(bias),
                   .partial = sums ? partial_sums(ctx) : nullptr,
                   .out_fp8 = static_cast<uint2*>(out_fp8.values.data),
                   .scale = out_fp8 ? out_fp8.scale.as<float>() : nullptr,
                   .N = rows.rows(),
                   .C = rows.size(-1)};
  const int64_t parts = row_parts(p.N, p.C, op);
  uintptr_t addresses = static_cast<uintptr_t>(p.C) * 2;
  for (const void* address : {static_cast<const void*>(out.data), dy.data, x.data, bias.data})
    addresses |= reinterpret_cast<uintptr_t>(address);
  const bool packed = addresses % (2 * kPack) == 0;
  require(packed || !out_fp8, op, ": operands must be aligned to ", 2 * kPack,
          " bytes where an 8-bit output is asked for");
  const auto of_layout = [&]<Layout kLayout>() {
    constexpr Gelu kTanh = kPass == Pass::kSum ? Gelu::kErf : Gelu::kTanh;  // kSum has no GELU
    return kind == Gelu::kErf ? rows_kernel<kPass, Gelu::kErf, kLayout> : rows_kernel<kPass, kTanh, kLayout>;
  };
  auto kernel =
      packed ? of_layout.template operator()<Layout::kPacked>() : of_layout.template operator()<Layout::kElements>();
  if constexpr (kPass != Pass::kSum)
    if (out_fp8) kernel = of_layout.template operator()<Layout::kFp8>();
  kernel<<<dim3(blocks_for(p.C, kBlockColumns), static_cast<unsigned>(parts)), 32 * kWarps, 0, ctx.stream()>>>(p);
  check_launch(op, ctx.stream());
  if (sums) add_partial_sums(ctx, sums, parts, op);
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------

void gelu_forward(Context& ctx, Tensor y, ConstTensor x, ConstTensor bias, Gelu kind, ScaledTensor y_fp8) {
  launch<Pass::kForward>(ctx, "gelu_forward", y, {}, {}, x, bias, kind, y_fp8);
}

void gelu_backward(Context& ctx, Tensor dx, Tensor dbias, ConstTensor dy, ConstTensor x, ConstTensor bias, Gelu kind,
                   ScaledTensor dx_fp8) {
  launch<Pass::kBackward>(ctx, "gelu_backward", dx, dbias, dy, x, bias, kind, dx_fp8);
}

void linear_bgrad(Context& ctx, Tensor dbias, ConstTensor dy) {
  launch<Pass::kSum>(ctx, "linear_bgrad", {}, dbias, dy, {}, {}, Gelu::kErf, {});
}

}  // namespace scfa::gpu
