#include "train/comm_stream.h"

namespace scfa {

CommStream::CommStream(Context& ctx) : ctx_(ctx) {
  if (!ctx.on_gpu()) return;
  computed_ = gpu::create_event(false);
  done_ = gpu::create_event(false);
}

CommStream::~CommStream() {
  if (!ctx_.on_gpu()) return;
  gpu::destroy_event(computed_);
  gpu::destroy_event(done_);
}

void CommStream::fork() {
  if (!ctx_.on_gpu()) return;
  gpu::record(computed_, ctx_.stream());
  gpu::wait(ctx_.comm_stream(), computed_);
}

void CommStream::join() {
  if (ctx_.on_gpu()) gpu::record(done_, ctx_.comm_stream());
  join(done_);
}

void CommStream::join(Event event) {
  if (!ctx_.on_gpu()) return;
  timed(kExposed, ctx_.stream(), [&] { gpu::wait(ctx_.stream(), event); });
  if (!overlaps_) gpu::synchronize(event);
}

}  // namespace scfa
