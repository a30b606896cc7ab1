// Attention on the GPU: what all kernels share, and which of them runs.
#include "core/gpu.h"
#include "kernels/attention/attention.h"
#include "kernels/attention/attention_params.cuh"
#include "kernels/attention/normalise.h"
#include "kernels/attention/sm80/attention.h"
#include "kernels/attention/sm90/attention.h"
#include "kernels/fragment_math.cuh"
#include "kernels/sm90/probe.h"

namespace scfa::gpu {

namespace {

constexpr float kLog2E = 1.442695041f;

// ---- rows in no segment ---------------------------------------------------------------------------------------------

// Stores zeros to a row of a head. By a warp.
__device__ inline void clear_row(const HeadRows& x, const AttentionParams& p, int head, int token) {
  const int lane = threadIdx.x % 32;
  if (lane * 8 >= p.D) return;
  const HeadView rows = x.head(head, p.H);
  *reinterpret_cast<uint4*>(rows.data + token * rows.row_stride + lane * 8) = make_uint4(0, 0, 0, 0);
}

// Calls clear(head, token), by the whole warp, for each of the warp's 32 rows that is in no segment. One thread reads
// the segment of one row.
template <class Clear>
__device__ inline void for_dropped_rows(const AttentionParams& p, const uint16_t* segment, int64_t rows,
                                        const Clear& clear) {
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32 * 32,
                lane = threadIdx.x % 32;
  unsigned dropped = __ballot_sync(0xFFFFFFFFu, first + lane < rows && segment[first + lane] >= p.S);
  for (; dropped != 0; dropped &= dropped - 1) {
    const int64_t row = first + __ffs(static_cast<int>(dropped)) - 1;
    clear(static_cast<int>(row / p.T), static_cast<int>(row % p.T));
  }
}

// out = 0 and lse = +inf where a query is in no segment.
__global__ void __launch_bounds__(256)
    clear_dropped_out_kernel(const AttentionParams p, const uint16_t* q_segment, int64_t rows) {
  for_dropped_rows(p, q_segment, rows, [&](int head, int token) {
    clear_row(p.out, p, head, token);
    if (threadIdx.x % 32 == 0) p.lse[static_cast<int64_t>(head) * p.T + token] = INFINITY;
  });
}

// dq = 0 where a query is in no segment, dk = dv = 0 where a key is in none.
__global__ void __launch_bounds__(256)
    clear_dropped_gradients_kernel(const AttentionParams p, const uint16_t* q_segment, const uint16_t* k_segment,
                                   int64_t rows) {
  for_dropped_rows(p, q_segment, rows, [&](int head, int token) { clear_row(p.dq, p, head, token); });
  for_dropped_rows(p, k_segment, rows, [&](int head, int token) {
    clear_row(p.dk, p, head, token);
    clear_row(p.dv, p, head, token);
  });
}

// ---- lse and delta of queries ---------------------------------------------------------------------------------------

// For every query that is in a segment: its lse and delta = rowsum(out * dout). kLanes lanes process a row, 16 bytes
// per lane. They process kRowsPerGroup rows of a head's sorted list, whose loads are all in flight at once.
constexpr int kRowsPerGroup = 4, kLseDeltaThreads = 256;
template <int kLanes>
__global__ void __launch_bounds__(kLseDeltaThreads) lse_delta_kernel(const AttentionParams p, int blocks_per_head) {
  constexpr int kGroups = kLseDeltaThreads / kLanes;
  const int head = static_cast<int>(blockIdx.x) / blocks_per_head, chunk = threadIdx.x % kLanes;
  const int block_first = static_cast<int>(blockIdx.x) % blocks_per_head * kGroups * kRowsPerGroup;
  const int first = block_first + static_cast<int>(threadIdx.x) / kLanes;
  const int rows = p.q_begin[static_cast<int64_t>(head) * (p.S + 1) + p.S];
  if (block_first >= rows) return;
  const int64_t list = static_cast<int64_t>(head) * p.T;
  const __nv_bfloat16 *out = p.out.head(head, p.H).data + chunk * 8, *dout = p.dout.head(head, p.H).data + chunk * 8;
  int token[kRowsPerGroup];
  uint4 a[kRowsPerGroup] = {}, b[kRowsPerGroup] = {};
#pragma unroll
  for (int i = 0; i < kRowsPerGroup; ++i)
    token[i] = first + i * kGroups < rows ? p.q_index[list + first + i * kGroups] : -1;
#pragma unroll
  for (int i = 0; i < kRowsPerGroup; ++i) {
    if (token[i] < 0 || chunk * 8 >= p.D) continue;
    a[i] = *reinterpret_cast<const uint4*>(out + token[i] * p.out.row_stride);
    b[i] = *reinterpret_cast<const uint4*>(dout + token[i] * p.dout.row_stride);
  }
#pragma unroll
  for (int i = 0; i < kRowsPerGroup; ++i) {
    const uint32_t x[4] = {a[i].x, a[i].y, a[i].z, a[i].w}, y[4] = {b[i].x, b[i].y, b[i].z, b[i].w};
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < 4; ++j) sum += low_half(x[j]) * low_half(y[j]) + high_half(x[j]) * high_half(y[j]);
#pragma unroll
    for (int offset = kLanes / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, offset);
    if (token[i] >= 0 && chunk == 0) p.lse_delta[list + first + i * kGroups] = make_float2(p.lse[list + token[i]], sum);
  }
}

template <int kLanes>
void compute_lse_delta(Stream stream, const AttentionParams& p, int64_t rows) {
  constexpr int kRowsPerBlock = kLseDeltaThreads / kLanes * kRowsPerGroup;
  const int blocks_per_head = (p.T + kRowsPerBlock - 1) / kRowsPerBlock;
  lse_delta_kernel<kLanes>
      <<<static_cast<unsigned>(rows / p.T * blocks_per_head), kLseDeltaThreads, 0, stream>>>(p, blocks_per_head);
  check_launch("attention_backward", stream);
}

// ---- scratch and parameters -----------------------------------------------------------------------------------------

// Layout of the scratch, in f32 elements: tile counters, lse and delta, then semaphores and dq accumulators of the
// sm_90 kernels (sm90::DqAccum).
constexpr int64_t kCounterElements = 64;  // two are used, padded to 256 bytes

constexpr int64_t lse_delta_elements(int64_t rows) {
  return (2 * rows + 3) / 4 * 4;  // what follows stays aligned to 16 bytes
}

// Sets all fields but the outputs, and the tile counters to zero. Only the sm_90 kernels use the dq accumulators; on
// other GPUs these pointers point past the end of the scratch.
AttentionParams make_params(Context& ctx, const ConstTensor& q, const ConstTensor& k, const ConstTensor& v,
                            const Segments& s, float scale, const ConstTensor& lse, const Tensor& scratch) {
  fill(scratch.data, 0, kCounterElements * sizeof(float), ctx.stream());
  AttentionParams p{};
  const auto group = static_cast<int>(q.size(2) / k.size(2));
  p.q = head_rows(q), p.k = head_rows(k, group), p.v = head_rows(v, group);
  p.lse = const_cast<float*>(lse.as<float>());
  p.tile_counter = static_cast<int*>(scratch.data);
  p.lse_delta = reinterpret_cast<float2*>(scratch.as<float>() + kCounterElements);
  float* rest = scratch.as<float>() + kCounterElements + lse_delta_elements(q.size(0) * q.size(1) * q.size(2));
  const sm90::DqAccum dq = sm90::plan_dq_accum(s, q.size(3));
  p.dq_semaphores = reinterpret_cast<unsigned*>(rest);
  p.ring_blocks = static_cast<int>(dq.ring_blocks), p.dq_accum_blocks = static_cast<int>(dq.accum_blocks);
  p.dq_ring = rest + dq.semaphore_elements;
  p.dq_accum = p.dq_ring + dq.ring_elements;
  p.q_begin = s.q_begin.as<int32_t>(), p.k_begin = s.k_begin.as<int32_t>();
  p.q_index = s.q_index.as<int32_t>(), p.k_index = s.k_index.as<int32_t>();
  p.end_key = s.end_key.as<int32_t>(), p.begin_query = s.begin_query.as<int32_t>();
  if (s.has_ranges()) p.begin_key = s.begin_key.as<int32_t>(), p.end_query = s.end_query.as<int32_t>();
  p.untied_heads = &s.work.device_counts()->untied_heads;
  p.H = static_cast<int>(q.size(2)), p.T = static_cast<int>(q.size(1));
  p.S = static_cast<int>(s.count()), p.D = static_cast<int>(q.size(3));
  p.scale = scale;
  p.scale_log2 = scale * kLog2E;
  return p;
}

unsigned blocks_of_256(int64_t rows) {
  return static_cast<unsigned>((rows + 255) / 256);
}

// ---- dispatch -------------------------------------------------------------------------------------------------------

// The kernels of one architecture; contract: sm80/attention.h and sm90/attention.h.
struct Backend {
  void (*forward)(Context&, const AttentionParams&, const Segments&);
  void (*backward)(Context&, const AttentionParams&, const Segments&);
  bool fuses_norm;  // backward adds the gradient through normalised keys to dq, where no head is untied
};
constexpr Backend kSm80 = {sm80::forward, sm80::backward, false}, kSm90 = {sm90::forward, sm90::backward, true};

bool use_sm90() {
  return !uses_portable_attention() && sm90::probe().usable;
}
const Backend& backend() {
  return use_sm90() ? kSm90 : kSm80;
}

}  // namespace

