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

std::vector<Row> all_rows(const AttentionTable& table) {
  const auto given_or = [&](const std::vector<int64_t>& otherwise) {
    return table.buckets.empty() ? otherwise : table.buckets;
  };
  const std::vector<double> rates = table.drop_rates.empty() ? std::vector{0.5, 0.7} : table.drop_rates;
  std::vector<Row> rows{{"dense", {{.pattern = "dense", .attend_self = {}}}}};
  for (const int64_t buckets : given_or({8, 16, 32}))
    rows.push_back({"hash", {{.pattern = "hash", .buckets = buckets, .attend_self = {}}}});
  rows.push_back({"hash_skewed", {{.pattern = "hash", .buckets = 16, .attend_self = {}}}, 0.3});
  for (const int64_t buckets : given_or({16}))
    rows.push_back(
        {"hash_balanced", {{.pattern = "hash", .buckets = buckets, .balance = "prefix", .attend_self = {}}}});
  for (const double rate : rates) rows.push_back({"drop", {{.pattern = "drop", .drop_rate = rate, .attend_self = {}}}});
  rows.push_back({"window", {{.pattern = "dense", .attend_self = {}, .window = 256}}});
  rows.push_back({"documents", {{.pattern = "dense", .attend_self = {}}}, 0, true});
  rows.push_back({"rounds", {{.pattern = "hash", .buckets = 32, .rounds = 2, .attend_self = {}}}});
  rows.push_back({"probes", {{.pattern = "hash", .buckets = 32, .probes = 2, .attend_self = {}}}});
  rows.push_back({"mixture",
                  {{.pattern = "dense", .attend_self = {}, .window = 256, .heads = 4},
                   {.pattern = "hash", .buckets = 16, .attend_self = {}}}});
  for (const int64_t buckets : given_or({16}))
    rows.push_back({"reformer", {{.pattern = "reformer", .buckets = buckets, .attend_self = {}}}});
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

// The rows with the names of the table that the shape can have, and the layout where a model gives it.
std::vector<Row> chosen_rows(const AttentionTable& table, const AttentionShape& shape,
                             std::optional<AttentionLayout> layout) {
  const std::vector<std::string>& names = table.names;
  std::vector<Row> rows;
  std::string known;
  for (Row& row : all_rows(table)) {
    if (known.empty() || !known.ends_with(row.name)) known += concat(known.empty() ? "" : ", ", row.name);
    if (!names.empty() && std::find(names.begin(), names.end(), row.name) == names.end()) continue;
    if (row.patterns.size() > 1 && shape.H <= row.patterns[0].heads) continue;
    if (shape.kv_heads() < shape.H && row.patterns[0].pattern == "reformer") continue;  // its keys are the queries
    if (row.groups > 1 && (layout || shape.kv_heads() < shape.H || shape.H % row.groups != 0)) continue;
    if (layout && layout != AttentionLayout::kSharedQk && row.patterns[0].pattern == "reformer") continue;
    for (const AttentionPattern& pattern : row.patterns) validate(pattern);
    rows.push_back(std::move(row));
  }
  for (const std::string& name : names)
    require(concat(", ", known, ",").find(concat(", ", name, ",")) != std::string::npos, "--patterns: \"", name,
            "\" is not one of ", known);
  require(!rows.empty(), "--patterns: none of them is for ", shape.H, " heads",
          layout ? " and the keys of the model" : "");
  return rows;
}

// Counts the pairs of one bucket in all heads, for the draw that made Reformer's chunks in the same problem.
BucketPairs bucket_pairs_of(Context& ctx, AttentionProblem problem, const Tensor& inputs, const PatternDraw& at) {
  const AttentionPattern reformer = problem.patterns.front();
  problem.patterns = {{.pattern = "hash", .buckets = reformer.buckets, .attend_self = {}}};
  Arena measure(ctx.device());
  const AttentionOperands planned(measure, ctx, problem);
  check_fits(ctx, concat("T = ", problem.shape.T, ", buckets of reformer"), measure.used());
  Arena arena(ctx.device(), measure.used());
  const AttentionOperands w(arena, ctx, problem);
  ctx.copy(w.inputs.front(), inputs);
  ctx.zero(w.samples);
  w.draw(ctx, at);
  w.assign(ctx, at);
  const Tensor& segment = w.layer.relations[0].q_segment;
  std::vector<uint16_t> ids(static_cast<size_t>(segment.numel()));
  ctx.copy(Tensor(ids.data(), DType::kU16, Device::kCpu, {segment.size(0), segment.size(1), segment.size(2)}), segment);
  const auto T = static_cast<size_t>(problem.shape.T);
  BucketPairs all;
  for (size_t begin = 0; begin < ids.size(); begin += T) {
    std::vector<int64_t> sizes(static_cast<size_t>(reformer.buckets));
    for (size_t t = begin; t < begin + T; ++t) ++sizes[ids[t]];
    const BucketPairs of_head = reformer_bucket_pairs(sizes, chunk_length(reformer, problem.shape.T));
    all.seen += of_head.seen, all.all += of_head.all;
  }
  return all;
}

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

}  // namespace

