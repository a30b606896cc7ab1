#include "train/machine.h"

#include <omp.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <optional>
#include <string>

#include "core/blas_startup.h"
#include "core/gpu.h"
#include "core/human.h"

namespace scfa {

namespace {

// The value of "key : value" or "key: value" in a file of such lines.
std::string look_up(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(key)) continue;
    const size_t colon = line.find(':');
    const size_t begin = line.find_first_not_of(" \t", colon + 1);
    if (colon != std::string::npos && begin != std::string::npos) return line.substr(begin);
  }
  return {};
}

int64_t memory_line(const std::string& key) {
  const std::string value = look_up("/proc/meminfo", key);
  return value.empty() ? 0 : std::stoll(value) * 1024;
}

// The number a file holds; 0 if there is none (no such file, or "max").
int64_t number_in(const char* path) {
  int64_t value = 0;
  std::ifstream(path) >> value;
  return value;
}

// What a limit of the process leaves of a kind of memory; nothing where there is no limit.
std::optional<int64_t> left_of(int resource, const char* in_use) {
  rlimit limit{};
  if (getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return {};
  const std::string used = look_up("/proc/self/status", in_use);
  const int64_t bytes = used.empty() ? 0 : std::stoll(used) * 1024;
  return std::max<int64_t>(static_cast<int64_t>(std::min<rlim_t>(limit.rlim_cur, INT64_MAX)) - bytes, 1);
}

}  // namespace

Machine this_machine() {
  const std::string cpu = look_up("/proc/cpuinfo", "model name");
  return {cpu.empty() ? "unknown CPU" : cpu, omp_get_max_threads(), memory_line("MemTotal")};
}

Device choose_device(const std::string& device) {
  if (device == "cpu" || (device == "auto" && !gpu::available())) return Device::kCpu;
  require(gpu::available(), "device: gpu: ", gpu::description(), "; set it to cpu or auto");
  return Device::kGpu;
}

std::string cpu_warning(const std::string& device) {
  if (device != "auto" || gpu::available() || !gpu::has_driver()) return {};
  return "computes on the CPU: " + gpu::description();
}

std::string device_name(Device device) {
  return device == Device::kGpu ? gpu::properties().name : "cpu";
}

double data_sheet_flops(const std::string& gpu) {
  // The first entry that the name contains. SXM and PCIe boards differ; a name without either is the SXM board's.
  static constexpr struct {
    const char* name;
    double tflops;
  } kGpus[] = {{"H100 PCIe", 756},  {"H100 NVL", 835},  {"H100", 989.4},  {"H200 NVL", 835},     {"H200", 989.4},
               {"GH200", 989.4},    {"H800", 989.4},    {"H20", 148},     {"B200", 2250},        {"A100", 312},
               {"A800", 312},       {"A30", 165},       {"A40", 149.7},   {"A10G", 70},          {"A10", 125},
               {"L40S", 362},       {"L40", 181},       {"L4", 121},      {"RTX 6000 Ada", 364}, {"RTX A6000", 154.8},
               {"RTX 4090", 165.2}, {"RTX 4080", 97.5}, {"RTX 3090", 71}, {"RTX 3080", 59.5}};
  for (const auto& entry : kGpus)
    if (gpu.find(entry.name) != std::string::npos) return entry.tflops * 1e12;
  return 0;
}

double peak_flops(Device device) {
  return device == Device::kGpu ? data_sheet_flops(gpu::properties().name) : 0;
}

int64_t available_memory() {
  int64_t available = memory_line("MemAvailable");
  const int64_t limit = number_in("/sys/fs/cgroup/memory.max"), used = number_in("/sys/fs/cgroup/memory.current");
  if (limit > 0) available = std::min(available, std::max<int64_t>(limit - used, 0));
  for (const std::optional<int64_t> left : {left_of(RLIMIT_AS, "VmSize"), left_of(RLIMIT_DATA, "VmData")})
    if (left) available = std::min(available, *left);
  return available;
}

int64_t available_memory(const Context& ctx) {
  return ctx.on_gpu() ? gpu::free_memory() : available_memory();
}

void check_fits(const Context& ctx, const std::string& what, int64_t bytes) {
  const int64_t free = available_memory(ctx);
  const bool known = ctx.on_gpu() || free > 0;
  require(!known || bytes <= free, what, ": needs ", format_bytes(bytes),
          ctx.on_gpu() ? " of GPU memory" : " of memory", ", and ", format_bytes(free), " are free");
}

void require_blas_memory(int64_t beside) {
  constexpr size_t kThread = size_t{136} << 20;  // stack and malloc's arena
  const auto threads = static_cast<size_t>(omp_get_max_threads());
  const size_t size = (kBlasBuffer + kThread) * threads + static_cast<size_t>(beside);
  void* probe = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  require(probe != MAP_FAILED, "memory: ", format_bytes(static_cast<int64_t>(size)),
          " of address space for the model and for GEMMs on ", threads,
          " threads are not there; raise the limit (ulimit -v), or set OMP_NUM_THREADS lower");
  ::munmap(probe, size);
}

int64_t peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * int64_t{1024};
}

}  // namespace scfa
