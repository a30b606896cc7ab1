// AdamW and the norm it clips by; memory-bound, one pass over all parameters.        arXiv:1711.05101
#include "kernels/adamw.h"
#include "kernels/device_math.cuh"

namespace scfa::gpu {

namespace {

constexpr int kThreads = 256;
constexpr int kNormBlocks = 1024;  // partial sums, whatever the GPU

__global__ void __launch_bounds__(kThreads) square_kernel(double* partial, const float* g, int64_t n) {
  double sum = 0.0;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads * 4;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 4; i < n; i += stride) {
    if (i + 4 <= n) {
      const float4 v = *reinterpret_cast<const float4*>(g + i);
      sum += static_cast<double>(v.x) * v.x + static_cast<double>(v.y) * v.y + static_cast<double>(v.z) * v.z +
             static_cast<double>(v.w) * v.w;
    } else {
      for (int64_t j = i; j < n; ++j) sum += static_cast<double>(g[j]) * g[j];
    }
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kNormBlocks) add_partial_kernel(double* out, const double* partial) {
  const double sum = block_sum(partial[threadIdx.x]);
  if (threadIdx.x == 0) out[0] = sum;
}

__global__ void root_kernel(float* norm, const double* sums, int64_t n) {
  if (!isfinite(norm[0])) return;
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) sum += sums[i];
  norm[0] = static_cast<float>(sqrt(sum));
}

struct Factors {
  float step_size, correction, keep;
};
static_assert(sizeof(Factors) == kAdamWFactors * sizeof(float));

Factors factors_of(const AdamW& settings) {
  const auto [step_size, correction, keep] = adamw_factors(settings);
  return {step_size, correction, keep};
}

__global__ void write_factors_kernel(Factors* out, Factors factors) {
  *out = factors;
}

struct Settings {
  float beta1, beta2, eps, max_norm;
  Factors factors;           // of this step
  const Factors* on_device;  // instead, unless null
};

// A thread owns four parameters; kDecayBlock is a multiple of that.
__global__ void __launch_bounds__(kThreads)
    adamw_kernel(float* p, float* m, float* v, __nv_bfloat16* copy, const float* g, const uint16_t* decays,
                 const float* norm, Settings s, int64_t n) {
  const float size = norm != nullptr ? norm[0] : 0.0f;
  if (!isfinite(size)) return;
  const float scale = s.max_norm > 0.0f ? fminf(1.0f, s.max_norm / (size + 1e-6f)) : 1.0f;
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 4;
  if (i >= n) return;
  const Factors factors = s.on_device != nullptr ? *s.on_device : s.factors;
  const float keep = decays == nullptr || decays[i / kDecayBlock] != 0 ? factors.keep : 1.0f;
  const auto update = [&](float& weight, float& first, float& second, float gradient) {
    const float d = gradient * scale;
    first = s.beta1 * first + (1.0f - s.beta1) * d;
    second = s.beta2 * second + (1.0f - s.beta2) * d * d;
    weight = weight * keep - factors.step_size * first / (sqrtf(second) * factors.correction + s.eps);
  };
  if (i + 4 <= n) {
    float4 w = *reinterpret_cast<float4*>(p + i), a = *reinterpret_cast<float4*>(m + i);
    float4 b = *reinterpret_cast<float4*>(v + i);
    const float4 d = *reinterpret_cast<const float4*>(g + i);
    update(w.x, a.x, b.x, d.x), update(w.y, a.y, b.y, d.y), update(w.z, a.z, b.z, d.z), update(w.w, a.w, b.w, d.w);
    *reinterpret_cast<float4*>(p + i) = w;
    *reinterpret_cast<float4*>(m + i) = a;
    *reinterpret_cast<float4*>(v + i) = b;
    const __nv_bfloat162 pairs[2] = {__floats2bfloat162_rn(w.x, w.y), __floats2bfloat162_rn(w.z, w.w)};
    *reinterpret_cast<uint2*>(copy + i) = *reinterpret_cast<const uint2*>(pairs);
  } else {
    for (int64_t j = i; j < n; ++j) {
      update(p[j], m[j], v[j], g[j]);
      copy[j] = __float2bfloat16_rn(p[j]);
    }
  }
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------

void square_sum(Context& ctx, Tensor sum, ConstTensor g) {
  auto* partial = static_cast<double*>(ctx.workspace());
  square_kernel<<<kNormBlocks, kThreads, 0, ctx.stream()>>>(partial, g.as<float>(), g.numel());
  check_launch("square_sum", ctx.stream());
  add_partial_kernel<<<1, kNormBlocks, 0, ctx.stream()>>>(sum.as<double>(), partial);
  check_launch("square_sum", ctx.stream());
}

void gradient_norm(Context& ctx, Tensor norm, ConstTensor square_sums) {
  root_kernel<<<1, 1, 0, ctx.stream()>>>(norm.as<float>(), square_sums.as<double>(), square_sums.numel());
  check_launch("gradient_norm", ctx.stream());
}

void write_adamw_factors(Context& ctx, Tensor factors, const AdamW& settings) {
  write_factors_kernel<<<1, 1, 0, ctx.stream()>>>(reinterpret_cast<Factors*>(factors.data), factors_of(settings));
  check_launch("write_adamw_factors", ctx.stream());
}

void adamw(Context& ctx, Tensor p, Tensor m, Tensor v, Tensor copy, ConstTensor g, ConstTensor decays, ConstTensor norm,
           const AdamW& settings, ConstTensor factors) {
  const Settings s{settings.beta1,
                   settings.beta2,
                   settings.eps,
                   settings.max_norm,
                   factors ? Factors{} : factors_of(settings),
                   reinterpret_cast<const Factors*>(factors.data)};
  const int64_t n = p.numel();
  adamw_kernel<<<blocks_for((n + 3) / 4, kThreads), kThreads, 0, ctx.stream()>>>(
      p.as<float>(), m.as<float>(), v.as<float>(), static_cast<__nv_bfloat16*>(copy.data), g.as<float>(),
      decays ? decays.as<uint16_t>() : nullptr, norm ? norm.as<float>() : nullptr, s, n);
  check_launch("adamw", ctx.stream());
}

}  // namespace scfa::gpu
