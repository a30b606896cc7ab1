// Attention on the CPU: BLAS over gathered rows, in f32.
#include <cblas.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/attention/attention.h"
#include "kernels/attention/combine.h"
#include "kernels/attention/normalise.h"
#include "kernels/vector_math.h"

extern "C" {  // of OpenBLAS; not in every cblas.h
int openblas_get_parallel(void);
int openblas_get_num_threads(void);
void openblas_set_num_threads(int);
}

namespace scfa::cpu {

namespace {

constexpr int64_t kTile =
    64;  // queries per tile: large enough for BLAS, small enough to waste little above the diagonal
constexpr float kLog2E = 1.442695041f;

// Scratch per thread: six gathered matrices (T, D), two tiles of scores (kTile, T) and a tile (kTile, D).
int64_t scratch_per_thread(int64_t T, int64_t D) {
  return 6 * T * D + 2 * kTile * T + kTile * D;
}

// The loops below run one segment per thread; BLAS must not start threads of its own inside them. Its OpenMP build sees
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
void gemm_bt(int64_t m, int64_t n, int64_t k, const float* a, const float* b, float* c) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(m), static_cast<int>(n), static_cast<int>(k),
              1.0f, a, static_cast<int>(k), b, static_cast<int>(k), 0.0f, c, static_cast<int>(n));
}
// c (m, n) = a (m, k) b (k, n)
void gemm(int64_t m, int64_t n, int64_t k, const float* a, const float* b, float* c) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, static_cast<int>(m), static_cast<int>(n), static_cast<int>(k),
              1.0f, a, static_cast<int>(k), b, static_cast<int>(n), 0.0f, c, static_cast<int>(n));
}
// c (m, n) += a (k, m)^T b (k, n)
void gemm_at_add(int64_t m, int64_t n, int64_t k, const float* a, const float* b, float* c) {
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
// Adds to rows, which are zeros at first or, with accumulate, hold the gradients of earlier relations.
void scatter(const HeadRows& to, const float* from, const int32_t* index, int64_t n, int64_t D) {
  for (int64_t i = 0; i < n; ++i) {
    float* row = to.writable(index[i]);
#pragma omp simd
    for (int64_t d = 0; d < D; ++d) row[d] += from[i * D + d];
  }
}
// Combines `added` into row (combine.h). existing_lse: of row. lse: on entry of `added`, on return of both.
void combine(float* row, const float* added, int64_t D, float existing_lse, float& lse) {
  const CombineWeights weights = combine_weights(existing_lse, lse);
#pragma omp simd
  for (int64_t d = 0; d < D; ++d) row[d] = row[d] * weights.existing + added[d] * weights.added;
  lse = weights.lse;
}

void zero_rows(const HeadRows& rows, int64_t T, int64_t D) {
  for (int64_t t = 0; t < T; ++t)
    std::memset(rows.writable(static_cast<int32_t>(t)), 0, static_cast<size_t>(D) * sizeof(float));
}

// One segment of one head.
struct HeadSegment {
  int64_t b, h, queries, keys;
  const int32_t *q_index, *k_index, *end_key, *begin_key;  // the last may be null: 0
  int64_t first_key(int64_t query) const { return begin_key == nullptr ? 0 : begin_key[query]; }
};

// Calls work(segment, scratch) for every segment that has queries, in parallel. Segments touch disjoint rows.
template <class Work>
void for_each_segment(const Segments& segments, int64_t D, Tensor scratch, const Work& work) {
  const int64_t H = segments.q_index.size(1), T = segments.q_index.size(2), S = segments.count();
  const int64_t count = segments.q_index.size(0) * H * S, per_thread = scratch_per_thread(T, D);
  const auto *q_begin = segments.q_begin.as<int32_t>(), *k_begin = segments.k_begin.as<int32_t>();
  const SerialBlas serial;
#pragma omp parallel for schedule(dynamic)
  for (int64_t i = 0; i < count; ++i) {
    const int64_t head = i / S, entry = head * (S + 1) + i % S;
    const int64_t q0 = q_begin[entry], k0 = k_begin[entry];
    const HeadSegment segment = {head / H,
                                 head % H,
                                 q_begin[entry + 1] - q0,
                                 k_begin[entry + 1] - k0,
                                 segments.q_index.as<int32_t>() + head * T + q0,
                                 segments.k_index.as<int32_t>() + head * T + k0,
                                 segments.end_key.as<int32_t>() + head * T + q0,
                                 segments.begin_key ? segments.begin_key.as<int32_t>() + head * T + q0 : nullptr};
    if (segment.queries > 0) work(segment, scratch.as<float>() + omp_get_thread_num() * per_thread);
  }
}

// Scores in columns [begin, end) of a row become exp2(s * factor - lse), which add up to one, and all others zero.
// Returns lse.
float softmax_row(float* s, int64_t begin, int64_t end, int64_t columns, float factor) {
  std::fill(s, s + begin, 0.0f);
  std::fill(s + end, s + columns, 0.0f);
  if (begin == end) return INFINITY;
  float top = s[begin], sum = 0.0f;
#pragma omp simd reduction(max : top)
  for (int64_t j = begin; j < end; ++j) top = s[j] > top ? s[j] : top;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = begin; j < end; ++j) {
    s[j] = vexp2((s[j] - top) * factor);
    sum += s[j];
  }
  const float inverse = 1.0f / sum;
#pragma omp simd
  for (int64_t j = begin; j < end; ++j) s[j] *= inverse;
  return top * factor + std::log2(sum);
}

}  // namespace

