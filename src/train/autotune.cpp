#include "train/autotune.h"

#include <fcntl.h>
#include <spdlog/fmt/fmt.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>

#include "core/signals.h"
#include "data/json_file.h"
#include "data/table_file.h"
#include "kernels/linear/gemm.h"
#include "train/random_tokens.h"

namespace scfa {

namespace fs = std::filesystem;

namespace {

// "580.159.04", of the kernel module; if that cannot be asked, the newest CUDA version that it supports.
std::string driver_version() {
  std::ifstream file("/proc/driver/nvidia/version");
  for (std::string word; file >> word;)
    if (std::isdigit(static_cast<unsigned char>(word[0])) != 0 && word.find('.') != std::string::npos) return word;
  return "CUDA " + gpu::properties().driver;
}

// Held by one process at a time; the others wait, and end if a signal asks them to. Throws Error if the file cannot be
// made or locked.
class WaitingLock {
 public:
  explicit WaitingLock(const std::string& path) : fd_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
    require(fd_ >= 0, path, ": cannot be written: ", std::strerror(errno));
    while (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      const int reason = errno;
      if (reason == EWOULDBLOCK && !stop_requested()) {
        ::usleep(20'000);
        continue;
      }
      if (reason == EINTR && !stop_requested()) continue;
      ::close(fd_);
      check_stop("stopped while another process measured the algorithms of GEMMs (", path, ')');
      fail(path, ": cannot be locked: ", std::strerror(reason));
    }
  }
  ~WaitingLock() { ::close(fd_); }
  WaitingLock(const WaitingLock&) = delete;
  WaitingLock& operator=(const WaitingLock&) = delete;

