#include "kernels/attention/attention.h"

#include <cblas.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "kernels/attention/normalise.h"
#include "kernels/vector_math.h"

extern "C" {  // of OpenBLAS; not in every cblas.h
int openblas_get_parallel(void);
int openblas_get_num_threads(void);
void openblas_set_num_threads(int);
}

namespace scfa {

namespace {

constexpr int64_t kTile = 64;  // queries a tile: large enough for BLAS, small enough to waste little above the diagonal
constexpr float kLog2E = 1.442695041f;

// A thread's scratch: six gathered matrices (T, D), two score tiles (kTile, T) and a tile (kTile, D).
int64_t scratch_per_thread(int64_t T, int64_t D) {
  return 6 * T * D + 2 * kTile * T + kTile * D;
}

void check_rows(const char* op, const char* name, const ConstTensor& t, const ConstTensor& q) {
  if (t.data == nullptr || t.ndim != 4 || t.stride[3] != 1 || !t.same_shape(q) || t.dtype != q.dtype)
    fail(op, ": ", name, " must be like q, ", q.describe(), ", not ", t.data == nullptr ? "empty" : t.describe());
  if (t.device == Device::kCpu) return;
  require(t.size(3) % 8 == 0 && t.size(3) <= 128, op,
          ": on the GPU the head dim must be a multiple of 8 up to 128, not ", t.size(3));
  bool aligned = reinterpret_cast<uintptr_t>(t.data) % 16 == 0;
  for (size_t i = 0; i < 3; ++i) aligned = aligned && t.stride[i] % 8 == 0;
  require(aligned, op, ": on the GPU the rows of ", name, " must be aligned to 16 bytes");
}

void check_common(const char* op, Context& ctx, const ConstTensor& q, const ConstTensor& lse, const Segments& segments,
                  const Tensor& scratch) {
  const DType type = ctx.on_gpu() ? DType::kBF16 : DType::kF32;
  if (q.data == nullptr || q.ndim != 4 || q.dtype != type)
    fail(op, ": q must be (B, T, H, D) of ", name_of(type), " on the ", name_of(ctx.device()), ", not ",
         q.data == nullptr ? "empty" : q.describe());
  require_tensor(lse, op, "lse", DType::kF32, {q.size(0), q.size(2), q.size(1)});
  require(segments.q_index.has_shape({q.size(0), q.size(2), q.size(1)}), op, ": segments are of ",
          segments.q_index.describe(), " for q of ", q.describe());
  const int64_t needed = attention_scratch(ctx, segments, q.size(3));
  require(scratch.data && scratch.dtype == DType::kF32 && scratch.numel() >= needed, op, ": scratch must be ", needed,
          " elements of f32, not ", scratch.data == nullptr ? "empty" : scratch.describe());
}

}  // namespace

namespace {

bool& portable() {
  static bool on = [] {
    const char* wanted = std::getenv("SCFA_ATTENTION");
    return wanted != nullptr && std::string_view(wanted) == "portable";
  }();
  return on;
}

}  // namespace

void use_portable_attention(bool on) {
  portable() = on;
}
bool uses_portable_attention() {
  return portable();
}

std::string describe_attention(const Context& ctx) {
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::describe_attention(ctx);
  return "attention on the CPU: BLAS over gathered rows";
}

int64_t attention_scratch(const Context& ctx, const Segments& segments, int64_t D) {
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::attention_scratch(ctx, segments, D);
  return omp_get_max_threads() * scratch_per_thread(segments.q_segment.size(2), D);
}

void attention_forward(Context& ctx, Tensor out, Tensor lse, ConstTensor q, ConstTensor k, ConstTensor v,
                       const Segments& segments, float scale, Tensor scratch) {
  constexpr const char* kOp = "attention_forward";
  check_common(kOp, ctx, q, lse, segments, scratch);
  check_rows(kOp, "q", q, q);
  check_rows(kOp, "k", k, q);
  check_rows(kOp, "v", v, q);
  check_rows(kOp, "out", out, q);
  ctx.require_here(kOp, {out, lse, q, k, v, segments.q_index, scratch});
  const ProfileRange range(ctx, kOp, Category::kAttention);
  if (q.numel() == 0) return;
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::attention_forward(ctx, out, lse, q, k, v, segments, scale, scratch);
  cpu::attention_forward(ctx, out, lse, q, k, v, segments, scale, scratch);
}

void attention_backward(Context& ctx, Tensor dq, Tensor dk, Tensor dv, ConstTensor dout, ConstTensor q, ConstTensor k,
                        ConstTensor v, ConstTensor out, ConstTensor lse, const Segments& segments, float scale,
                        Tensor scratch, ConstTensor inverse_norm) {
  constexpr const char* kOp = "attention_backward";
  check_common(kOp, ctx, q, lse, segments, scratch);
  check_rows(kOp, "q", q, q);
  check_rows(kOp, "k", k, q);
  check_rows(kOp, "v", v, q);
  check_rows(kOp, "out", out, q);
  check_rows(kOp, "dout", dout, q);
  check_rows(kOp, "dq", dq, q);
  check_rows(kOp, "dk", dk, q);
  check_rows(kOp, "dv", dv, q);
  if (inverse_norm) {
    require_tensor(inverse_norm, kOp, "inverse_norm", DType::kF32, {q.size(0), q.size(1), q.size(2)});
    for (const auto& [name, t] : {std::pair("k", k), std::pair<const char*, ConstTensor>("dk", dk)})
      require(t.contiguous(), kOp, ": with inverse_norm ", name, " must be contiguous, not ", t.describe());
  }
  ctx.require_here(kOp, {dq, dk, dv, dout, q, k, v, out, lse, segments.q_index, scratch, inverse_norm});
  const ProfileRange range(ctx, kOp, Category::kAttention);
  if (q.numel() == 0) return;
  if constexpr (kCudaBuild)
    if (ctx.on_gpu())
      return gpu::attention_backward(ctx, dq, dk, dv, dout, q, k, v, out, lse, segments, scale, scratch, inverse_norm);
  cpu::attention_backward(ctx, dq, dk, dv, dout, q, k, v, out, lse, segments, scale, scratch, inverse_norm);
}

namespace cpu {

namespace {

// The loops below run one segment a thread; BLAS must not start threads of its own inside them. Its OpenMP build sees
// that by itself, others have to be told.
class SerialBlas {
 public:
  SerialBlas() : threads_(openblas_get_parallel() == 1 ? openblas_get_num_threads() : 0) {
    if (threads_ > 1) openblas_set_num_threads(1);
  }
  ~SerialBlas() {
    if (threads_ > 1) openblas_set_num_threads(threads_);
  }
  SerialBlas(const SerialBlas&) = delete;
  SerialBlas& operator=(const SerialBlas&) = delete;

