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
int count() {
  return 0;
}
bool has_driver() {
  return false;
}
std::string description() {
  return "built without CUDA";
}
void use(int /*index*/) {
  absent();
}
void use_in_this_thread() {
  absent();
}
const Properties& properties() {
  absent();
}
void* allocate(size_t /*bytes*/) {
  absent();
}
void release(void* /*data*/, size_t /*bytes*/) noexcept {}
int64_t peak_allocated() {
  return 0;
}
int64_t free_memory() {
  absent();
}
void* allocate_pinned(size_t /*bytes*/) {
  absent();
}
void release_pinned(void* /*data*/) noexcept {}
void copy_to_device(void*, const void*, size_t, Stream) {
  absent();
}
void copy_to_host(void*, const void*, size_t, Stream) {
  absent();
}
void copy_to_pinned(void*, const void*, size_t, Stream) {
  absent();
}
void copy_on_device(void*, const void*, size_t, Stream) {
  absent();
}
void fill(void*, int, size_t, Stream) {
  absent();
}
void fill_rows(void*, int, size_t, size_t, size_t, Stream) {
  absent();
}
Stream create_stream(Priority /*priority*/) {
  absent();
}
void destroy_stream(Stream /*stream*/) noexcept {}
void synchronize(Stream, const char*) {
  absent();
}
Event create_event(bool) {
  absent();
}
void destroy_event(Event) noexcept {}
void record(Event, Stream) {
  absent();
}
void wait(Stream, Event) {
  absent();
}
void synchronize(Event) {
  absent();
}
bool is_past(Event) {
  absent();
}
double milliseconds_between(Event, Event) {
  absent();
}
void DestroyGraph::operator()(CUgraphExec_st*) const noexcept {}
bool can_capture() {
  return false;
}
OwnedGraph capture(Stream, const std::function<void()>&) {
  absent();
}
void launch(const OwnedGraph&, Stream) {
  absent();
}
void check_launch(const char*, Stream) {
  absent();
}
SpinReport* spin_report() {
  absent();
}
void push_range(const char*) {}
void pop_range() {}

}  // namespace scfa::gpu