int64_t attention_scratch(const Context& /*ctx*/, const Segments& segments, int64_t D) {
  return omp_get_max_threads() * scratch_per_thread(segments.q_segment.size(2), D);
}

void attention_forward(Context& /*ctx*/, Tensor out, Tensor lse, ConstTensor q, ConstTensor k, ConstTensor v,
                       const Segments& segments, float scale, Tensor scratch, bool accumulate) {
  const int64_t B = q.size(0), T = q.size(1), H = q.size(2), D = q.size(3), group = H / k.size(2);
  float* lse_out = lse.as<float>();
  if (!accumulate) {
    std::fill_n(lse_out, lse.numel(), INFINITY);
#pragma omp parallel for
    for (int64_t head = 0; head < B * H; ++head) zero_rows(HeadRows(out, head / H, head % H), T, D);
  }
  for_each_segment(segments, D, scratch, [&](const HeadSegment& segment, float* space) {
    float *queries = space, *keys = queries + T * D, *values = keys + T * D;
    float *scores = values + T * D, *tile_out = scores + kTile * T;
    const HeadRows out_rows(out, segment.b, segment.h);
    gather(queries, HeadRows(q, segment.b, segment.h), segment.q_index, segment.queries, D);
    gather(keys, HeadRows(k, segment.b, segment.h / group), segment.k_index, segment.keys, D);
    gather(values, HeadRows(v, segment.b, segment.h / group), segment.k_index, segment.keys, D);
    for (int64_t i = 0; i < segment.queries; i += kTile) {
      // Both ends of what a query sees are non-decreasing, so the tile sees keys [first, first + seen) and no others.
      const int64_t rows = std::min(kTile, segment.queries - i), first = segment.first_key(i);
      const int64_t seen = segment.end_key[i + rows - 1] - first;
      if (seen == 0) continue;
      gemm_bt(rows, seen, D, queries + i * D, keys + first * D, scores);
      float tile_lse[kTile];
      for (int64_t r = 0; r < rows; ++r)
        tile_lse[r] = softmax_row(scores + r * seen, segment.first_key(i + r) - first, segment.end_key[i + r] - first,
                                  seen, scale * kLog2E);
      gemm(rows, D, seen, scores, values + first * D, tile_out);
      for (int64_t r = 0; r < rows; ++r) {
        float& row_lse = lse_out[(segment.b * H + segment.h) * T + segment.q_index[i + r]];
        combine(out_rows.writable(segment.q_index[i + r]), tile_out + r * D, D, row_lse, tile_lse[r]);
        row_lse = tile_lse[r];
      }
    }
  });
}

