#include "train/ranks.h"

#include <map>

#include "core/gpu.h"
#include "core/version.h"
#include "data/json_file.h"
#include "train/config_io.h"
#include "train/machine.h"

namespace scfa {

namespace {

// Throws CollectiveError naming the first rank whose value is not rank 0's.
void require_same(World& world, const char* what, const std::string& mine, const char* advice) {
  const std::vector<std::string> values = world.all_gather(what, mine);
  for (size_t r = 1; r < values.size(); ++r)
    if (values[r] != values[0])
      throw CollectiveError(concat(what, " of ", world.name_of(static_cast<int>(r)), " differs from rank 0's: ",
                                   abbreviate(values[r]), ", not ", abbreviate(values[0]), "; ", advice));
}

void require_same_config(World& world, const Config& config) {
  const std::vector<std::string> configs = world.all_gather("config", to_json(config).dump());
  for (size_t r = 1; r < configs.size(); ++r) {
    if (configs[r] == configs[0]) continue;
    const std::vector<Difference> found = differences(config_from_json(Json::parse(configs[0]), "config of rank 0"),
                                                      config_from_json(Json::parse(configs[r]), "config of a rank"));
    throw CollectiveError(concat(
        world.name_of(static_cast<int>(r)), " has another config than rank 0: ",
        found.empty() ? "another text" : concat(found[0].key, " is ", found[0].b, ", but ", found[0].a, " on rank 0"),
        "; start every rank with the same command and the same files"));
  }
}

void require_gpu_each(World& world, bool share_gpu) {
  std::map<std::string, int> first_with;
  const std::string mine = world.machine() + " " + gpu::properties().identity;
  const std::vector<std::string> all = world.all_gather("GPU", mine);
  for (int r = 0; r < world.size(); ++r) {
    const auto [other, is_new] = first_with.try_emplace(all[static_cast<size_t>(r)], r);
    if (is_new || share_gpu) continue;
    throw CollectiveError(concat(world.name_of(other->second), " and rank ", r, " have the same GPU, one of ",
                                 gpu::count(),
                                 " that each sees: start one rank for each GPU of a host. "
                                 "--share-gpu allows it, for testing runs of many ranks on few GPUs; it is slow"));
  }
}

}  // namespace

void use_gpu_of_rank(const World& world, Device device) {
  // A launcher that shows each rank a GPU of its own (CUDA_VISIBLE_DEVICES) leaves one to choose from.
  if (device == Device::kGpu) gpu::use(world.local_rank() % gpu::count());
}

void compare_ranks(World& world, const Config& config, const TrainOptions& options, const std::string& data,
                   Device device) {
  if (world.size() == 1) return;
  require_same(world, "the build", version() + " (" + git_commit() + ")", "start the same program everywhere");
  require_same(world, "the command line",
               concat("--dry-run=", options.dry_run, " --overwrite=", options.overwrite, " --resume=", options.resume,
                      " ", options.resume_from, " --ranks=", options.plan_ranks, " --share-gpu=", options.share_gpu),
               "start every rank with the same command");
  require_same_config(world, config);
  require_same(world, "the prepared text", data, "data.directory must hold the same prepared set on every host");
  require_same(world, "the device", device_name(device), "a run needs GPUs of one kind; choose the hosts accordingly");
  if (device == Device::kGpu) require_gpu_each(world, options.share_gpu);
}

}  // namespace scfa
