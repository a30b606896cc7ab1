#include "tools/bench_attention.h"

#include <algorithm>
#include <iostream>
#include <numeric>
#include <optional>

#include "core/human.h"
#include "core/program.h"
#include "core/rng.h"
#include "core/signals.h"
#include "data/table_file.h"
#include "kernels/attention/attention.h"
#include "kernels/random.h"
#include "tools/bench_timer.h"
#include "train/machine.h"

namespace scfa {

double all_pairs(Context& ctx, std::span<const Segments> relations) {
  const std::vector<double> of_head = count_pairs(ctx, relations, relations[0].q_index.size(0));
  return std::accumulate(of_head.begin(), of_head.end(), 0.0);
}

namespace {

// Ids of segments, on the device: one has a share of skew of the rows of every head, the others the rest.
Buffer skewed_segments(Context& ctx, double skew, const Segments& segments) {
  const Tensor& like = segments.q_segment;
  std::vector<uint16_t> ids(static_cast<size_t>(like.numel()));
  const auto others = static_cast<uint32_t>(segments.count() - 1);
  for (size_t i = 0; i < ids.size(); ++i) {
    const Random4 bits = random4(1, Purpose::kDropQuery, 0, 0, 0, 0, static_cast<uint32_t>(i));
    ids[i] = uniform(bits.v[0]) < static_cast<float>(skew) ? 0 : static_cast<uint16_t>(1 + bits.v[1] % others);
  }
  Buffer buffer(static_cast<size_t>(like.bytes()), like.device);
  Tensor to = like;
  to.data = buffer.data();
  ctx.copy(to, Tensor(ids.data(), DType::kU16, Device::kCpu, {like.size(0), like.size(1), like.size(2)}));
  return buffer;
}

// Documents of random lengths around an eighth of the sequence, the same in each run.
void fill_documents(Context& ctx, const Tensor& document_start) {
  const int64_t B = document_start.size(0), T = document_start.size(1);
  std::vector<int32_t> starts(static_cast<size_t>(B * T));
  for (int64_t b = 0; b < B; ++b)
    for (int64_t t = 0, begin = 0, end = 0, n = 0; t < T; ++t) {
      if (t == end) {
        const Random4 bits =
            random4(1, Purpose::kDropQuery, 0, 0, 0, static_cast<uint32_t>(b), static_cast<uint32_t>(n++));
        begin = t, end = t + 1 + T / 16 + static_cast<int64_t>(uniform(bits.v[0]) * static_cast<float>(T) / 8);
      }
      starts[static_cast<size_t>(b * T + t)] = static_cast<int32_t>(begin);
    }
  ctx.copy(document_start, ConstTensor(starts.data(), DType::kI32, Device::kCpu, {B, T}));
}

struct Row {
  const char* name;
  HeadPatterns patterns;
  double skew = 0;
  bool documents = false;
  int64_t groups = 1;  // query heads per head of keys and values
};

std::vector<Row> all_rows() {
  std::vector<Row> rows{{"dense", {{.pattern = "dense", .attend_self = {}}}}};
  for (const int64_t buckets : {8, 16, 32})
    rows.push_back({"hash", {{.pattern = "hash", .buckets = buckets, .attend_self = {}}}});
  rows.push_back({"hash_skewed", {{.pattern = "hash", .buckets = 16, .attend_self = {}}}, 0.3});
  rows.push_back({"hash_balanced", {{.pattern = "hash", .buckets = 16, .balance = "prefix", .attend_self = {}}}});
  for (const double rate : {0.5, 0.7})
    rows.push_back({"drop", {{.pattern = "drop", .drop_rate = rate, .attend_self = {}}}});
  rows.push_back({"window", {{.pattern = "dense", .attend_self = {}, .window = 256}}});
  rows.push_back({"documents", {{.pattern = "dense", .attend_self = {}}}, 0, true});
  rows.push_back({"rounds", {{.pattern = "hash", .buckets = 32, .rounds = 2, .attend_self = {}}}});
  rows.push_back({"mixture",
                  {{.pattern = "dense", .attend_self = {}, .window = 256, .heads = 4},
                   {.pattern = "hash", .buckets = 16, .attend_self = {}}}});
  rows.push_back({"reformer", {{.pattern = "reformer", .buckets = 16, .attend_self = {}}}});
  rows.push_back({"blocks", {{.pattern = "blocks", .block = 512, .top_k = 3, .attend_self = {}}}});
  rows.push_back({"gqa", {{.pattern = "dense", .attend_self = {}}}, 0, false, 4});
  return rows;
}

// Whether keys are the queries: where a head hashes, as in the paper; the other patterns have keys of their own, as
// peers do, and so have grouped heads.
bool shares_keys(const Row& row, const AttentionShape& shape) {
  return shape.kv_heads() == shape.H && std::any_of(row.patterns.begin(), row.patterns.end(),
                                                    [](const AttentionPattern& p) { return needs_projections(p); });
}

AttentionCase case_of(const Row& row, const AttentionCase& shape, int64_t T) {
  AttentionCase settings{.problem = shape.problem, .skew = row.skew};
  AttentionShape& its = settings.problem.shape;
  its.T = T;
  if (row.groups > 1) its.H_kv = its.H / row.groups;
  settings.problem.patterns = row.patterns;
  settings.problem.documents = row.documents;
  settings.problem.layout = shares_keys(row, its) ? AttentionLayout::kSharedQk : AttentionLayout::kQkv;
  return settings;
}

// The rows with these names that the shape can have.
std::vector<Row> chosen_rows(const std::vector<std::string>& names, const AttentionShape& shape) {
  std::vector<Row> rows;
  std::string known;
  for (Row& row : all_rows()) {
    if (known.empty() || !known.ends_with(row.name)) known += concat(known.empty() ? "" : ", ", row.name);
    if (!names.empty() && std::find(names.begin(), names.end(), row.name) == names.end()) continue;
    if (row.patterns.size() > 1 && shape.H <= row.patterns[0].heads) continue;
    if (shape.kv_heads() < shape.H && row.patterns[0].pattern == "reformer") continue;  // its keys are the queries
    if (row.groups > 1 && (shape.kv_heads() < shape.H || shape.H % row.groups != 0)) continue;
    rows.push_back(std::move(row));
  }
  for (const std::string& name : names)
    require(concat(", ", known, ",").find(concat(", ", name, ",")) != std::string::npos, "--patterns: \"", name,
            "\" is not one of ", known);
  require(!rows.empty(), "--patterns: none of them is for ", shape.H, " heads");
  return rows;
}

}  // namespace

AttentionTimes time_attention(Context& ctx, const CacheFlush& flush, const AttentionCase& c, int repeats) {
  Arena measure(ctx.device());
  const AttentionOperands planned(measure, ctx, c.problem);
  const AttentionShape& shape = c.problem.shape;
  check_fits(ctx, concat("T = ", shape.T, " with ", shape.B * shape.H, " heads"), measure.used());
  Arena arena(ctx.device(), measure.used());
  const AttentionOperands w(arena, ctx, c.problem);
  fill_normal(ctx, w.dout, 1, 1);
  ctx.zero(w.samples);
  if (w.document_start) fill_documents(ctx, w.document_start);
  const Segments& relation = w.layer.relations[0];
  const Buffer skewed = c.skew > 0 ? skewed_segments(ctx, c.skew, relation) : Buffer();
  std::vector<double> prepare, forward, backward;
  Marks marks(ctx, 4);
  for (int i = 0; i <= repeats; ++i) {  // the first is for warming up
    check_stop("stopped; what is printed is whole");
    const auto step = static_cast<uint32_t>(i);
    fill_normal(ctx, w.inputs.front(), 2, step);  // that of q, k and v
    flush();
    marks.set(0);
    w.draw(ctx, {.step = step});
    w.assign(ctx, {.step = step});
    if (c.skew > 0)
      for (Tensor ids : {relation.q_segment, relation.k_segment}) {
        Tensor drawn = ids;
        drawn.data = skewed.data();
        ctx.copy(ids, drawn);
      }
    w.build(ctx);
    marks.set(1);
    w.forward(ctx);
    marks.set(2);
    w.backward(ctx);
    marks.set(3);
    const double times[] = {marks.between(0, 1), marks.between(1, 2), marks.between(2, 3)};
    if (i == 0) continue;
    prepare.push_back(times[0]);
    forward.push_back(times[1]);
    backward.push_back(times[2]);
  }
  return {median(prepare), median(forward), median(backward), all_pairs(ctx, w.layer.relations)};
}

void bench_attention(Context& ctx, const std::vector<int64_t>& lengths, const AttentionCase& shape, int repeats,
                     const std::vector<std::string>& names, const std::string& csv) {
  const std::vector<Row> rows = chosen_rows(names, shape.problem.shape);
  std::optional<TableFile> file;
  if (!csv.empty()) {
    file.emplace(csv);
    file->append("system,pattern,T,batch_heads,head_dim,buckets,drop,prepare_ms,forward_ms,backward_ms,total_ms,gpu\n");
  }
  const int64_t heads = shape.problem.shape.B * shape.problem.shape.H, head_dim = shape.problem.shape.D;
  const Machine machine = this_machine();
  const std::string gpu = device_name(ctx.device());
  const std::string where = ctx.on_gpu() ? gpu : concat(machine.cpu, ", ", machine.threads, " threads");
  const AttentionShape& one = shape.problem.shape;
  const std::string grouped =
      one.kv_heads() < one.H ? concat(" (", one.B * one.kv_heads(), " of keys and values)") : "";
  std::cout << printed("%s; batch x heads %ld%s, head dim %ld, %s; medians of %d\n", where.c_str(), heads,
                       grouped.c_str(), head_dim, name_of(activation_type(ctx.device())), repeats);
  std::cout << printed("%s\n", describe_attention(ctx).c_str());
  std::cout << "pairs: share of dense attention's; x pairs: the time over that share of dense attention's time\n";
  const CacheFlush flush(ctx);
  std::cout << printed("%8s %-11s %8s %5s %11s %11s %11s %11s %9s %8s %8s %8s\n", "T", "pattern", "segments", "drop",
                       "prepare ms", "forward ms", "backward ms", "total ms", "TFLOP/s", "x dense", "pairs", "x pairs");
  flush_output();
  for (const int64_t T : lengths) {
    double dense = 0;
    const double dense_pairs = static_cast<double>(heads) * static_cast<double>(T) * static_cast<double>(T + 1) / 2;
    for (const Row& row : rows) {
      const AttentionTimes t = time_attention(ctx, flush, case_of(row, shape, T), repeats);
      if (row.name == std::string("dense")) dense = t.total();
      const int64_t segments = segment_count(row.patterns, T);
      const double drop = row.patterns[0].pattern == "drop" ? row.patterns[0].drop_rate : 0;
      const double flops = 14.0 * t.pairs * static_cast<double>(head_dim);  // 2 products forward, 5 backward
      const double share = t.pairs / dense_pairs;
      std::cout << printed("%8ld %-11s %8ld %5.2f %11.2f %11.2f %11.2f %11.2f %9.3f %8.2f %8.4f %8.2f\n", T, row.name,
                           segments, drop, t.prepare, t.forward, t.backward, t.total(), flops / t.total() * 1e-9,
                           dense / t.total(), share, dense > 0 ? t.total() / (dense * share) : 0.0);
      flush_output();
      if (file)
        file->append(concat("scfa,", row.name, ',', T, ',', heads, ',', head_dim, ',', segments, ',', drop, ',',
                            t.prepare, ',', t.forward, ',', t.backward, ',', t.total(), ',', gpu, '\n'));
    }
  }
  if (file) file->commit();
}

}  // namespace scfa
