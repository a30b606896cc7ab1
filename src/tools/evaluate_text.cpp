#include "tools/evaluate_text.h"

#include <cmath>

#include "core/human.h"

namespace scfa {

namespace {

double mean_loss(const LossSums& sums) {
  return sums.loss / static_cast<double>(sums.tokens);
}
double accuracy(const LossSums& sums) {
  return sums.correct / static_cast<double>(sums.tokens);
}

std::string number(double value) {
  return printed("%.9g", value);
}

double recall_of(const HeadRecall& head) {
  return head.recall / static_cast<double>(head.queries);
}
double share_of(const HeadRecall& head) {
  return head.pairs / head.dense_pairs;
}

std::string range_of(int64_t first, int64_t last) {
  return concat(first, "-", last);
}

std::string loss_row(const std::string& name, const LossSums& sums) {
  return printed("  %-15s %12ld %9.4f %11.3f %8.2f%%\n", name.c_str(), sums.tokens, mean_loss(sums),
                 std::exp(mean_loss(sums)), 100 * accuracy(sums));
}

std::string short_row(const std::string& name, const ShortContextRange& range) {
  const double full = mean_loss(range.full), truncated = mean_loss(range.truncated);
  return printed("  %-15s %12ld %9.4f %11.4f %10.4f\n", name.c_str(), range.full.tokens, full, truncated,
                 truncated - full);
}

std::string recall_row(const std::string& layer, const std::string& head, const HeadRecall& sum) {
  const std::string ratio = sum.pairs > 0 ? printed("%.2f", recall_of(sum) / share_of(sum)) : "-";
  return printed("  %5s %5s %9.4f %9.4f %9s\n", layer.c_str(), head.c_str(), recall_of(sum), share_of(sum),
                 ratio.c_str());
}

HeadRecall sum_of(const std::vector<HeadRecall>& heads) {
  HeadRecall sum;
  for (const HeadRecall& head : heads) {
    sum.recall += head.recall;
    sum.queries += head.queries;
    sum.pairs += head.pairs;
    sum.dense_pairs += head.dense_pairs;
  }
  return sum;
}

std::string recall_text(const CheckpointEvaluation& e) {
  std::string out = printed(
      "\nrecall: the share of dense attention's mass on pairs that the pattern keeps; pairs: their share of all "
      "pairs\n"
      "with dense attention the loss is %.4f\n  %5s %5s %9s %9s %9s\n",
      mean_loss(*e.dense), "layer", "head", "recall", "pairs", "x pairs");
  std::vector<HeadRecall> layers;
  for (size_t l = 0; l < e.recall.size(); ++l) {
    layers.push_back(sum_of(e.recall[l]));
    for (size_t h = 0; h < e.recall[l].size(); ++h)
      out += recall_row(std::to_string(l), std::to_string(h), e.recall[l][h]);
    out += recall_row(std::to_string(l), "all", layers.back());
  }
  return out + recall_row("all", "all", sum_of(layers));
}

// Empty where the model is evaluated as it was trained.
std::string length_text(const CheckpointEvaluation& e) {
  const GptConfig &before = e.trained.model, &now = e.config.model;
  if (before.sequence_length == now.sequence_length && before.rotary_theta == now.rotary_theta) return {};
  return concat("length      ", now.sequence_length, " tokens, rotary_theta ", number(now.rotary_theta),
                "; trained with ", before.sequence_length, " tokens, ", number(before.rotary_theta), '\n');
}

// Columns of the CSV behind the name of the table.
struct CsvRow {
  std::string layer{}, head{}, first{}, last{}, tokens{}, loss{}, perplexity{}, accuracy{}, short_loss{}, recall{},
      pairs{};
};

std::string csv_line(const char* table, const CsvRow& r) {
  return concat(table, ',', r.layer, ',', r.head, ',', r.first, ',', r.last, ',', r.tokens, ',', r.loss, ',',
                r.perplexity, ',', r.accuracy, ',', r.short_loss, ',', r.recall, ',', r.pairs, '\n');
}

CsvRow csv_losses(int64_t first, int64_t last, const LossSums& sums) {
  return {.first = std::to_string(first),
          .last = std::to_string(last),
          .tokens = std::to_string(sums.tokens),
          .loss = number(mean_loss(sums)),
          .perplexity = number(std::exp(mean_loss(sums))),
          .accuracy = number(accuracy(sums))};
}

}  // namespace

std::string describe_evaluation(const CheckpointEvaluation& e) {
  std::string out =
      concat("checkpoint  ", e.checkpoint, ", step ", e.step, "\ntrained     ", describe_patterns(e.trained.model),
             "\nevaluated   ", describe_patterns(e.config.model), '\n', length_text(e), "text        ", e.data, ", ",
             name_of(e.split), " split, ", e.windows, " of ", e.available, " windows of ",
             e.config.model.sequence_length, " tokens\ndevice      ", e.device, '\n');
  if (!is_dense_everywhere(e.losses)) out += "segments    " + describe_balance(e.losses) + '\n';
  out += printed("\n  %-15s %12s %9s %11s %9s\n", "positions", "tokens", "loss", "perplexity", "accuracy");
  for (const PositionRange& range : e.positions) out += loss_row(range_of(range.first, range.last), range.sums);
  out += loss_row("all", e.losses.sums);
  if (!e.distances.empty()) {
    out += printed("\n  %-15s %12s %9s %11s %9s\n", "distances", "answers", "loss", "perplexity", "accuracy");
    for (const PositionRange& range : e.distances) out += loss_row(range_of(range.first, range.last), range.sums);
  }
  if (!e.short_context.empty()) {
    const int64_t N = 2 * e.short_context.front().first;
    out += printed("\nshort context: the same tokens at the end of windows of %ld, with %ld to %ld tokens of context\n",
                   N, N / 2 + 1, N);
    out += printed("  %-15s %12s %9s %11s %10s\n", "positions", "tokens", "loss", "short loss", "difference");
    for (const ShortContextRange& range : e.short_context) out += short_row(range_of(range.first, range.last), range);
    out += short_row("all", e.short_context_total());
  }
  return e.recall.empty() ? out : out + recall_text(e);
}

std::string evaluation_csv(const CheckpointEvaluation& e) {
  std::string out = "table,layer,head,first,last,tokens,loss,perplexity,accuracy,short_loss,recall,pairs\n";
  const int64_t T = e.config.model.sequence_length;
  out += csv_line("total", csv_losses(0, T - 1, e.losses.sums));
  for (const PositionRange& range : e.positions)
    out += csv_line("positions", csv_losses(range.first, range.last, range.sums));
  for (const PositionRange& range : e.distances)
    out += csv_line("distances", csv_losses(range.first, range.last, range.sums));
  for (const ShortContextRange& range : e.short_context) {
    CsvRow row = csv_losses(range.first, range.last, range.full);
    row.short_loss = number(mean_loss(range.truncated));
    out += csv_line("short_context", row);
  }
  if (e.dense) out += csv_line("dense", csv_losses(0, T - 1, *e.dense));
  for (size_t l = 0; l < e.recall.size(); ++l)
    for (size_t h = 0; h < e.recall[l].size(); ++h) {
      const HeadRecall& head = e.recall[l][h];
      out += csv_line("recall", {.layer = std::to_string(l),
                                 .head = std::to_string(h),
                                 .tokens = std::to_string(head.queries),
                                 .recall = number(recall_of(head)),
                                 .pairs = number(share_of(head))});
    }
  return out;
}

}  // namespace scfa
