// Collectives of CPU ranks, a few million elements at a time. Each rank gets the others' values of its part and adds
// them in the order of the ranks, so that sums do not depend on who is late.
#include <algorithm>
#include <cstring>
#include <vector>

#include "comm/collectives.h"

namespace scfa {

namespace {

constexpr int64_t kPiece = 4 << 20;  // elements

class HostCollectives : public Collectives {
 public:
  explicit HostCollectives(World& world) : world_(world) {}

  // Whole parts of the whole tensor, so that the sums are those of reduce_scatter to the bit.
  void all_reduce(const Tensor& t) override {
    reduce_scatter(t);
    all_gather(t);
  }

  void reduce_scatter(const Tensor& t) override {
    require(t.device == Device::kCpu && t.contiguous(), "reduce_scatter: must be contiguous on the CPU, not ",
            t.describe());
    if (t.dtype == DType::kF64) return add_parts<double>(t);
    require(t.dtype == DType::kF32, "reduce_scatter: sums f32 and f64, not ", t.describe());
    add_parts<float>(t);
  }

  void all_gather(const Tensor& t) override {
    const auto element = static_cast<int64_t>(size_of(t.dtype));
    const int64_t n = t.numel();
    const auto ranks = static_cast<size_t>(world_.size());
    // Parts lie far apart, so a round takes the same stretch of each part through a buffer.
    const int64_t longest = part_of(n, world_.size() - 1, world_.size()).size();
    const int64_t round = std::max<int64_t>(1, kPiece / world_.size());
    for (int64_t done = 0; done < longest; done += round) {
      std::vector<int64_t> limits{0};
      for (size_t r = 0; r < ranks; ++r)
        limits.push_back(limits.back() + stretch(n, static_cast<int>(r), done, round).size() * element);
      buffer_.resize(static_cast<size_t>(limits.back()));
      const auto self = static_cast<size_t>(world_.rank());
      const Range mine = stretch(n, world_.rank(), done, round);
      std::memcpy(buffer_.data() + limits[self], t.offset(mine.begin), static_cast<size_t>(mine.size() * element));
      world_.transport().all_gather(buffer_.data(), limits);
      for (size_t r = 0; r < ranks; ++r) {
        const Range its = stretch(n, static_cast<int>(r), done, round);
        std::memcpy(t.offset(its.begin), buffer_.data() + limits[r], static_cast<size_t>(its.size() * element));
      }
    }
  }

  void broadcast(const Tensor& t) override {
    // As a gathering to which only rank 0 adds anything.
    auto* bytes = static_cast<char*>(t.data);
    for (int64_t begin = 0; begin < t.bytes(); begin += 4 * kPiece) {
      std::vector<int64_t> limits(static_cast<size_t>(world_.size()) + 1, std::min(4 * kPiece, t.bytes() - begin));
      limits[0] = 0;
      world_.transport().all_gather(bytes + begin, limits);
    }
  }

  std::string describe() const override {
    return concat(world_.launcher() == Launcher::kMpirun ? "MPI" : "sockets by way of rank 0",
                  ", summed in rank order");
  }

 private:
  // The elements [done, done + round) of rank r's part.
  Range stretch(int64_t n, int r, int64_t done, int64_t round) const {
    const Range part = part_of(n, r, world_.size());
    const int64_t begin = std::min(part.begin + done, part.end);
    return {begin, std::min(begin + round, part.end)};
  }

  template <class T>
  void add_parts(const Tensor& t) {
    const int64_t n = t.numel(), ranks = world_.size();
    const int64_t longest = part_of(n, world_.size() - 1, world_.size()).size();
    const int64_t round = std::max<int64_t>(1, kPiece / ranks);
    auto* x = static_cast<T*>(t.data);
    for (int64_t done = 0; done < longest; done += round) {
      const Range mine = stretch(n, world_.rank(), done, round);
      std::vector<int64_t> to{0}, from{0};
      for (int r = 0; r < ranks; ++r) {
        to.push_back(to.back() + stretch(n, r, done, round).size() * static_cast<int64_t>(sizeof(T)));
        from.push_back(from.back() + mine.size() * static_cast<int64_t>(sizeof(T)));
      }
      buffer_.resize(static_cast<size_t>(to.back()));
      received_.resize(static_cast<size_t>(from.back()));
      for (int r = 0; r < ranks; ++r) {
        const Range its = stretch(n, r, done, round);
        std::memcpy(buffer_.data() + to[static_cast<size_t>(r)], x + its.begin,
                    static_cast<size_t>(its.size()) * sizeof(T));
      }
      world_.transport().all_to_all(buffer_.data(), to, received_.data(), from);
      const auto* theirs = reinterpret_cast<const T*>(received_.data());
      const int64_t count = mine.size();
#pragma omp parallel for
      for (int64_t i = 0; i < count; ++i) {
        T sum = theirs[i];
        for (int64_t r = 1; r < ranks; ++r) sum += theirs[r * count + i];
        x[mine.begin + i] = sum;
      }
    }
  }

  World& world_;
  std::vector<char> buffer_, received_;
};

}  // namespace

std::unique_ptr<Collectives> make_host_collectives(World& world) {
  return std::make_unique<HostCollectives>(world);
}

std::unique_ptr<Collectives> make_collectives(World& world, Context& ctx, bool share_gpu) {
  if (ctx.on_gpu()) return nccl::make(world, ctx, share_gpu);
  return make_host_collectives(world);
}

}  // namespace scfa
