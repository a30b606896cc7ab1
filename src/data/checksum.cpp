#include "data/checksum.h"

#include <xxhash.h>

namespace scfa {

Checksum::Checksum() : state_(XXH3_createState()) {
  XXH3_64bits_reset(state_);
}
Checksum::~Checksum() {
  XXH3_freeState(state_);
}
void Checksum::update(const void* data, size_t size) {
  XXH3_64bits_update(state_, data, size);
}
uint64_t Checksum::value() const {
  return XXH3_64bits_digest(state_);
}

uint64_t checksum_of(const void* data, size_t size) {
  return XXH3_64bits(data, size);
}

std::string to_hex(uint64_t value) {
  constexpr const char* kDigits = "0123456789abcdef";
  std::string text(16, '0');
  for (size_t i = 16; i-- > 0; value >>= 4) text[i] = kDigits[value & 15];
  return text;
}

}  // namespace scfa
