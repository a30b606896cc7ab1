#include "core/error.h"
#include "core/gpu.h"

namespace scfa::gpu {

namespace {
[[noreturn]] void absent() {
  fail("this build has no CUDA: configure it on a machine with the CUDA Toolkit");
}
}  // namespace

bool available() {
  return false;
}
std::string description() {
  return "built without CUDA";
}
void* allocate(size_t /*bytes*/) {
  absent();
}
void release(void* /*data*/) noexcept {}
void copy_to_device(void*, const void*, size_t, Stream) {
  absent();
}
void copy_to_host(void*, const void*, size_t, Stream) {
  absent();
}
Stream create_stream() {
  absent();
}
void destroy_stream(Stream /*stream*/) noexcept {}
void synchronize(Stream, const char*) {
  absent();
}
void check_launch(const char*, Stream) {
  absent();
}

}  // namespace scfa::gpu
