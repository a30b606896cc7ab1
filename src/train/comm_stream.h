// The communication stream of a context beside its main one: which waits for which, and how long that takes. On a CPU
// there are no streams: collectives have been done when their call returns, and only their times are taken.
#pragma once
#include <chrono>

#include "core/context.h"

namespace scfa {

// Names of times of a step beside those of its ops: how long its work waited for other ranks, and how long sums and
// copies over ranks took in all, most of it beside other work.
inline constexpr const char* kExposed = "communication_exposed";
inline constexpr const char* kCommunication = "communication";

class CommStream {
 public:
  explicit CommStream(Context& ctx);
  ~CommStream();
  CommStream(const CommStream&) = delete;
  CommStream& operator=(const CommStream&) = delete;

  // In the first step CUDA loads each kernel at its first launch (lazy loading). Loading can wait for a running
  // collective that waits for a kernel of another rank: the ranks could deadlock. So until allow_overlap() is called,
  // join() blocks the host, and collectives do not overlap with compute.
  void allow_overlap() { overlaps_ = true; }
  bool overlaps() const { return overlaps_; }

  // While on, the profiler gets kExposed and, on GPUs, kCommunication.
  void measure_times(bool on) { measuring_ = on; }

  void fork();  // the communication stream waits for all that was launched on the main one
  void join();  // the main stream waits for all that was launched on the communication one
  void join(Event event);

  // Calls collectives(), which launches them on the communication stream or, on a CPU, has done them when it returns.
  template <class Work>
  void run(const Work& collectives) {
    timed(ctx_.on_gpu() ? kCommunication : kExposed, ctx_.comm_stream(), collectives);
  }

 private:
  template <class Work>
  void timed(const char* name, Stream stream, const Work& work);

  Context& ctx_;
  Event computed_ = nullptr, done_ = nullptr;
  bool overlaps_ = false, measuring_ = false;
};

template <class Work>
void CommStream::timed(const char* name, Stream stream, const Work& work) {
  if (!measuring_) return work();
  Profiler& profiler = ctx_.profiler();
  if (ctx_.on_gpu()) {
    Event from = profiler.mark(stream);
    work();
    return profiler.add_span(name, Category::kCommunication, from, profiler.mark(stream));
  }
  const auto begin = std::chrono::steady_clock::now();
  work();
  profiler.add(name, Category::kCommunication,
               std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
}

}  // namespace scfa