std::string describe_attention(const Context& /*ctx*/) {
  if (use_sm90()) return "attention: Hopper kernels (wgmma); " + sm90::probe().reason;
  return "attention: portable kernels (mma.sync); " +
         (uses_portable_attention() ? "SCFA_ATTENTION=portable" : sm90::probe().reason);
}

// Decides by compute capability, not by probe(): memory is planned before any kernel runs, and probe() launches one.
int64_t attention_scratch(const Context& /*ctx*/, const Segments& segments, int64_t D) {
  return kCounterElements + lse_delta_elements(segments.q_segment.numel()) +
         (properties().compute == 90 ? sm90::plan_dq_accum(segments, D).elements() : 0);
}

void attention_forward(Context& ctx, Tensor out, Tensor lse, ConstTensor q, ConstTensor k, ConstTensor v,
                       const Segments& segments, float scale, Tensor scratch, bool accumulate) {
  AttentionParams p = make_params(ctx, q, k, v, segments, scale, lse, scratch);
  p.out = head_rows(out);
  p.accumulate = accumulate;
  const int64_t rows = q.size(0) * q.size(1) * q.size(2);
  if (!accumulate) {
    clear_dropped_out_kernel<<<blocks_of_256(rows), 256, 0, ctx.stream()>>>(p, segments.q_segment.as<uint16_t>(), rows);
    check_launch("attention_forward", ctx.stream());
  }
  backend().forward(ctx, p, segments);
}

