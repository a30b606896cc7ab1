#include <nccl.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "comm/collectives.h"

namespace scfa::nccl {

namespace {

// Multiprocessors for collectives: enough for NVLink, few enough beside the backward pass. NCCL_MAX_CTAS overrides it.
constexpr int kBlocks = 16;

void check_status(ncclResult_t status, const char* what, ncclComm_t comm) {
  if (status == ncclSuccess || status == ncclInProgress) return;
  const char* last = ncclGetLastError(comm);
  fail("NCCL: ", what, ": ", ncclGetErrorString(status), last != nullptr && *last != 0 ? concat("; ", last) : "");
}

ncclDataType_t type_of(const Tensor& t) {
  switch (t.dtype) {
    case DType::kF32:
      return ncclFloat32;
    case DType::kF64:
      return ncclFloat64;
    case DType::kBF16:
      return ncclBfloat16;
    default:
      fail("NCCL: no collective takes ", t.describe());
  }
}

// NCCL takes ranks of one host on one GPU for a mistake, unless they say that they are of different hosts.
void let_share_gpu(const World& world) {
  setenv("NCCL_HOSTID", concat(world.host(world.rank()), ".", world.rank()).c_str(), 0);
  if (world.machines() > 1) return;
  setenv("NCCL_SOCKET_IFNAME", "lo", 0);
  setenv("NCCL_IB_DISABLE", "1", 0);
}

class NcclCollectives : public Collectives {
 public:
  NcclCollectives(World& world, Context& ctx, bool share_gpu) : ctx_(ctx), rank_(world.rank()), size_(world.size()) {
    if (share_gpu) let_share_gpu(world);
    ncclUniqueId id{};
    if (world.is_rank0()) check_status(ncclGetUniqueId(&id), "starting", nullptr);
    id = world.broadcast("the NCCL id", id);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.maxCTAs = kBlocks;
    check_status(ncclCommInitRankConfig(&comm_, size_, id, rank_, &config), "joining", nullptr);
  }
  ~NcclCollectives() override {
    if (aborted_.exchange(true)) return;
    ncclCommFinalize(comm_);
    ncclCommDestroy(comm_);
  }

  void all_reduce(const Tensor& t) override {
    run("all-reduce",
        [&] { return ncclAllReduce(t.data, t.data, count(t.numel()), type_of(t), ncclSum, comm_, stream()); });
  }

  // Parts are equal but for the rest of the last rank.
  void reduce_scatter(const Tensor& t) override {
    const int64_t each = part_of(t.numel(), 0, size_).size(), rest = t.numel() - each * size_;
    const auto last = size_ - 1;
    run("reduce-scatter", [&]() -> ncclResult_t {
      ncclGroupStart();
      if (size_ == 1) return ncclGroupEnd();
      if (each > 0)
        ncclReduceScatter(t.data, t.offset(each * rank_), count(each), type_of(t), ncclSum, comm_, stream());
      void* behind = t.offset(each * size_);
      if (rest > 0) ncclReduce(behind, behind, count(rest), type_of(t), ncclSum, last, comm_, stream());
      return ncclGroupEnd();
    });
  }

  void all_gather(const Tensor& t) override {
    const int64_t each = part_of(t.numel(), 0, size_).size(), rest = t.numel() - each * size_;
    const auto last = size_ - 1;
    run("all-gather", [&]() -> ncclResult_t {
      ncclGroupStart();
      if (size_ == 1) return ncclGroupEnd();
      if (each > 0) ncclAllGather(t.offset(each * rank_), t.data, count(each), type_of(t), comm_, stream());
      void* behind = t.offset(each * size_);
      if (rest > 0) ncclBroadcast(behind, behind, count(rest), type_of(t), last, comm_, stream());
      return ncclGroupEnd();
    });
  }

  void broadcast(const Tensor& t) override {
    run("broadcast", [&] { return ncclBroadcast(t.data, t.data, count(t.numel()), type_of(t), 0, comm_, stream()); });
  }

  void abort() noexcept override {
    if (!aborted_.exchange(true)) ncclCommAbort(comm_);
  }

  void check() override {
    ncclResult_t status = ncclSuccess;
    if (!aborted_ && ncclCommGetAsyncError(comm_, &status) == ncclSuccess) check_status(status, "a collective", comm_);
  }

  std::string describe() const override { return description(); }

 private:
  static size_t count(int64_t n) { return static_cast<size_t>(n); }
  cudaStream_t stream() const { return ctx_.comm_stream(); }
  template <class Launch>
  void run(const char* what, const Launch& launch) {
    check_status(launch(), what, comm_);
  }

  Context& ctx_;
  int rank_, size_;
  ncclComm_t comm_ = nullptr;
  std::atomic<bool> aborted_{false};
};

}  // namespace

bool built() {
  return true;
}

std::string description() {
  int version = 0;
  ncclGetVersion(&version);
  return concat("NCCL ", version / 10000, ".", version / 100 % 100, ".", version % 100);
}

std::unique_ptr<Collectives> make(World& world, Context& ctx, bool share_gpu) {
  return std::make_unique<NcclCollectives>(world, ctx, share_gpu);
}

}  // namespace scfa::nccl
