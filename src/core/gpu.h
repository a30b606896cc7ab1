// The few things host code asks of the CUDA runtime. gpu.cpp implements them; gpu_none.cpp stands in for it in a build
// without CUDA, where available() is false and the others throw.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

struct CUstream_st;
struct CUevent_st;
struct CUgraphExec_st;

namespace scfa {

using Stream = CUstream_st*;
using Event = CUevent_st*;

namespace gpu {

bool available();   // a usable GPU, found by asking the driver once
int count();        // how many there are
bool has_driver();  // whether a CUDA driver is installed

std::string description();  // name and memory of the GPU, or why none is usable

// Selects the GPU of this process (default: 0). Call it before anything is allocated or launched. Threads other than
// the main one call use_in_this_thread() before they call the runtime.
void use(int index);
void use_in_this_thread();

struct Properties {
  std::string name;
  std::string identity;  // the same for this GPU in every process of a machine, whatever its number there
  std::string driver;    // the newest CUDA version that the driver supports, as "13.0"
  int compute = 0;       // compute capability, major * 10 + minor
  int multiprocessors = 0;
  int64_t memory = 0;         // bytes
  int64_t shared_memory = 0;  // bytes that a block can have
};
const Properties& properties();

// ---- memory ---------------------------------------------------------------------------------------------------------
void* allocate(size_t bytes);  // throws Error naming the size if there is not enough
void release(void* data, size_t bytes) noexcept;
int64_t peak_allocated();             // bytes that allocate() has handed out, at their highest so far
int64_t free_memory();                // bytes that could be allocated now
void* allocate_pinned(size_t bytes);  // host memory that copies run from and to beside other work
void release_pinned(void* data) noexcept;

// ---- work on a stream -----------------------------------------------------------------------------------------------
void copy_to_device(void* device, const void* host, size_t bytes, Stream stream);
void copy_to_host(void* host, const void* device, size_t bytes, Stream stream);  // waits for the stream
// pinned: of allocate_pinned. Does not wait.
void copy_to_pinned(void* pinned, const void* device, size_t bytes, Stream stream);
void copy_on_device(void* to, const void* from, size_t bytes, Stream stream);
void fill(void* device, int byte, size_t bytes, Stream stream);
// `bytes` of each of `rows` rows that begin `pitch` bytes apart.
void fill_rows(void* device, int byte, size_t bytes, size_t pitch, size_t rows, Stream stream);
enum class Priority { kNormal, kHigh };
Stream create_stream(Priority priority = Priority::kNormal);
void destroy_stream(Stream stream) noexcept;
void synchronize(Stream stream, const char* what);

Event create_event(bool timing);
void destroy_event(Event event) noexcept;
void record(Event event, Stream stream);
void wait(Stream stream, Event event);              // work launched on the stream from now on comes after the event
void synchronize(Event event);                      // the host waits
bool is_past(Event event);                          // whether all work before its last record() has ended
double milliseconds_between(Event from, Event to);  // both made with timing, and past

// Work on a stream that was captured instead of done, to be launched again and again. Work on other streams that waits
// for it, or that it waits for, is captured too.
struct DestroyGraph {
  void operator()(CUgraphExec_st* graph) const noexcept;
};
using OwnedGraph = std::unique_ptr<CUgraphExec_st, DestroyGraph>;
bool can_capture();  // not while SCFA_SYNC is set: no launch can be waited for during a capture
OwnedGraph capture(Stream stream, const std::function<void()>& work);  // throws Error if work cannot be captured
void launch(const OwnedGraph& graph, Stream stream);

// After every launch: throws Error naming the op if the launch failed. SCFA_SYNC=1 in the environment makes it wait for
// the kernel too, so that a fault is reported by the op that caused it.
void check_launch(const char* op, Stream stream);

// In builds with SCFA_BOUNDED_SPINS: where a kernel that waited too long says so before it ends (see
// kernels/sm90/bounded_spin.cuh), in host memory that kernels can write to. check_launch and the functions
// that wait read it.
enum class SpinSite : uint32_t { kNone, kBarrier, kDqSemaphore, kMergeSemaphore };
struct SpinReport {
  unsigned site, detail, block, thread;
};
SpinReport* spin_report();

// Ranges that profilers show (NVTX).
void push_range(const char* name);
void pop_range();

}  // namespace gpu
}  // namespace scfa
