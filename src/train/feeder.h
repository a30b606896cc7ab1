// Hands batches to the device of a model. On a GPU they are copied from page-locked memory on a stream of their own, so
// that a batch is there before the work on the last one ends.
#pragma once
#include "model/gpt.h"

namespace scfa {

class Feeder {
 public:
  Feeder(Context& ctx, int64_t B, int64_t T);
  ~Feeder();
  Feeder(const Feeder&) = delete;
  Feeder& operator=(const Feeder&) = delete;

  static int64_t memory(const Context& ctx, int64_t B, int64_t T);  // bytes on a GPU; none on the CPU

  // A batch of a step: ids and targets (B, T), and samples (B), of which the first `rows` count (0: all). On a GPU it
  // lies in one of two buffers by turns, valid until the call after next; all work on the batch before must have been
  // launched. On the CPU it is valid as long as the vectors are.
  Batch put(const std::vector<int32_t>& ids, const std::vector<int32_t>& targets, const std::vector<uint32_t>& samples,
            uint32_t step, int64_t rows = 0);

 private:
  Batch copy_to_device(const std::vector<int32_t>& ids, const std::vector<int32_t>& targets,
                       const std::vector<uint32_t>& samples, uint32_t step);

  struct Slot {
    PinnedBuffer host;
    Buffer device;
    Event copied = nullptr, used = nullptr;
  };
  Context& ctx_;
  int64_t batch_, length_;
  std::vector<Slot> slots_;
  size_t next_ = 0;
};

}  // namespace scfa
