// Memory on either device for code that plans its tensors with an Arena: each tensor apart, poisoned, between guard
// bands that are checked when it goes away.
#pragma once
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "core/arena.h"
#include "support/array.h"
#include "support/gpu.h"

namespace scfa::test {

class GuardedMemory {
 public:
  explicit GuardedMemory(Context& ctx);
  ~GuardedMemory();
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;

  Context& context() const { return ctx_; }
  Arena& arena() { return arena_; }

  // Of tensors taken from the arena, whole. On the stream of the context.
  void poison(const Tensor& tensor) const;
  void fill_normal(const Tensor& tensor, uint64_t seed, double scale = 1.0) const;
  void write(const Tensor& tensor, const std::vector<double>& elements) const;

  // Of these or of views of them: the same view of memory of the host that has what the device has now. Waits for it.
  Tensor on_host(const Tensor& view) const;
  std::vector<double> read(const Tensor& view) const { return values(on_host(view)); }

 private:
  struct Block {
    Array host;  // on the CPU the memory itself
    std::optional<GpuCopy> device;
    Block(const Context& ctx, const std::string& name, const Tensor& like);
    Tensor tensor() const { return device ? Tensor(*device) : host.view(); }
  };
  void* add(const std::string& name, const Tensor& like);
  Block& block_of(const Tensor& view) const;

  Context& ctx_;
  Arena arena_;
  mutable std::deque<Block> blocks_;
};

}  // namespace scfa::test
