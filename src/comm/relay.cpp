#include "comm/relay.h"

#include <algorithm>

namespace scfa {

namespace {

class Relay : public HostTransport {
 public:
  explicit Relay(Connections* connections) : c_(*connections) {}

  void all_to_all(const char* send, const std::vector<int64_t>& to, char* receive,
                  const std::vector<int64_t>& from) override {
    const auto length = [](const std::vector<int64_t>& limits, size_t r) {
      return static_cast<size_t>(limits[r + 1] - limits[r]);
    };
    if (c_.rank != 0) {
      const Socket& first = c_.messages[0];
      if (!first.write_all(to.data(), to.size() * sizeof(int64_t)) ||
          !first.write_all(send, static_cast<size_t>(to.back())) ||
          !first.read_all(receive, static_cast<size_t>(from.back())))
        c_.fail_gone(0);
      return;
    }
    const size_t size = c_.peers.size();
    std::vector<std::vector<int64_t>> limits(size, to);
    data_.resize(size);
    for (size_t r = 1; r < size; ++r) {
      if (!c_.messages[r].read_all(limits[r].data(), to.size() * sizeof(int64_t))) c_.fail_gone(r);
      data_[r].resize(static_cast<size_t>(limits[r].back()));
      if (!c_.messages[r].read_all(data_[r].data(), data_[r].size())) c_.fail_gone(r);
    }
    const auto data_of = [&](size_t r) { return r == 0 ? send : data_[r].data(); };
    for (size_t r = 0; r < size; ++r)  // rank 0's part may be empty, and so may be `receive`
      std::copy_n(data_of(r) + limits[r][0], length(limits[r], 0), receive + from[r]);
    for (size_t to_rank = 1; to_rank < size; ++to_rank)
      for (size_t r = 0; r < size; ++r)
        if (!c_.messages[to_rank].write_all(data_of(r) + limits[r][to_rank], length(limits[r], to_rank)))
          c_.fail_gone(to_rank);
  }

  void all_gather(char* data, const std::vector<int64_t>& parts) override {
    const auto size_of_part = [&](size_t r) { return static_cast<size_t>(parts[r + 1] - parts[r]); };
    if (c_.rank != 0) {
      const auto self = static_cast<size_t>(c_.rank);
      if (!c_.messages[0].write_all(data + parts[self], size_of_part(self)) ||
          !c_.messages[0].read_all(data, static_cast<size_t>(parts.back())))
        c_.fail_gone(0);
      return;
    }
    for (size_t r = 1; r < c_.peers.size(); ++r)
      if (!c_.messages[r].read_all(data + parts[r], size_of_part(r))) c_.fail_gone(r);
    for (size_t r = 1; r < c_.peers.size(); ++r)
      if (!c_.messages[r].write_all(data, static_cast<size_t>(parts.back()))) c_.fail_gone(r);
  }

 private:
  Connections& c_;
  std::vector<std::vector<char>> data_;
};

}  // namespace

std::unique_ptr<HostTransport> make_relay(Connections* connections) {
  return std::make_unique<Relay>(connections);
}

}  // namespace scfa
