// XXH3-64 of data as it is written, and of files.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

struct XXH3_state_s;

namespace scfa {

class Checksum {
 public:
  Checksum();
  ~Checksum();
  Checksum(const Checksum&) = delete;
  Checksum& operator=(const Checksum&) = delete;

  void update(const void* data, size_t size);
  uint64_t value() const;

 private:
  XXH3_state_s* state_;
};

uint64_t checksum_of(const void* data, size_t size);

std::string to_hex(uint64_t value);  // 16 digits

}  // namespace scfa
