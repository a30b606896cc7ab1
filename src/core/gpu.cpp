#include "core/gpu.h"

#include <cuda_runtime.h>
#include <nvtx3/nvToolsExt.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "core/error.h"

namespace scfa::gpu {

namespace {

#ifdef SCFA_BOUNDED_SPINS
constexpr bool kBoundedSpins = true;
#else
constexpr bool kBoundedSpins = false;
#endif

// What a kernel that waited too long has reported, or nothing.
std::string describe_spin() {
  if (!kBoundedSpins || spin_report()->site == 0) return {};
  const SpinReport& report = *spin_report();
  constexpr const char* kSites[] = {"", "a barrier in shared memory", "dq_semaphore", "dq_dk_merge_semaphore"};
  return concat("; block ", report.block, ", thread ", report.thread, " waited too long for ", kSites[report.site % 4],
                " (", report.detail, ")");
}

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // clear it: the exception carries it from here on
  fail(what, ": ", cudaGetErrorString(status), describe_spin());
}

std::atomic<int64_t> allocated{0}, peak{0};
std::atomic<int> chosen{0};

bool waits_for_launches() {
  static const bool sync = [] {
    const char* value = std::getenv("SCFA_SYNC");
    return value != nullptr && std::strcmp(value, "0") != 0;
  }();
  return sync;
}

std::string hex(const cudaUUID_t& uuid) {
  std::string text;
  for (const char byte : uuid.bytes) {
    constexpr const char* kDigits = "0123456789abcdef";
    text += {kDigits[static_cast<unsigned char>(byte) >> 4], kDigits[byte & 15]};
  }
  return text;
}

std::string version_text(int version) {
  return concat(version / 1000, ".", version % 1000 / 10);
}

// What the driver says of this process's GPUs, asked once.
struct DeviceQuery {
  int devices = 0;
  int driver = 0;  // the newest CUDA version that the driver supports, 13000 for 13.0; 0: there is no driver
  std::string error;
};
const DeviceQuery& device_query() {
  static const DeviceQuery answer = [] {
    DeviceQuery its;
    const cudaError_t status = cudaGetDeviceCount(&its.devices);
    if (status != cudaSuccess) its = {.error = cudaGetErrorString(status)};
    cudaDriverGetVersion(&its.driver);
    cudaGetLastError();
    return its;
  }();
  return answer;
}

}  // namespace

int count() {
  return device_query().devices;
}

bool available() {
  return count() > 0;
}

bool has_driver() {
  return device_query().driver > 0;
}

void use(int index) {
  chosen = index;
  use_in_this_thread();
}

void use_in_this_thread() {
  check(cudaSetDevice(chosen), "choosing the GPU");
}

const Properties& properties() {
  static std::mutex mutex;
  static std::map<int, Properties> by_number;  // the GPU may be chosen after the first look at one
  const std::lock_guard lock(mutex);
  const int number = chosen;
  if (const auto found = by_number.find(number); found != by_number.end()) return found->second;
  cudaDeviceProp p;
  check(cudaGetDeviceProperties(&p, number), "reading the GPU's properties");
  return by_number[number] = {p.name,
                              concat(p.pciDomainID, ":", p.pciBusID, ":", p.pciDeviceID, " ", hex(p.uuid)),
                              version_text(device_query().driver),
                              p.major * 10 + p.minor,
                              p.multiProcessorCount,
                              static_cast<int64_t>(p.totalGlobalMem),
                              static_cast<int64_t>(p.sharedMemPerBlockOptin)};
}

std::string description() {
  if (available()) return concat(properties().name, ", ", properties().memory >> 20, " MiB");
  if (!has_driver()) return "no CUDA driver";
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  return concat(device_query().error, "; program of CUDA ", version_text(CUDART_VERSION), ", driver for CUDA ",
                version_text(device_query().driver),
                visible ? concat(", CUDA_VISIBLE_DEVICES is \"", visible, "\"") : "");
}

void* allocate(size_t bytes) {
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, bytes);
  if (status != cudaSuccess) {
    cudaGetLastError();
    fail("not enough GPU memory for ", bytes / 1000000, " MB: ", cudaGetErrorString(status));
  }
  allocated += static_cast<int64_t>(bytes);
  peak = std::max(peak.load(), allocated.load());
  return data;
}

void release(void* data, size_t bytes) noexcept {
  cudaFree(data);
  allocated -= static_cast<int64_t>(bytes);
}

int64_t peak_allocated() {
  return peak;
}

int64_t free_memory() {
  size_t available_bytes = 0, total = 0;
  check(cudaMemGetInfo(&available_bytes, &total), "asking for free GPU memory");
  return static_cast<int64_t>(available_bytes);
}

