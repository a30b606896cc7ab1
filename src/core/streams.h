// A GPU's queues of work, one for each purpose, made and destroyed together; all empty on the CPU.
#pragma once
#include "core/gpu.h"

namespace scfa {

struct Streams {
  explicit Streams(bool on_gpu) {
    if (!on_gpu) return;
    main = gpu::create_stream();
    copy = gpu::create_stream();
    side = gpu::create_stream();
    comm = gpu::create_stream(gpu::Priority::kHigh);
    forked = gpu::create_event(false);
    joined = gpu::create_event(false);
  }
  ~Streams() {
    if (main == nullptr) return;
    for (Event event : {forked, joined}) gpu::destroy_event(event);
    for (Stream stream : {comm, side, copy, main}) gpu::destroy_stream(stream);
  }
  Streams(const Streams&) = delete;
  Streams& operator=(const Streams&) = delete;

  Stream main = nullptr;  // what a step computes
  Stream copy = nullptr;  // batches, from the host
  Stream side = nullptr;  // parts of an op beside others of it
  Stream comm = nullptr;  // collectives; their blocks go before those of the others
  Event forked = nullptr, joined = nullptr;
};

}  // namespace scfa