AttentionTimes time_attention(Context& ctx, const CacheFlush& flush, const AttentionCase& c, int repeats,
                              const TrainedInputs* trained) {
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
  std::vector<double> prepare, forward, backward, total;
  const bool reformer = c.problem.patterns.front().pattern == "reformer";
  AttentionTimes times;
  Marks marks(ctx, 4);
  const int layers = trained ? static_cast<int>(trained->layers.size()) : 1;
  for (int i = 0; i <= layers * repeats; ++i) {  // the first is for warming up
    check_stop("stopped; printed rows are complete");
    const PatternDraw at{.step = static_cast<uint32_t>(i)};
    const Tensor& qkv = w.inputs.front();
    if (trained) {
      ConstTensor of_layer = qkv;
      of_layer.data = trained->layers[static_cast<size_t>(i % layers)].data();
      ctx.copy(qkv, of_layer);
    } else {
      fill_normal(ctx, qkv, 2, at.step);
    }
    flush();
    marks.set(0);
    w.draw(ctx, at);
    w.assign(ctx, at);
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
    const double spent[] = {marks.between(0, 1), marks.between(1, 2), marks.between(2, 3)};
    if (i == 0) continue;
    prepare.push_back(spent[0]);
    forward.push_back(spent[1]);
    backward.push_back(spent[2]);
    total.push_back(spent[0] + spent[1] + spent[2]);
    if (i > layers) continue;  // pairs of each layer once
    times.pairs += all_pairs(ctx, w.layer.relations) / layers;
    if (!reformer) continue;
    const BucketPairs pairs = bucket_pairs_of(ctx, c.problem, w.inputs.front(), at);
    times.bucket_pairs.seen += pairs.seen, times.bucket_pairs.all += pairs.all;
  }
  const auto average = [&](const std::vector<double>& values) { return trained ? mean(values) : median(values); };
  times.prepare = average(prepare), times.forward = average(forward), times.backward = average(backward);
  times.total = average(total);
  times.low = percentile(total, 0.2), times.high = percentile(total, 0.8);
  return times;
}

