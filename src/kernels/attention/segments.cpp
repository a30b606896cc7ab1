#include "kernels/attention/segments.h"

#include <algorithm>
#include <array>

namespace scfa {

Segments plan_segments(Arena& arena, int64_t B, int64_t H, int64_t T, int64_t D, int64_t count, bool ranges) {
  require(count >= 1 && count <= kMaxSegments, "segments: their number must be 1 to ", kMaxSegments, ", not ", count);
  constexpr const char* kName = "segments";
  Segments s;
  s.q_segment = arena.take(kName, DType::kU16, {B, H, T});
  s.k_segment = arena.take(kName, DType::kU16, {B, H, T});
  s.q_begin = arena.take(kName, DType::kI32, {B, H, count + 1});
  s.k_begin = arena.take(kName, DType::kI32, {B, H, count + 1});
  s.q_index = arena.take(kName, DType::kI32, {B, H, T});
  s.k_index = arena.take(kName, DType::kI32, {B, H, T});
  s.end_key = arena.take(kName, DType::kI32, {B, H, T});
  s.begin_query = arena.take(kName, DType::kI32, {B, H, T});
  if (ranges)
    for (Tensor* range : {&s.begin_key, &s.end_query}) *range = arena.take(kName, DType::kI32, {B, H, T});
  s.work = plan_work_lists(arena, B, H, T, D, count);
  return s;
}

void build_segments(Context& ctx, const Segments& segments, std::span<const Visibility> by_head,
                    ConstTensor document_start) {
  constexpr const char* kOp = "build_segments";
  require(segments.q_segment.ndim == 3 && segments.q_begin.ndim == 3, kOp,
          ": q_segment must be (B, H, T) and q_begin (B, H, S + 1)");
  const int64_t B = segments.q_segment.size(0), H = segments.q_segment.size(1), T = segments.q_segment.size(2);
  require(T <= INT32_MAX, kOp, ": sequences of ", T, " are too long");
  require_tensor(segments.q_segment, kOp, "q_segment", DType::kU16, {B, H, T});
  require_tensor(segments.k_segment, kOp, "k_segment", DType::kU16, {B, H, T});
  const int64_t S = segments.count();
  require(S >= 1 && S <= kMaxSegments, kOp, ": there must be 1 to ", kMaxSegments, " segments, not ", S);
  require_tensor(segments.q_begin, kOp, "q_begin", DType::kI32, {B, H, S + 1});
  require_tensor(segments.k_begin, kOp, "k_begin", DType::kI32, {B, H, S + 1});
  require_tensor(segments.q_index, kOp, "q_index", DType::kI32, {B, H, T});
  require_tensor(segments.k_index, kOp, "k_index", DType::kI32, {B, H, T});
  require_tensor(segments.end_key, kOp, "end_key", DType::kI32, {B, H, T});
  require_tensor(segments.begin_query, kOp, "begin_query", DType::kI32, {B, H, T});
  for_each_visibility(by_head, H, [&](int64_t, int64_t, const Visibility& visibility) {
    require(visibility.window >= 0, kOp, ": a window must be 0 or more, not ", visibility.window);
    require(visibility.gap >= 0, kOp, ": a gap must be 0 or more, not ", visibility.gap);
    require(visibility.window == 0 || segments.has_ranges(), kOp, ": a window where no ranges were planned");
  });
  if (document_start) {
    require(segments.has_ranges(), kOp, ": documents where no ranges were planned");
    require_tensor(document_start, kOp, "document_start", DType::kI32, {B, T});
  }
  if (segments.has_ranges()) {
    require_tensor(segments.begin_key, kOp, "begin_key", DType::kI32, {B, H, T});
    require_tensor(segments.end_query, kOp, "end_query", DType::kI32, {B, H, T});
  }
  if (ctx.on_gpu()) {
    require(B * H * T <= INT32_MAX, kOp, ": on the GPU at most 2^31 - 1 rows, not ", B * H * T);
    require(B <= 65535, kOp, ": on the GPU at most 65,535 sequences, not ", B);
    for (const WorkLists::List& list : WorkLists::layout(B, H, T, S)) {
      require_tensor(segments.work.*list.tensor, kOp, list.name, DType::kI32, {list.capacity, list.words});
      ctx.require_here(kOp, {segments.work.*list.tensor});
    }
  }
  ctx.require_here(kOp, {segments.q_segment, segments.k_segment, segments.q_begin, segments.k_begin, segments.q_index,
                         segments.k_index, segments.end_key, segments.begin_query, segments.begin_key,
                         segments.end_query, document_start});
  const ProfileRange range(ctx, kOp, Category::kAttention);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::build_segments(ctx, segments, by_head, document_start);
  cpu::build_segments(ctx, segments, by_head, document_start);
}

void add_balance(Context& ctx, std::vector<SegmentBalance>& of_head, std::span<const Segments> relations,
                 int64_t sequences, bool counts_visible) {
  const auto H = static_cast<int64_t>(of_head.size());
  std::vector<double> largest(static_cast<size_t>(sequences * H), 0.0);  // of all relations
  for (const Segments& s : relations) {
    require(H == s.q_begin.size(1) && sequences <= s.q_begin.size(0), "add_balance: ", sequences, " sequences of ", H,
            " heads from ", s.q_begin.describe());
    const int64_t S = s.count(), entries = sequences * H * (S + 1);
    std::vector<int32_t> q(static_cast<size_t>(entries)), k(q.size());
    ctx.copy(Tensor(q.data(), DType::kI32, Device::kCpu, {entries}), s.q_begin.slice(0, sequences).reshape({entries}));
    ctx.copy(Tensor(k.data(), DType::kI32, Device::kCpu, {entries}), s.k_begin.slice(0, sequences).reshape({entries}));
    const auto length = static_cast<double>(s.q_segment.size(2));
    for (int64_t i = 0; i < sequences * H; ++i) {
      const auto first = static_cast<size_t>(i * (S + 1));
      double pairs = 0, &most = largest[static_cast<size_t>(i)];
      for (size_t segment = first; segment < first + static_cast<size_t>(S); ++segment) {
        const double queries = q[segment + 1] - q[segment], keys = k[segment + 1] - k[segment];
        pairs += queries * keys;
        most = std::max(most, queries / length);
      }
      of_head[static_cast<size_t>(i % H)].pairs += pairs / (length * length);
    }
  }
  if (counts_visible) {
    const std::vector<double> visible = count_pairs(ctx, relations, sequences);
    const auto length = static_cast<double>(relations[0].q_segment.size(2));
    for (size_t h = 0; h < of_head.size(); ++h) {
      of_head[h].visible += visible[h] / (length * (length + 1) / 2);
      of_head[h].counted += sequences;
    }
  }
  for (int64_t i = 0; i < sequences * H; ++i) {
    SegmentBalance& head = of_head[static_cast<size_t>(i % H)];
    head.largest += largest[static_cast<size_t>(i)];
    ++head.sequences;
  }
}

std::vector<double> count_pairs(Context& ctx, std::span<const Segments> relations, int64_t sequences) {
  std::vector<double> of_head;
  for (const Segments& s : relations) {
    const int64_t H = s.q_index.size(1), T = s.q_index.size(2), S = s.count(), rows = sequences * H;
    require(sequences >= 0 && sequences <= s.q_index.size(0), "count_pairs: ", sequences, " sequences from ",
            s.q_index.describe());
    of_head.resize(static_cast<size_t>(H));
    const auto on_host = [&](const Tensor& from, int64_t each) {
      std::vector<int32_t> values(static_cast<size_t>(rows * each));
      ctx.copy(Tensor(values.data(), DType::kI32, Device::kCpu, {rows * each}),
               from.slice(0, sequences).reshape({rows * each}));
      return values;
    };
    const std::vector<int32_t> begins = on_host(s.q_begin, S + 1), ends = on_host(s.end_key, T);
    const std::vector<int32_t> firsts = s.has_ranges() ? on_host(s.begin_key, T) : std::vector<int32_t>(ends.size());
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t i = row * T; i < row * T + begins[static_cast<size_t>(row * (S + 1) + S)]; ++i)
        of_head[static_cast<size_t>(row % H)] += ends[static_cast<size_t>(i)] - firsts[static_cast<size_t>(i)];
  }
  return of_head;
}

