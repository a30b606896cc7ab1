#include "support/guarded_memory.h"

namespace scfa::test {

GuardedMemory::Block::Block(const Context& ctx, const std::string& name, const Tensor& like) : host(name, like) {
  if (ctx.on_gpu()) device.emplace(ctx, host);
}

GuardedMemory::GuardedMemory(Context& ctx)
    : ctx_(ctx),
      arena_(ctx.device(), [this](const std::string& name, const Tensor& like) { return add(name, like); }) {}

GuardedMemory::~GuardedMemory() {
  try {  // arrays check their guard bands as they go away
    for (const Block& block : blocks_)
      if (block.device) block.device->download(block.host);
  } catch (const Error& error) {
    ADD_FAILURE() << error.what();
  }
}

void* GuardedMemory::add(const std::string& name, const Tensor& like) {
  return blocks_.emplace_back(ctx_, name, like).tensor().data;
}

GuardedMemory::Block& GuardedMemory::block_of(const Tensor& view) const {
  for (Block& block : blocks_) {
    const Tensor whole = block.tensor();
    const auto* first = static_cast<const char*>(whole.data);
    if (view.data == first || (view.data > first && view.data < first + whole.bytes())) return block;
  }
  fail("not of this memory: ", view.describe());
}

void GuardedMemory::poison(const Tensor& tensor) const {
  if (ctx_.on_gpu())
    gpu::fill(tensor.data, Array::kPoison, static_cast<size_t>(tensor.bytes()), ctx_.stream());
  else
    block_of(tensor).host.poison();
}

void GuardedMemory::fill_normal(const Tensor& tensor, uint64_t seed, double scale) const {
  Block& block = block_of(tensor);
  block.host.fill_normal(seed, scale);
  if (block.device) ctx_.copy(*block.device, block.host);
}

void GuardedMemory::write(const Tensor& tensor, const std::vector<double>& elements) const {
  Block& block = block_of(tensor);
  block.host.assign(elements);
  if (block.device) ctx_.copy(*block.device, block.host);
}

Tensor GuardedMemory::on_host(const Tensor& view) const {
  const Block& block = block_of(view);
  if (block.device) block.device->download(block.host);
  Tensor copy = view;
  copy.device = Device::kCpu;
  copy.data = static_cast<char*>(block.host.view().data) +
              (static_cast<const char*>(view.data) - static_cast<const char*>(block.tensor().data));
  return copy;
}

}  // namespace scfa::test
