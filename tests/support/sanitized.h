// Builds with sanitizers (the preset asan), which multiply time and take all of the address space.
#pragma once

namespace scfa::test {

#ifdef __SANITIZE_ADDRESS__
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace scfa::test
