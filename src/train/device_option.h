// The --device option of the programs that have no config.
#pragma once
#include <string>

#include "core/command_line.h"

namespace scfa {

void add_device_option(CommandLine& line);

// auto, cpu or gpu; throws Error naming the option if it is something else. Warns on standard error where auto is the
// CPU although a CUDA driver is installed.
std::string device_option(const char* program, const CommandLine& line);

}  // namespace scfa
