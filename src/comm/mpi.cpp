#include "comm/mpi.h"

#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "core/error.h"

namespace scfa::mpi {

namespace {

void check(int status, const char* what) {
  if (status == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(status, text, &length);
  fail("MPI: ", what, ": ", text);
}

// MPI's own wait spins, which takes the core of a rank that still computes where there are more ranks than cores.
void wait(MPI_Request* request, const char* what) {
  auto pause = std::chrono::microseconds(1);
  for (int done = 0;;) {
    check(MPI_Test(request, &done, MPI_STATUS_IGNORE), what);
    if (done != 0) return;
    std::this_thread::sleep_for(pause);
    pause = std::min(pause * 2, std::chrono::microseconds(500));
  }
}

// MPI counts in ints: data comes in pieces of a few million elements (comm/host_collectives.cpp).
struct Layout {
  std::vector<int> counts, begins;
  explicit Layout(const std::vector<int64_t>& limits) {
    for (size_t r = 0; r + 1 < limits.size(); ++r) {
      begins.push_back(static_cast<int>(limits[r]));
      counts.push_back(static_cast<int>(limits[r + 1] - limits[r]));
    }
    require(limits.back() <= INT32_MAX, "MPI: ", limits.back(), " bytes in one message, at most 2^31 - 1");
  }
};

class MpiTransport : public HostTransport {
 public:
  void all_to_all(const char* send, const std::vector<int64_t>& to, char* receive,
                  const std::vector<int64_t>& from) override {
    const Layout out(to), in(from);
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Ialltoallv(send, out.counts.data(), out.begins.data(), MPI_BYTE, receive, in.counts.data(),
                         in.begins.data(), MPI_BYTE, MPI_COMM_WORLD, &request),
          "all-to-all");
    wait(&request, "all-to-all");
  }

  void all_gather(char* data, const std::vector<int64_t>& parts) override {
    const Layout layout(parts);
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_BYTE, data, layout.counts.data(), layout.begins.data(), MPI_BYTE,
                          MPI_COMM_WORLD, &request),
          "all-gather");
    wait(&request, "all-gather");
  }
};

}  // namespace

bool built() {
  return true;
}

std::string description() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  MPI_Get_library_version(text, &length);
  const std::string version = text;
  return version.substr(0, version.find_first_of(",\n"));
}

void join(int* rank, int* size) {
  int level = 0;
  check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &level), "starting");
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  check(MPI_Comm_rank(MPI_COMM_WORLD, rank), "asking for the rank");
  check(MPI_Comm_size(MPI_COMM_WORLD, size), "asking for the number of ranks");
}

void leave() {
  MPI_Finalize();
}

std::string broadcast(std::string text) {
  uint64_t size = text.size();
  check(MPI_Bcast(&size, sizeof size, MPI_BYTE, 0, MPI_COMM_WORLD), "broadcast");
  text.resize(size);
  check(MPI_Bcast(text.data(), static_cast<int>(size), MPI_BYTE, 0, MPI_COMM_WORLD), "broadcast");
  return text;
}

std::unique_ptr<HostTransport> make_transport() {
  return std::make_unique<MpiTransport>();
}

}  // namespace scfa::mpi
