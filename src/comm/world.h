// The ranks of a run: who they are, and what they agree on. A world of one rank needs no launcher, thread or socket.
#pragma once
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "comm/heartbeat.h"
#include "comm/host_transport.h"
#include "comm/launch.h"
#include "comm/messages.h"
#include "core/error.h"

namespace scfa {

// Thrown on every rank in the same place. Its text is for rank 0 to print; the others end without a word.
class CollectiveError : public Error {
 public:
  using Error::Error;
};

class World {
 public:
  World() : World(Launch{}) {}  // alone

  // Joins the others; blocks until all are there, two minutes at most (SCFA_JOIN_SECONDS). Throws Error if they do not
  // come, or if this build has no MPI and mpirun started several ranks.
  explicit World(const Launch& launch);
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  int rank() const { return c_.rank; }
  int size() const { return c_.size; }
  bool is_rank0() const { return c_.rank == 0; }
  const std::string& host(int rank) const { return c_.peers.at(static_cast<size_t>(rank)).host; }
  const std::string& machine() const { return c_.peers[static_cast<size_t>(c_.rank)].machine; }  // unique to it
  Launcher launcher() const { return launcher_; }
  int local_rank() const { return local_rank_; }  // among those of this machine, by rank
  int local_size() const { return local_size_; }
  int machines() const;
  std::string describe() const;         // "3 ranks on 1 host, started by mpirun (Open MPI v4.1.4)"
  std::string name_of(int rank) const;  // "rank 1 on HOST"

  // ---- agreeing: every rank calls these in the same order. `what` names the exchange where ranks are not in the same
  // place, which is an error.
  std::vector<std::string> all_gather(const char* what, const std::string& mine);
  template <class T>
  std::vector<T> all_gather_values(const char* what, const T& mine);
  template <class T>
  T broadcast(const char* what, const T& of_rank0) {  // rank 0's
    return all_gather_values(what, is_rank0() ? of_rank0 : T{}).front();
  }

  // Runs body on this rank and waits until the others have run theirs. If it throws on any rank, all ranks throw, with
  // the text of the lowest such rank: Interrupted if that rank was interrupted by a signal, otherwise CollectiveError.
  // In a world of one rank the exception passes through.
  void run_on_all(const char* what, const std::function<void()>& body);
  // run_on_all() for work that is rank 0's alone.
  void run_on_rank0(const char* what, const std::function<void()>& body);

  HostTransport& transport() { return *transport_; }  // for data of CPU ranks; only with more than one rank

  // ---- being watched over: see comm/heartbeat.h. Nothing to do where there is one rank.
  void set_place(const std::string& place);  // "step 12"
  // While it lives, says what this rank is doing: "all-reduce of gradients". `what` must outlive it.
  class Doing {
   public:
    Doing(World& world, const char* what) : world_(world), before_(std::exchange(world.doing_, what)) { world.tell(); }
    ~Doing() {
      world_.doing_ = before_;
      world_.tell();
    }
    Doing(const Doing&) = delete;
    Doing& operator=(const Doing&) = delete;

   private:
    World& world_;
    const char* before_;
  };
  void started(double seconds);  // training begins: how long a rank may be silent
  void set_details(std::function<std::string()> details);
  void set_checkpoint(const std::string& path);
  void set_abort(std::function<void()> abort);
  // Runs body. An error that only this rank meets ends all ranks, and rank 0 prints it, with the rank, its host and its
  // place. CollectiveError and Interrupted, and every exception in a world of one rank, pass through.
  void guard(const std::function<void()>& body);
  // Prints what a watchdog found, with the ranks at fault, and ends all ranks. Returns if there is only one rank.
  void end_all(const std::string& text);
  // At the end of a run that went well, or badly on all ranks alike.
  void leave();

 private:
  [[noreturn]] void fail_alone(const std::string& text);
  std::string place() const;
  void tell();

  Launcher launcher_;
  Connections c_;
  Messages messages_;
  std::unique_ptr<HostTransport> transport_;
  std::unique_ptr<Heartbeat> heartbeat_;
  std::string place_ = "starting";
  const char* doing_ = nullptr;
  int local_rank_ = 0, local_size_ = 1;
  bool in_mpi_ = false;
};

template <class T>
std::vector<T> World::all_gather_values(const char* what, const T& mine) {
  static_assert(std::is_trivially_copyable_v<T>);
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &mine, sizeof(T));
  std::vector<T> values;
  for (const std::string& text : all_gather(what, bytes)) {
    require(text.size() == sizeof(T), "exchange ", what, ": ", text.size(), " bytes instead of ", sizeof(T));
    std::memcpy(&values.emplace_back(), text.data(), sizeof(T));
  }
  return values;
}

}  // namespace scfa
