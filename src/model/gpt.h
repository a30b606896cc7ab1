// A GPT: forward and backward over one micro-batch at a time. Owns activations; parameters and gradients are those of a
// store.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "model/activations.h"
#include "model/block.h"
#include "model/parameter_store.h"

namespace scfa {

// One micro-batch, on the device of the model; segments may also lie on the host.
struct Batch {
  ConstTensor ids;              // (B, T) i32
  ConstTensor targets;          // (B, T) i32
  int64_t rows = 0;             // only the first `rows` sequences count in the loss; 0: all
  ConstTensor samples;          // (B) i32: number of each sequence within its step
  RandomStep step;              // kEvaluationStep for evaluation: fixed projections and drops
  float gradient_scale = 1.0f;  // 1 / (tokens of the step * the set's share that counts)
  // (L, B, H, T) u16, optional: instead of what the patterns would choose. Ignored where LayerSegments::filled_before.
  ConstTensor q_segments, k_segments;
};

struct LossSums {
  double loss = 0;     // nats, summed over the tokens that count
  double correct = 0;  // tokens whose most likely continuation was right
  int64_t tokens = 0;  // that count
  LossSums& operator+=(const LossSums& other);
};

// Callbacks while a pass is launched: before a forward pass first uses a group of parameters (ParameterTable::groups),
// and after backward has launched the last op that writes the gradients of a group.
class GptObserver {
 public:
  virtual ~GptObserver() = default;
  virtual void before_use(size_t group) = 0;
  virtual void gradients_ready(size_t group) = 0;
  // Attention's backward pass is launched next. Collectives are best started here: its persistent blocks take tiles
  // from a counter and lose only the SMs that a collective occupies, where GEMMs would need a second wave.
  virtual void before_attention_backward() = 0;
};

// Fills a.attention of a layer from a.qkv and a.shared_keys, on the context's stream, where a.segments are built.
using LayerAttention = std::function<void(int64_t layer, const BlockActivations& a, const Batch& batch)>;

class Gpt {
 public:
  enum class Mode {
    kTraining,
    kEvaluation,  // no gradients
    kDecoding,    // for a Decoder: no activations, so forward() is not possible
  };

  // Throws Error if config is invalid or memory does not suffice. The store, of the same config, must outlive the
  // model; for kTraining it must be one for training. batch: sequences of a micro-batch, T tokens each. seed: of the
  // random numbers of attention. length: T, if it is not config.sequence_length, which is then the most there can be.
  // recompute, precision: with kTraining.
  Gpt(ParameterStore& store, const GptConfig& config, int64_t batch, uint64_t seed, Mode mode, int64_t length = 0,
      Recompute recompute = Recompute::kNone, Precision precision = Precision::kDefault);

  // Bytes of activations by name, without allocating anything: of the stage of the config that takes most.
  static std::vector<Arena::Item> memory_plan(const Context& ctx, const GptConfig& config, int64_t batch, Mode mode,
                                              int64_t length = 0, Recompute recompute = Recompute::kNone,
                                              Precision precision = Precision::kDefault);

  const std::vector<Arena::Item>& memory() const { return memory_; }  // what was allocated

  // Switches to the patterns of a stage of the config; a model starts with stage 0. Call it between steps, after losses
  // were read; activations of the last forward pass are lost. Returns whether the stage changed.
  bool set_stage(int64_t stage);

  void set_observer(GptObserver* observer) { observer_ = observer; }  // null: none. Must outlive its use

  // What forward() calls in place of attention; empty: nothing. Not for training.
  void set_attention(LayerAttention attention);

  // Adds the micro-batch's losses to the sums. With gradients, the head's backward pass runs here too (logits are kept
  // a chunk at a time), and backward() must follow; gradients add to what is there. On a GPU both only launch work.
  void forward(const Batch& batch, bool gradients);
  void backward(const Batch& batch);
  // Begins a step. Also zeroes the bucket loads, where biases are learned from them. In fp8, the next forward pass with
  // gradients quantises the weights, and the later passes of the step reuse them: weights do not change within a step.
  void zero_gradients();
  void update_bucket_biases();  // by the loads of the step

  // The sums since the last call; waits for the device.
  LossSums take_losses();
  // The same without waiting: (3) f64 as in add_losses, read and set to zero by work on the context's stream.
  const Tensor& loss_sums() const { return acts_.loss_sums; }

  // After forward: logits (n, padded vocab) of tokens [begin, begin + n) of the micro-batch.
  void logits(Tensor out, int64_t begin);

  // The first tensor, in the order of computation, that holds a value that is not finite; empty if there is none.
  std::string first_non_finite() const;

  const GptConfig& config() const { return config_; }  // attention: of the current stage
  const ParameterTable& table() const { return store_.table(); }
  uint64_t seed() const { return seed_; }
  Precision precision() const { return precision_; }
  int64_t stage() const { return stage_; }
  Context& context() { return ctx_; }
  ParameterStore& store() { return store_; }
  const GptParams& params() const { return params_; }  // views of the weights
  const Activations& activations() const { return acts_; }

 private:
  bool training() const { return mode_ == Mode::kTraining; }
  void plan();
  void head(const Batch& batch, bool gradients);
  int64_t row_tokens(const Batch& batch) const;  // of the rows that count
  bool in_fp8(bool gradients) const { return gradients && precision_ == Precision::kFp8; }
  AttentionDraw draw(const Batch& batch, int64_t layer, bool gradients) const;

  ParameterStore& store_;
  Context& ctx_;
  GptConfig config_;
  int64_t batch_, length_;
  uint64_t seed_;
  Mode mode_;
  Recompute recompute_;
  Precision precision_;
  bool rounds_weights_ = true;  // in fp8: the weights may have changed since they were rounded
  int64_t stage_ = 0;
  std::vector<Arena::Item> memory_;
  std::unique_ptr<Arena> arena_;
  GptObserver* observer_ = nullptr;
  LayerAttention attention_;
  GptParams params_, grads_;
  Activations acts_;
};

}  // namespace scfa