 private:
  int fd_;
};

constexpr JsonLimits kLimits{.bytes = int64_t{16} << 20, .depth = 8, .keys = 100'000};

using Choices = std::vector<gpu::GemmAlgorithm>;

Choices parse_choices(const Json& root, const std::string& origin) {
  Choices choices;
  for (const auto& [gemm, value] : JsonReader(root, origin).at("gemms").items()) {
    const JsonReader reader(value, origin, concat("gemms.", gemm, "."));
    gpu::GemmAlgorithm choice{.gemm = gemm, .algorithm = {}, .milliseconds = reader.number("ms")};
    for (size_t i = 0; i < choice.algorithm.size(); ++i)
      choice.algorithm[i] = reader.hex(concat("algorithm_", i).c_str());
    choices.push_back(std::move(choice));
  }
  return choices;
}

Json to_json(const Choices& choices) {
  Json root = {{"gpu", gpu::properties().name}, {"driver", driver_version()}, {"library", gpu::gemm_library()}};
  Json& gemms = root["gemms"] = Json::object();
  for (const gpu::GemmAlgorithm& choice : choices) {
    Json& value = gemms[choice.gemm] = {{"ms", choice.milliseconds}};
    for (size_t i = 0; i < choice.algorithm.size(); ++i)
      value[concat("algorithm_", i)] = fmt::format("{:016x}", choice.algorithm[i]);
  }
  return root;
}

void write_choices(const std::string& path, const Choices& choices) {
  TableFile file(path);
  file.append(to_json(choices).dump(1) + "\n");
  file.commit();
}

// What a training step launches, with the GEMMs of a micro-batch.
void compute(Gpt& model, Feeder& feeder) {
  const RandomTokens tokens(model.config(), model.activations().blocks[0].residual_in.size(0));
  Batch batch = feeder.put(tokens.ids, tokens.targets, tokens.samples, 0);
  batch.gradient_scale = 1.0f / static_cast<float>(batch.ids.numel());
  model.forward(batch, true);
  model.backward(batch);
  if (model.precision() == Precision::kFp8) model.forward(batch, false);  // evaluation has GEMMs of its own
  model.take_losses();
  model.zero_gradients();
}

// What is in the file, or nothing if it has another format or is damaged: then it is replaced.
Choices kept_choices(const std::string& path) {
  try {
    std::error_code ignored;
    return fs::exists(path, ignored) ? parse_choices(read_json_file(path, kLimits), path) : Choices();
  } catch (const Error&) {
    return {};
  }
}

// Those of this kind of GPU, driver and library; nothing if they are of another, or damaged.
std::optional<Choices> known_choices(const std::string& known) {
  if (known.empty()) return {};
  try {
    const Json root = parse_json(known, "algorithms of GEMMs", kLimits), here = to_json({});
    for (const char* key : {"gpu", "driver", "library"})
      if (JsonReader(root, "algorithms of GEMMs").text(key) != here.at(key)) return {};
    return parse_choices(root, "algorithms of GEMMs");
  } catch (const Error&) {
    return {};
  }
}

// `first`, and of `others` what it lacks.
Choices join(Choices first, const Choices& others) {
  const auto known = static_cast<std::ptrdiff_t>(first.size());
  for (const gpu::GemmAlgorithm& other : others)
    if (std::none_of(first.begin(), first.begin() + known,
                     [&](const gpu::GemmAlgorithm& choice) { return choice.gemm == other.gemm; }))
      first.push_back(other);
  return first;
}

// Those of `choices` that are not in `before`, or of another algorithm there.
Choices new_ones(const Choices& choices, const Choices& before) {
  Choices found;
  for (const gpu::GemmAlgorithm& choice : choices)
    if (std::none_of(before.begin(), before.end(), [&](const gpu::GemmAlgorithm& other) {
          return other.gemm == choice.gemm && other.algorithm == choice.algorithm;
        }))
      found.push_back(choice);
  return found;
}

// The path of the cache, with its folder made, and its lock.
std::unique_ptr<WaitingLock> lock_cache(const std::string& path) {
  require(!path.empty(), "neither XDG_CACHE_HOME nor HOME is set");
  std::error_code ignored;
  fs::create_directories(fs::path(path).parent_path(), ignored);
  return std::make_unique<WaitingLock>(path + ".lock");
}

// The choices that the model's GEMMs have when nothing is measured.
Choices choices_of(Gpt& model, Feeder& feeder, const Choices& known) {
  gpu::clear_gemm_algorithms(model.context());
  gpu::set_gemm_algorithms(model.context(), known);
  compute(model, feeder);
  return gpu::used_gemm_algorithms(model.context());
}

}  // namespace

std::string gemm_cache_path() {
  const char *cache = std::getenv("XDG_CACHE_HOME"), *home = std::getenv("HOME");
  fs::path folder;
  if (cache != nullptr && *cache == '/')
    folder = cache;
  else if (home != nullptr && *home != '\0')
    folder = fs::path(home) / ".cache";
  else
    return {};
  std::string name = concat("gemms ", gpu::properties().name, ' ', driver_version(), ' ', gpu::gemm_library());
  for (char& c : name)
    if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '.') c = '_';
  return (folder / "scfa" / (name + ".json")).string();
}

AutotunedGemms autotune_gemms(Gpt& model, Feeder& feeder, const std::string& known) {
  Context& ctx = model.context();
  if (!ctx.on_gpu()) return {};
  const std::optional<Choices> given = known_choices(known);
  const std::string refused =
      !known.empty() && !given ? "those of the checkpoint are of another GPU, driver or library; " : "";
  const auto take_given = [&](const Error& why) {
    const Choices taken = choices_of(model, feeder, given.value_or(Choices()));
    return AutotunedGemms{.choices = to_json(taken).dump(),
                          .line = concat("GEMMs: ", refused,
                                         given ? "algorithms from the checkpoint, others by cuBLASLt's heuristics"
                                               : "algorithms by cuBLASLt's heuristics",
                                         ", because choices cannot be kept: ", why.what())};
  };
  if (given && given->empty())
    return {.choices = to_json(choices_of(model, feeder, {})).dump(),
            .line = "GEMMs: algorithms by cuBLASLt's heuristics, as the checkpoint has it"};
  const std::string path = gemm_cache_path();
  std::unique_ptr<WaitingLock> lock;
  try {
    lock = lock_cache(path);
  } catch (const Interrupted&) {
    throw;
  } catch (const Error& error) {
    return take_given(error);
  }
  const Choices kept = kept_choices(path), before = join(given.value_or(Choices()), kept);
  gpu::set_gemm_algorithms(ctx, before);
  gpu::measure_gemms(ctx, true);
  compute(model, feeder);
  gpu::measure_gemms(ctx, false);
  const Choices choices = gpu::gemm_algorithms(ctx), measured = new_ones(choices, before);
  // A measurement replaces what the library refused; what was given replaces nothing.
  const Choices to_keep = join(join(measured, kept), choices);
  if (!new_ones(to_keep, kept).empty()) try {
      write_choices(path, to_keep);
    } catch (const Error& error) {
      if (!measured.empty()) return take_given(error);
    }
  return {.choices = to_json(gpu::used_gemm_algorithms(ctx)).dump(),
          .line = concat("GEMMs: ", refused, "algorithms ",
                         measured.empty() ? concat("from ", given ? "the checkpoint" : path)
                                          : concat("of ", measured.size(), " measured and kept in ", path))};
}

void take_gemm_algorithms(Context& ctx, const std::string& choices) {
  if (!ctx.on_gpu()) return;
  gpu::clear_gemm_algorithms(ctx);
  gpu::set_gemm_algorithms(ctx, known_choices(choices).value_or(Choices()));
}

}  // namespace scfa
