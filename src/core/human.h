// Numbers as people read them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace scfa {

// What printf would print.
[[gnu::format(printf, 1, 2)]] std::string printed(const char* format, ...);

std::string format_duration(double seconds);              // 4.2s, 1:23, 2:03:04, 3d 02:03
std::string format_count(double value);                   // 512, 12.3k, 4.56M, 7.89G, 1.23T
std::string format_bytes(int64_t bytes);                  // decimal units: 512 B, 12.3 kB, 4.56 MB
std::string format_bar(double share, size_t width = 30);  // [#####.....], width within the brackets

}  // namespace scfa
