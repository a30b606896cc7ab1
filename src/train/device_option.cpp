#include "train/device_option.h"

#include <iostream>

#include "core/error.h"
#include "train/machine.h"

namespace scfa {

void add_device_option(CommandLine& line) {
  line.add_option("device", "auto takes the GPU if there is one", "auto|cpu|gpu", "auto");
}

std::string device_option(const char* program, const CommandLine& line) {
  const std::string device = line.text("device");
  require(device == "auto" || device == "cpu" || device == "gpu", "--device: must be auto, cpu or gpu, not \"",
          abbreviate(device), "\"");
  const std::string warning = cpu_warning(device);
  if (!warning.empty()) std::cerr << program << ": warning: " << warning << '\n';
  return device;
}

}  // namespace scfa