 private:
  int threads_;
};

// c (m, n) = a (m, k) b (n, k)^T
void product_bt(int64_t m, int64_t n, int64_t k, const float* a, const float* b, float* c) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(m), static_cast<int>(n), static_cast<int>(k),
              1.0f, a, static_cast<int>(k), b, static_cast<int>(k), 0.0f, c, static_cast<int>(n));
}
// c (m, n) = a (m, k) b (k, n)
void product(int64_t m, int64_t n, int64_t k, const float* a, const float* b, float* c) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, static_cast<int>(m), static_cast<int>(n), static_cast<int>(k),
              1.0f, a, static_cast<int>(k), b, static_cast<int>(n), 0.0f, c, static_cast<int>(n));
}
// c (m, n) += a (k, m)^T b (k, n)
void product_at_add(int64_t m, int64_t n, int64_t k, const float* a, const float* b, float* c) {
  cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, static_cast<int>(m), static_cast<int>(n), static_cast<int>(k),
              1.0f, a, static_cast<int>(m), b, static_cast<int>(n), 1.0f, c, static_cast<int>(n));
}

// Where the rows of one head of one sequence lie.
struct HeadRows {
  const float* base;
  int64_t stride;
  HeadRows(const ConstTensor& t, int64_t b, int64_t h)
      : base(t.as<float>() + b * t.stride[0] + h * t.stride[2]), stride(t.stride[1]) {}
  const float* row(int32_t t) const { return base + t * stride; }
  float* writable(int32_t t) const { return const_cast<float*>(row(t)); }  // only made from a Tensor
};