void attention_backward(Context& ctx, Tensor dq, Tensor dk, Tensor dv, ConstTensor dout, ConstTensor q, ConstTensor k,
                        ConstTensor v, ConstTensor out, ConstTensor lse, const Segments& segments, float scale,
                        Tensor scratch, ConstTensor inverse_norm, bool accumulate) {
  constexpr int64_t kMaxTokens = kTileRows * sm90::kMaxKeyTiles;
  require(q.size(1) <= kMaxTokens, "attention_backward: on the GPU at most ", kMaxTokens, " tokens, not ", q.size(1));
  AttentionParams p = make_params(ctx, q, k, v, segments, scale, lse, scratch);
  p.inverse_norm = inverse_norm ? inverse_norm.as<float>() : nullptr;
  p.out = head_rows(out), p.dout = head_rows(dout);
  p.dq = head_rows(dq), p.dk = head_rows(dk), p.dv = head_rows(dv);
  p.accumulate = accumulate;
  const int64_t rows = q.size(0) * q.size(1) * q.size(2);
  if (!accumulate) {
    clear_dropped_gradients_kernel<<<blocks_of_256(rows), 256, 0, ctx.stream()>>>(
        p, segments.q_segment.as<uint16_t>(), segments.k_segment.as<uint16_t>(), rows);
    check_launch("attention_backward", ctx.stream());
  }
  p.D <= 64 ? compute_lse_delta<8>(ctx.stream(), p, rows) : compute_lse_delta<16>(ctx.stream(), p, rows);
  const Backend& chosen = backend();
  chosen.backward(ctx, p, segments);
  if (inverse_norm)
    normalise_keys_backward_if(ctx, dq, dk, k, inverse_norm, chosen.fuses_norm ? p.untied_heads : nullptr);
}

}  // namespace scfa::gpu