void attention_backward(Context& ctx, Tensor dq, Tensor dk, Tensor dv, ConstTensor dout, ConstTensor q, ConstTensor k,
                        ConstTensor v, ConstTensor out, ConstTensor lse, const Segments& segments, float scale,
                        Tensor scratch, ConstTensor inverse_norm, bool accumulate) {
  const int64_t B = q.size(0), T = q.size(1), H = q.size(2), D = q.size(3), group = H / k.size(2);
  if (!accumulate) {
#pragma omp parallel for
    for (int64_t head = 0; head < B * H; ++head)
      for (const Tensor& t : {dq, dk, dv}) zero_rows(HeadRows(t, head / H, head % H), T, D);
  }
  const float* lse_in = lse.as<float>();
  for_each_segment(segments, D, scratch, [&](const HeadSegment& segment, float* space) {
    float *queries = space, *keys = queries + T * D, *values = keys + T * D, *douts = values + T * D;
    float *dkeys = douts + T * D, *dvalues = dkeys + T * D;
    float *scores = dvalues + T * D, *dscores = scores + kTile * T, *tile_dq = dscores + kTile * T;
    const HeadRows out_rows(out, segment.b, segment.h), dq_rows(dq, segment.b, segment.h);
    gather(queries, HeadRows(q, segment.b, segment.h), segment.q_index, segment.queries, D);
    gather(douts, HeadRows(dout, segment.b, segment.h), segment.q_index, segment.queries, D);
    gather(keys, HeadRows(k, segment.b, segment.h / group), segment.k_index, segment.keys, D);
    gather(values, HeadRows(v, segment.b, segment.h / group), segment.k_index, segment.keys, D);
    std::fill_n(dkeys, segment.keys * D, 0.0f);
    std::fill_n(dvalues, segment.keys * D, 0.0f);
    for (int64_t i = 0; i < segment.queries; i += kTile) {
      const int64_t rows = std::min(kTile, segment.queries - i), first = segment.first_key(i);
      const int64_t seen = segment.end_key[i + rows - 1] - first;
      if (seen == 0) continue;
      gemm_bt(rows, seen, D, queries + i * D, keys + first * D, scores);
      gemm_bt(rows, seen, D, douts + i * D, values + first * D, dscores);
      for (int64_t r = 0; r < rows; ++r) {
        const int32_t position = segment.q_index[i + r];
        const int64_t begin = segment.first_key(i + r) - first, end = segment.end_key[i + r] - first;
        const float *o = out_rows.row(position), *g = douts + (i + r) * D;
        const float row_lse = lse_in[(segment.b * H + segment.h) * T + position];
        float delta = 0.0f;
#pragma omp simd reduction(+ : delta)
        for (int64_t d = 0; d < D; ++d) delta += o[d] * g[d];
        float *p = scores + r * seen, *ds = dscores + r * seen;
#pragma omp simd
        for (int64_t j = begin; j < end; ++j) {
          p[j] = vexp2(p[j] * (scale * kLog2E) - row_lse);
          ds[j] = p[j] * (ds[j] - delta) * scale;
        }
        for (float* row : {p, ds}) {
          std::fill(row, row + begin, 0.0f);
          std::fill(row + end, row + seen, 0.0f);
        }
      }
      gemm(rows, D, seen, dscores, keys + first * D, tile_dq);
      scatter(dq_rows, tile_dq, segment.q_index + i, rows, D);
      gemm_at_add(seen, D, rows, scores, douts + i * D, dvalues + first * D);
      gemm_at_add(seen, D, rows, dscores, queries + i * D, dkeys + first * D);
    }
    scatter(HeadRows(dk, segment.b, segment.h), dkeys, segment.k_index, segment.keys, D);
    scatter(HeadRows(dv, segment.b, segment.h), dvalues, segment.k_index, segment.keys, D);
  });
  if (inverse_norm) cpu::normalise_keys_backward(ctx, dq, dk, k, inverse_norm);
}

}  // namespace scfa::cpu