void gather(float* to, const HeadRows& from, const int32_t* index, int64_t n, int64_t D) {
  for (int64_t i = 0; i < n; ++i) std::memcpy(to + i * D, from.row(index[i]), static_cast<size_t>(D) * sizeof(float));
}
void scatter(const HeadRows& to, const float* from, const int32_t* index, int64_t n, int64_t D) {
  for (int64_t i = 0; i < n; ++i)
    std::memcpy(to.writable(index[i]), from + i * D, static_cast<size_t>(D) * sizeof(float));
}

void zero_rows(const HeadRows& rows, int64_t T, int64_t D) {
  for (int64_t t = 0; t < T; ++t)
    std::memset(rows.writable(static_cast<int32_t>(t)), 0, static_cast<size_t>(D) * sizeof(float));
}

// One segment of one head.
struct Piece {
  int64_t b, h, queries, keys;
  const int32_t *q_index, *k_index, *num_visible_keys;
};

// Calls work(piece, scratch) for every segment that has queries, in parallel. Pieces touch disjoint rows.
template <class Work>
void for_each_piece(const Segments& segments, int64_t D, Tensor scratch, const Work& work) {
  const int64_t H = segments.q_index.size(1), T = segments.q_index.size(2), S = segments.count();
  const int64_t pieces = segments.q_index.size(0) * H * S, per_thread = scratch_per_thread(T, D);
  const auto *q_begin = segments.q_begin.as<int32_t>(), *k_begin = segments.k_begin.as<int32_t>();
  const SerialBlas serial;
#pragma omp parallel for schedule(dynamic)
  for (int64_t i = 0; i < pieces; ++i) {
    const int64_t head = i / S, entry = head * (S + 1) + i % S;
    const int64_t q0 = q_begin[entry], k0 = k_begin[entry];
    const Piece piece = {head / H,
                         head % H,
                         q_begin[entry + 1] - q0,
                         k_begin[entry + 1] - k0,
                         segments.q_index.as<int32_t>() + head * T + q0,
                         segments.k_index.as<int32_t>() + head * T + k0,
                         segments.num_visible_keys.as<int32_t>() + head * T + q0};
    if (piece.queries > 0) work(piece, scratch.as<float>() + omp_get_thread_num() * per_thread);
  }
}

// Rows of s become exp2(s * factor - lse), their sum one over the row's first `limit` columns, and zero behind them.
// Returns lse.
float softmax_row(float* s, int64_t limit, int64_t columns, float factor) {
  std::fill(s + limit, s + columns, 0.0f);
  if (limit == 0) return INFINITY;
  float top = s[0], sum = 0.0f;
#pragma omp simd reduction(max : top)
  for (int64_t j = 0; j < limit; ++j) top = s[j] > top ? s[j] : top;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < limit; ++j) {
    s[j] = vexp2((s[j] - top) * factor);
    sum += s[j];
  }
  const float inverse = 1.0f / sum;
#pragma omp simd
  for (int64_t j = 0; j < limit; ++j) s[j] *= inverse;
  return top * factor + std::log2(sum);
}

}  // namespace

void attention_forward(Context& /*ctx*/, Tensor out, Tensor lse, ConstTensor q, ConstTensor k, ConstTensor v,
                       const Segments& segments, float scale, Tensor scratch) {
  const int64_t B = q.size(0), T = q.size(1), H = q.size(2), D = q.size(3);
  float* lse_out = lse.as<float>();
  std::fill_n(lse_out, lse.numel(), INFINITY);
#pragma omp parallel for
  for (int64_t head = 0; head < B * H; ++head) zero_rows(HeadRows(out, head / H, head % H), T, D);
  for_each_piece(segments, D, scratch, [&](const Piece& piece, float* space) {
    float *queries = space, *keys = queries + T * D, *values = keys + T * D;
    float *scores = values + T * D, *tile_out = scores + kTile * T;
    const HeadRows out_rows(out, piece.b, piece.h);
    gather(queries, HeadRows(q, piece.b, piece.h), piece.q_index, piece.queries, D);
    gather(keys, HeadRows(k, piece.b, piece.h), piece.k_index, piece.keys, D);
    gather(values, HeadRows(v, piece.b, piece.h), piece.k_index, piece.keys, D);
    for (int64_t i = 0; i < piece.queries; i += kTile) {
      const int64_t rows = std::min(kTile, piece.queries - i), seen = piece.num_visible_keys[i + rows - 1];
      if (seen == 0) continue;  // limits never fall, so nobody in the tile sees a key
      product_bt(rows, seen, D, queries + i * D, keys, scores);
      for (int64_t r = 0; r < rows; ++r) {
        const float value = softmax_row(scores + r * seen, piece.num_visible_keys[i + r], seen, scale * kLog2E);
        lse_out[(piece.b * H + piece.h) * T + piece.q_index[i + r]] = value;
      }
      product(rows, D, seen, scores, values, tile_out);
      scatter(out_rows, tile_out, piece.q_index + i, rows, D);
    }
  });
}

