#include "comm/world.h"

#include <chrono>
#include <cstdlib>
#include <set>
#include <thread>

#include "comm/mpi.h"
#include "comm/relay.h"
#include "comm/rendezvous.h"
#include "core/program.h"
#include "core/signals.h"

namespace scfa {

namespace {

constexpr double kJoinSeconds = 120;

double join_seconds() {
  const char* text = std::getenv("SCFA_JOIN_SECONDS");
  const double seconds = text == nullptr ? 0 : std::atof(text);
  return seconds > 0 ? seconds : kJoinSeconds;
}

Connections join(Launch launch) {
  if (launch.launcher == Launcher::kMpirun && (launch.size > 1 || mpi::built())) {
    const Launch said = launch;
    mpi::join(&launch.rank, &launch.size);
    require(launch.rank == said.rank && launch.size == said.size, "mpirun started ", said.size,
            " processes, but the MPI of this program (", mpi::description(), ") sees ", launch.size,
            ": start it with the mpirun of the MPI that it was built with");
  }
  return rendezvous(launch, join_seconds());
}

}  // namespace

World::World(const Launch& launch) : launcher_(launch.launcher), c_(join(launch)), messages_(&c_) {
  in_mpi_ = launcher_ == Launcher::kMpirun && mpi::built();
  if (c_.size == 1) return;
  local_size_ = 0;
  for (int r = 0; r < c_.size; ++r) {
    const auto at = static_cast<size_t>(r);
    if (c_.peers[at].machine != c_.peers[static_cast<size_t>(c_.rank)].machine) continue;
    if (r < c_.rank) ++local_rank_;
    ++local_size_;
  }
  transport_ = in_mpi_ ? mpi::make_transport() : make_relay(&c_);
  heartbeat_ = std::make_unique<Heartbeat>(&c_, join_seconds());
}

World::~World() {
  heartbeat_.reset();
}

int World::machines() const {
  std::set<std::string> names;
  for (const Peer& peer : c_.peers) names.insert(peer.machine);
  return static_cast<int>(names.size());
}

std::string World::describe() const {
  const int hosts = machines();
  return concat(c_.size, c_.size == 1 ? " rank on " : " ranks on ", hosts, hosts == 1 ? " host" : " hosts",
                ", started by ", scfa::name_of(launcher_), in_mpi_ ? " (" + mpi::description() + ")" : "");
}

std::string World::name_of(int rank) const {
  return c_.name_of(static_cast<size_t>(rank));
}

std::vector<std::string> World::all_gather(const char* what, const std::string& mine) {
  if (size() == 1) return {mine};
  const Doing doing(*this, what);
  try {
    return messages_.all_gather(what, mine);
  } catch (const Error&) {
    // A connection that broke: the heartbeats' thread learns of it too, knows more, and ends the process.
    if (heartbeat_) std::this_thread::sleep_for(std::chrono::seconds(5));
    throw;
  }
}

void World::run_on_all(const char* what, const std::function<void()>& body) {
  if (size() == 1) return body();
  std::string error;  // "S12 text": ended by signal 12
  try {
    body();
  } catch (const CollectiveError&) {
    throw;
  } catch (const Interrupted& stopped) {
    error = concat('S', stop_signal(), ' ', stopped.what());
  } catch (const std::exception& thrown) {
    error = concat("E ", text_of(thrown));
  }
  const std::vector<std::string> errors = all_gather(what, error);
  for (int r = 0; r < size(); ++r) {
    const std::string& its = errors[static_cast<size_t>(r)];
    if (its.empty()) continue;
    const std::string text = its.substr(its.find(' ') + 1);
    if (its[0] == 'S') {
      request_stop(std::stoi(its.substr(1)));
      throw Interrupted(text);
    }
    throw CollectiveError(r == 0 ? text : name_of(r) + ": " + text);
  }
}

void World::run_on_rank0(const char* what, const std::function<void()>& body) {
  run_on_all(what, [&] {
    if (is_rank0()) body();
  });
}

std::string World::place() const {
  return doing_ == nullptr ? place_ : concat(place_, ", ", doing_);
}

void World::tell() {
  if (heartbeat_) heartbeat_->set_place(place());
}

void World::set_place(const std::string& place) {
  if (!heartbeat_) return;
  place_ = place;
  tell();
}
void World::started(double seconds) {
  if (heartbeat_) heartbeat_->started(seconds);
}
void World::set_details(std::function<std::string()> details) {
  if (heartbeat_) heartbeat_->set_details(std::move(details));
}
void World::set_checkpoint(const std::string& path) {
  if (heartbeat_) heartbeat_->set_checkpoint(path);
}
void World::set_abort(std::function<void()> abort) {
  if (heartbeat_) heartbeat_->set_abort(std::move(abort));
}

void World::guard(const std::function<void()>& body) {
  if (size() == 1) return body();
  try {
    body();
  } catch (const CollectiveError&) {
    throw;
  } catch (const Interrupted&) {
    throw;
  } catch (const std::exception& error) {
    fail_alone(text_of(error));
  }
}

void World::fail_alone(const std::string& text) {
  const std::string named = concat(name_of(rank()), ", ", place(), ": ", text);
  heartbeat_->fail(named, false);
  throw CollectiveError(named);  // another thread ends the process
}

void World::end_all(const std::string& text) {
  if (size() == 1) return;
  heartbeat_->fail(text, true);
}

void World::leave() {
  if (heartbeat_) heartbeat_->leave();
  if (in_mpi_) mpi::leave();
  in_mpi_ = false;
}

}  // namespace scfa