namespace cpu {

namespace {

using Counts = std::array<int32_t, kMaxSegments>;

// begin[s] = rows of segments before s; begin[count] = rows in any segment.
void count_rows(const uint16_t* segment, int64_t T, int64_t count, int32_t* begin) {
  std::fill(begin, begin + count + 1, 0);
  for (int64_t t = 0; t < T; ++t)
    if (segment[t] != kNoSegment) ++begin[segment[t] + 1];
  for (int64_t s = 0; s < count; ++s) begin[s + 1] += begin[s];
}

// The first position that the token at position t may see, given window and document. Non-decreasing in t.
struct FirstVisible {
  int64_t window;
  const int32_t* document_start;  // of the sequence, or null
  int64_t operator()(int64_t t) const {
    const int64_t by_window = window > 0 ? std::max<int64_t>(0, t - window + 1) : 0;
    return document_start != nullptr ? std::max<int64_t>(by_window, document_start[t]) : by_window;
  }
};

// Of one head: end_key and begin_query, if there is a gap of more than one; then begin_key and end_query, if ranges
// were planned. Both lists of a segment ascend by position, so all ends only move forward. A query that sees no key,
// and a key that no query sees, have an empty range.
void set_ranges(const Segments& segments, int64_t head, int64_t gap, const FirstVisible& first_visible) {
  const int64_t T = segments.q_segment.size(2), S = segments.count();
  const int32_t* q_begin = segments.q_begin.as<int32_t>() + head * (S + 1);
  const int32_t* k_begin = segments.k_begin.as<int32_t>() + head * (S + 1);
  for (int64_t s = 0; s < S; ++s) {
    const int32_t queries = q_begin[s + 1] - q_begin[s], keys = k_begin[s + 1] - k_begin[s];
    const int64_t of_queries = head * T + q_begin[s], of_keys = head * T + k_begin[s];
    const int32_t *q = segments.q_index.as<int32_t>() + of_queries, *k = segments.k_index.as<int32_t>() + of_keys;
    int32_t* end_key = segments.end_key.as<int32_t>() + of_queries;
    int32_t* begin_query = segments.begin_query.as<int32_t>() + of_keys;
    if (gap > 1) {
      for (int32_t i = 0, end = 0; i < queries; ++i) {
        while (end < keys && k[end] <= q[i] - gap) ++end;
        end_key[i] = end;
      }
      for (int32_t j = 0, first = 0; j < keys; ++j) {
        while (first < queries && q[first] < k[j] + gap) ++first;
        begin_query[j] = first;
      }
    }
    if (!segments.has_ranges()) continue;
    int32_t* begin_key = segments.begin_key.as<int32_t>() + of_queries;
    int32_t* end_query = segments.end_query.as<int32_t>() + of_keys;
    for (int32_t i = 0, first = 0; i < queries; ++i) {
      while (first < keys && k[first] < first_visible(q[i])) ++first;
      begin_key[i] = std::min(first, end_key[i]);
    }
    for (int32_t j = 0, end = 0; j < keys; ++j) {
      while (end < queries && first_visible(q[end]) <= k[j]) ++end;
      end_query[j] = std::max(end, begin_query[j]);
    }
  }
}

}  // namespace

void build_segments(Context& /*ctx*/, const Segments& segments, std::span<const Visibility> by_head,
                    ConstTensor document_start) {
  const int64_t H = segments.q_segment.size(1), heads = segments.q_segment.size(0) * H, T = segments.q_segment.size(2);
  std::vector<Visibility> of_head;
  for_each_visibility(by_head, H, [&](int64_t first, int64_t end, const Visibility& visibility) {
    of_head.insert(of_head.end(), static_cast<size_t>(end - first), visibility);
  });
  const int64_t S = segments.count();
  const auto *q_all = segments.q_segment.as<uint16_t>(), *k_all = segments.k_segment.as<uint16_t>();
  for (int64_t i = 0; i < heads * T; ++i)
    for (const uint16_t id : {q_all[i], k_all[i]})
      require(id < S || id == kNoSegment, "build_segments: segment ", id, " where there are ", S);
#pragma omp parallel for schedule(dynamic)
  for (int64_t head = 0; head < heads; ++head) {
    const Visibility& visibility = of_head[static_cast<size_t>(head % H)];
    const uint16_t *q = q_all + head * T, *k = k_all + head * T;
    int32_t* q_begin = segments.q_begin.as<int32_t>() + head * (S + 1);
    int32_t* k_begin = segments.k_begin.as<int32_t>() + head * (S + 1);
    int32_t *q_index = segments.q_index.as<int32_t>() + head * T, *k_index = segments.k_index.as<int32_t>() + head * T;
    int32_t *end_key = segments.end_key.as<int32_t>() + head * T,
            *begin_query = segments.begin_query.as<int32_t>() + head * T;
    count_rows(q, T, S, q_begin);
    count_rows(k, T, S, k_begin);
    Counts q_seen{}, k_seen{};  // rows of each segment met so far; 32 KB of stack
    for (int64_t t = 0; t < T; ++t) {
      const auto add_key = [&] {
        if (k[t] == kNoSegment) return;
        const int32_t entry = k_begin[k[t]] + k_seen[k[t]]++;
        k_index[entry] = static_cast<int32_t>(t);
        begin_query[entry] = q_seen[k[t]];  // the next query of this segment is the first to see it
      };
      const auto add_query = [&] {
        if (q[t] == kNoSegment) return;
        const int32_t entry = q_begin[q[t]] + q_seen[q[t]]++;
        q_index[entry] = static_cast<int32_t>(t);
        end_key[entry] = k_seen[q[t]];
      };
      if (visibility.nearest() == 0) {
        add_key();
        add_query();
      } else {
        add_query();
        add_key();
      }
    }
    if (visibility.gap > 1 || segments.has_ranges())
      set_ranges(segments, head, visibility.gap,
                 {visibility.window, document_start ? document_start.as<int32_t>() + head / H * T : nullptr});
  }
}

}  // namespace cpu
}  // namespace scfa