void attention_backward(Context& ctx, Tensor dq, Tensor dk, Tensor dv, ConstTensor dout, ConstTensor q, ConstTensor k,
                        ConstTensor v, ConstTensor out, ConstTensor lse, const Segments& segments, float scale,
                        Tensor scratch, ConstTensor inverse_norm) {
  const int64_t B = q.size(0), T = q.size(1), H = q.size(2), D = q.size(3);
#pragma omp parallel for
  for (int64_t head = 0; head < B * H; ++head)
    for (const Tensor& t : {dq, dk, dv}) zero_rows(HeadRows(t, head / H, head % H), T, D);
  const float* lse_in = lse.as<float>();
  for_each_piece(segments, D, scratch, [&](const Piece& piece, float* space) {
    float *queries = space, *keys = queries + T * D, *values = keys + T * D, *douts = values + T * D;
    float *dkeys = douts + T * D, *dvalues = dkeys + T * D;
    float *scores = dvalues + T * D, *dscores = scores + kTile * T, *tile_dq = dscores + kTile * T;
    const HeadRows out_rows(out, piece.b, piece.h), dq_rows(dq, piece.b, piece.h);
    gather(queries, HeadRows(q, piece.b, piece.h), piece.q_index, piece.queries, D);
    gather(douts, HeadRows(dout, piece.b, piece.h), piece.q_index, piece.queries, D);
    gather(keys, HeadRows(k, piece.b, piece.h), piece.k_index, piece.keys, D);
    gather(values, HeadRows(v, piece.b, piece.h), piece.k_index, piece.keys, D);
    std::fill_n(dkeys, piece.keys * D, 0.0f);
    std::fill_n(dvalues, piece.keys * D, 0.0f);
    for (int64_t i = 0; i < piece.queries; i += kTile) {
      const int64_t rows = std::min(kTile, piece.queries - i), seen = piece.num_visible_keys[i + rows - 1];
      if (seen == 0) continue;
      product_bt(rows, seen, D, queries + i * D, keys, scores);
      product_bt(rows, seen, D, douts + i * D, values, dscores);
      for (int64_t r = 0; r < rows; ++r) {
        const int32_t position = piece.q_index[i + r], limit = piece.num_visible_keys[i + r];
        const float *o = out_rows.row(position), *g = douts + (i + r) * D;
        const float row_lse = lse_in[(piece.b * H + piece.h) * T + position];
        float delta = 0.0f;
#pragma omp simd reduction(+ : delta)
        for (int64_t d = 0; d < D; ++d) delta += o[d] * g[d];
        float *p = scores + r * seen, *ds = dscores + r * seen;
#pragma omp simd
        for (int64_t j = 0; j < limit; ++j) {
          p[j] = vexp2(p[j] * (scale * kLog2E) - row_lse);
          ds[j] = p[j] * (ds[j] - delta) * scale;
        }
        std::fill(p + limit, p + seen, 0.0f);
        std::fill(ds + limit, ds + seen, 0.0f);
      }
      product(rows, D, seen, dscores, keys, tile_dq);
      scatter(dq_rows, tile_dq, piece.q_index + i, rows, D);
      product_at_add(seen, D, rows, scores, douts + i * D, dvalues);
      product_at_add(seen, D, rows, dscores, queries + i * D, dkeys);
    }
    scatter(HeadRows(dk, piece.b, piece.h), dkeys, piece.k_index, piece.keys, D);
    scatter(HeadRows(dv, piece.b, piece.h), dvalues, piece.k_index, piece.keys, D);
  });
  if (inverse_norm) cpu::normalise_keys_backward(ctx, dq, dk, k, inverse_norm);
}

}  // namespace cpu
}  // namespace scfa