void bench_attention(Context& ctx, const AttentionTable& table) {
  AttentionCase shape = table.shape;
  std::optional<TrainedInputs> trained;
  if (!table.checkpoint.empty()) {
    const int64_t longest = *std::max_element(table.lengths.begin(), table.lengths.end());
    trained = trained_inputs(ctx, table.checkpoint, table.data, shape.problem.shape.B, longest);
    shape.problem.shape = trained->shape;
  }
  const std::vector<Row> rows =
      chosen_rows(table, shape.problem.shape, trained ? std::optional(trained->layout) : std::nullopt);
  std::optional<TableFile> file;
  if (!table.csv.empty()) {
    file.emplace(table.csv);
    file->append(
        "system,pattern,T,batch_heads,head_dim,buckets,drop,prepare_ms,forward_ms,backward_ms,total_ms,low_ms,high_ms,"
        "share_of_pairs,bucket_pairs_seen,inputs,gpu\n");
  }
  const AttentionShape& one = shape.problem.shape;
  const int64_t heads = one.B * one.H, head_dim = one.D;
  const Machine machine = this_machine();
  const std::string gpu = device_name(ctx.device());
  const std::string where = ctx.on_gpu() ? gpu : concat(machine.cpu, ", ", machine.threads, " threads");
  const std::string grouped =
      one.kv_heads() < one.H ? concat(" (", one.B * one.kv_heads(), " of keys and values)") : "";
  const std::string how = trained ? concat("means over the ", trained->layers.size(), " layers of ", table.checkpoint)
                                  : concat("medians of ", table.repeats);
  std::cout << printed("%s; batch x heads %ld%s, head dim %ld, %s; %s\n", where.c_str(), heads, grouped.c_str(),
                       head_dim, name_of(activation_type(ctx.device())), how.c_str());
  std::cout << printed("%s\n", describe_attention(ctx).c_str());
  std::cout << "pairs: share of dense attention's; x pairs: the time over that share of dense attention's time\n";
  const CacheFlush flush(ctx);
  std::cout << printed("%8s %-13s %8s %5s %11s %11s %11s %11s %9s %8s %8s %8s\n", "T", "pattern", "segments", "drop",
                       "prepare ms", "forward ms", "backward ms", "total ms", "TFLOP/s", "x dense", "pairs", "x pairs");
  flush_output();
  for (const int64_t T : table.lengths) {
    double dense = 0;
    const double dense_pairs = static_cast<double>(heads) * static_cast<double>(T) * static_cast<double>(T + 1) / 2;
    if (trained && trained->shape.T != T) {
      trained.reset();  // before the memory of the next one is asked for
      trained = trained_inputs(ctx, table.checkpoint, table.data, one.B, T);
    }
    for (const Row& row : rows) {
      AttentionCase settings = case_of(row, shape, T);
      if (trained) settings.problem.layout = trained->layout;
      const AttentionTimes t = time_attention(ctx, flush, settings, table.repeats, trained ? &*trained : nullptr);
      if (row.name == std::string("dense")) dense = t.total;
      const int64_t segments = segment_count(row.patterns, T);
      const double drop = row.patterns[0].pattern == "drop" ? row.patterns[0].drop_rate : 0;
      const double flops = 14.0 * t.pairs * static_cast<double>(head_dim);  // 2 GEMMs forward, 5 backward
      const double share = t.pairs / dense_pairs;
      const auto ratio = [](double of, double to) { return to > 0 ? printed("%.2f", of / to) : std::string("-"); };
      std::cout << printed("%8ld %-13s %8ld %5.2f %11.2f %11.2f %11.2f %11.2f %9.3f %8s %8.4f %8s\n", T, row.name,
                           segments, drop, t.prepare, t.forward, t.backward, t.total, flops / t.total * 1e-9,
                           dense > 0 ? ratio(dense, t.total).c_str() : "-", share,
                           ratio(t.total, dense * share).c_str());
      const double seen = t.bucket_pairs.all > 0 ? t.bucket_pairs.seen / t.bucket_pairs.all : 0;
      if (t.bucket_pairs.all > 0)
        std::cout << printed("%8s chunks see %.1f %% of the pairs of one bucket\n", "", 100 * seen);
      flush_output();
      if (file)
        file->append(concat("scfa,", row.name, ',', T, ',', heads, ',', head_dim, ',', segments, ',', drop, ',',
                            t.prepare, ',', t.forward, ',', t.backward, ',', t.total, ',', t.low, ',', t.high, ',',
                            share, ',', t.bucket_pairs.all > 0 ? concat(seen) : "", ',', trained ? "trained" : "random",
                            ',', gpu, '\n'));
    }
  }
  if (file) file->commit();
}

}  // namespace scfa
