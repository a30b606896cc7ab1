#include "train/product_tuning.h"

#include <fcntl.h>
#include <spdlog/fmt/fmt.h>
#include <sys/file.h>
#include <unistd.h>

#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "data/json_file.h"
#include "data/table_file.h"
#include "kernels/linear/products.h"
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

// Held by one process at a time; the others wait. Throws Error if the file cannot be made.
class WaitingLock {
 public:
  explicit WaitingLock(const std::string& path) : fd_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
    require(fd_ >= 0, path, ": cannot be written: ", std::strerror(errno));
    while (::flock(fd_, LOCK_EX) != 0 && errno == EINTR) {
    }
  }
  ~WaitingLock() { ::close(fd_); }
  WaitingLock(const WaitingLock&) = delete;
  WaitingLock& operator=(const WaitingLock&) = delete;

 private:
  int fd_;
};

constexpr JsonLimits kLimits{.bytes = int64_t{16} << 20, .depth = 8, .keys = 100'000};

std::vector<gpu::ProductChoice> read_choices(const std::string& path) {
  std::vector<gpu::ProductChoice> choices;
  const Json root = read_json_file(path, kLimits);
  for (const auto& [product, value] : JsonReader(root, path).at("products").items()) {
    const JsonReader reader(value, path, concat("products.", product, "."));
    gpu::ProductChoice choice{.product = product, .algorithm = {}, .milliseconds = reader.number("ms")};
    for (size_t i = 0; i < choice.algorithm.size(); ++i)
      choice.algorithm[i] = reader.hex(concat("algorithm_", i).c_str());
    choices.push_back(std::move(choice));
  }
  return choices;
}

void write_choices(const std::string& path, const std::vector<gpu::ProductChoice>& choices) {
  Json root = {{"gpu", gpu::properties().name}, {"driver", driver_version()}, {"library", gpu::product_library()}};
  Json& products = root["products"] = Json::object();
  for (const gpu::ProductChoice& choice : choices) {
    Json& value = products[choice.product] = {{"ms", choice.milliseconds}};
    for (size_t i = 0; i < choice.algorithm.size(); ++i)
      value[concat("algorithm_", i)] = fmt::format("{:016x}", choice.algorithm[i]);
  }
  TableFile file(path);
  file.append(root.dump(1) + "\n");
  file.commit();
}

// What a training step launches, with the products of a micro-batch.
void compute(Gpt& model, Feeder& feeder) {
  const RandomTokens tokens(model.config(), model.activations().blocks[0].residual_in.size(0));
  Batch batch = feeder.put(tokens.ids, tokens.targets, tokens.samples);
  batch.gradient_scale = 1.0f / static_cast<float>(batch.ids.numel());
  model.forward(batch, true);
  model.backward(batch);
  model.take_losses();
  model.zero_gradients();
}

// What is in the file, or nothing if it is of another form or damaged: then it is replaced.
std::vector<gpu::ProductChoice> kept_choices(const std::string& path) {
  try {
    std::error_code ignored;
    return fs::exists(path, ignored) ? read_choices(path) : std::vector<gpu::ProductChoice>();
  } catch (const Error&) {
    return {};
  }
}

std::string choose(Context& ctx, Gpt& model, Feeder& feeder) {
  const std::string path = product_cache_path();
  require(!path.empty(), "neither XDG_CACHE_HOME nor HOME is set");
  std::error_code ignored;
  fs::create_directories(fs::path(path).parent_path(), ignored);
  const WaitingLock lock(path + ".lock");
  gpu::set_product_choices(ctx, kept_choices(path));
  const size_t known = gpu::product_choices(ctx).size();
  gpu::measure_products(ctx, true);
  compute(model, feeder);
  gpu::measure_products(ctx, false);
  const std::vector<gpu::ProductChoice> choices = gpu::product_choices(ctx);
  if (choices.size() == known) return concat("products: algorithms from ", path);
  write_choices(path, choices);
  return concat("products: algorithms of ", choices.size() - known, " measured and kept in ", path);
}

}  // namespace

std::string product_cache_path() {
  const char *cache = std::getenv("XDG_CACHE_HOME"), *home = std::getenv("HOME");
  fs::path folder;
  if (cache != nullptr && *cache == '/')
    folder = cache;
  else if (home != nullptr && *home != '\0')
    folder = fs::path(home) / ".cache";
  else
    return {};
  std::string name = concat("products ", gpu::properties().name, ' ', driver_version(), ' ', gpu::product_library());
  for (char& c : name)
    if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '.') c = '_';
  return (folder / "scfa" / (name + ".json")).string();
}

std::string tune_products(Gpt& model, Feeder& feeder) {
  Context& ctx = model.context();
  if (!ctx.on_gpu()) return {};
  try {
    return choose(ctx, model, feeder);
  } catch (const Error& error) {
    gpu::measure_products(ctx, false);
    gpu::clear_product_choices(ctx);
    return concat("products: algorithms by cuBLASLt's heuristics, because choices cannot be kept: ", error.what());
  }
}

}  // namespace scfa
