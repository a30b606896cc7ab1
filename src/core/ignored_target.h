// Targets that do not count in the loss.
#pragma once
#include <cstdint>

namespace scfa {

// In place of a token: its loss, its hit and its gradient are 0 (PyTorch's ignore_index).
inline constexpr int32_t kIgnoredTarget = -100;

}  // namespace scfa