void* allocate_pinned(size_t bytes) {
  void* data = nullptr;
  check(cudaMallocHost(&data, bytes), "allocating pinned host memory");
  return data;
}

void release_pinned(void* data) noexcept {
  cudaFreeHost(data);
}

void copy_to_device(void* device, const void* host, size_t bytes, Stream stream) {
  check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream), "copy to the GPU");
}

void copy_to_host(void* host, const void* device, size_t bytes, Stream stream) {
  check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream), "copy from the GPU");
  synchronize(stream, "copy from the GPU");
}

void copy_to_pinned(void* pinned, const void* device, size_t bytes, Stream stream) {
  check(cudaMemcpyAsync(pinned, device, bytes, cudaMemcpyDeviceToHost, stream), "copy from the GPU");
}

void copy_on_device(void* to, const void* from, size_t bytes, Stream stream) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream), "copy on the GPU");
}

void fill(void* device, int byte, size_t bytes, Stream stream) {
  check(cudaMemsetAsync(device, byte, bytes, stream), "fill on the GPU");
}
void fill_rows(void* device, int byte, size_t bytes, size_t pitch, size_t rows, Stream stream) {
  if (bytes == pitch) return fill(device, byte, bytes * rows, stream);
  check(cudaMemset2DAsync(device, pitch, byte, bytes, rows, stream), "fill on the GPU");
}

Stream create_stream(Priority priority) {
  int lowest = 0, highest = 0;
  check(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "reading the priorities of streams");
  Stream stream = nullptr;
  check(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, priority == Priority::kHigh ? highest : lowest),
        "creating a stream");
  return stream;
}

void destroy_stream(Stream stream) noexcept {
  cudaStreamDestroy(stream);
}

void synchronize(Stream stream, const char* what) {
  check(cudaStreamSynchronize(stream), what);
}

Event create_event(bool timing) {
  Event event = nullptr;
  check(cudaEventCreateWithFlags(&event, timing ? cudaEventDefault : cudaEventDisableTiming), "creating an event");
  return event;
}

void destroy_event(Event event) noexcept {
  cudaEventDestroy(event);
}

void record(Event event, Stream stream) {
  check(cudaEventRecord(event, stream), "recording an event");
}

void wait(Stream stream, Event event) {
  check(cudaStreamWaitEvent(stream, event, 0), "waiting for an event");
}

void synchronize(Event event) {
  check(cudaEventSynchronize(event), "waiting for an event");
}

bool is_past(Event event) {
  const cudaError_t status = cudaEventQuery(event);
  if (status == cudaErrorNotReady) return false;
  check(status, "asking for an event");
  return true;
}

double milliseconds_between(Event from, Event to) {
  float ms = 0;
  check(cudaEventElapsedTime(&ms, from, to), "reading the time between events");
  return static_cast<double>(ms);
}

void DestroyGraph::operator()(CUgraphExec_st* graph) const noexcept {
  cudaGraphExecDestroy(graph);
}

bool can_capture() {
  return !waits_for_launches();
}

OwnedGraph capture(Stream stream, const std::function<void()>& work) {
  struct DestroyTemplate {
    void operator()(cudaGraph_t graph) const { cudaGraphDestroy(graph); }
  };
  std::unique_ptr<CUgraph_st, DestroyTemplate> recorded;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capturing a CUDA graph");
  const auto end = [&] {
    cudaGraph_t graph = nullptr;
    const cudaError_t status = cudaStreamEndCapture(stream, &graph);
    recorded.reset(graph);
    return status;
  };
  try {
    work();
  } catch (...) {
    end();
    cudaGetLastError();
    throw;
  }
  check(end(), "capturing a CUDA graph");
  CUgraphExec_st* graph = nullptr;
  check(cudaGraphInstantiate(&graph, recorded.get(), 0), "instantiating a CUDA graph");
  return OwnedGraph(graph);
}

void launch(const OwnedGraph& graph, Stream stream) {
  check(cudaGraphLaunch(graph.get(), stream), "launching a CUDA graph");
}

void check_launch(const char* op, Stream stream) {
  check(cudaGetLastError(), op);
  if (waits_for_launches()) synchronize(stream, op);
}

SpinReport* spin_report() {
  static SpinReport* const report = [] {
    void* data = nullptr;
    check(cudaHostAlloc(&data, sizeof(SpinReport), cudaHostAllocMapped), "allocating the report of waits");
    return new (data) SpinReport{};
  }();
  return report;
}

void push_range(const char* name) {
  nvtxRangePushA(name);
}

void pop_range() {
  nvtxRangePop();
}

}  // namespace scfa::gpu
