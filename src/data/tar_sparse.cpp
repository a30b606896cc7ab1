#include "data/tar_sparse.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "core/error.h"

namespace scfa {

namespace {

constexpr int64_t kBlock = 512;
constexpr size_t kMaxParts = 1 << 20;  // 16 MiB of map

void add(SparseMap& map, int64_t offset, int64_t size) {
  require(map.parts.size() < kMaxParts, "a map of holes with more than ", kMaxParts, " parts");
  map.parts.push_back({offset, size});
}

int64_t decimal(std::string_view text) {
  int64_t value = -1;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  require(error == std::errc() && stop == text.data() + text.size() && value >= 0, "a map of holes with \"",
          abbreviate(std::string(text)), "\" where a number must be");
  return value;
}

// `count` pairs at 24 bytes each; an unused one ends them.
void take_pairs(const char* at, int count, SparseMap& map) {
  for (; count > 0 && at[0] != '\0'; --count, at += 24) add(map, tar_number(at, 0, 12), tar_number(at, 12, 12));
}

}  // namespace

int64_t tar_number(const char* header, size_t offset, size_t size) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(header + offset);
  if (bytes[0] & 0x80) {
    uint64_t value = bytes[0] & 0x3F;
    for (size_t i = 1; i < size; ++i) {
      if (value >> 54) return -1;
      value = value << 8 | bytes[i];
    }
    return static_cast<int64_t>(value);
  }
  std::string_view digits(header + offset, strnlen(header + offset, size));
  digits.remove_prefix(std::min(digits.find_first_not_of(' '), digits.size()));
  int64_t value = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), value, 8);
  return value;
}

SparseMap read_gnu_map(const char* header, ByteSource& archive) {
  SparseMap map;
  map.size = tar_number(header, 483, 12);
  take_pairs(header + 386, 4, map);
  char more[kBlock];
  for (bool extended = header[482] != 0; extended; extended = more[504] != 0) {
    require(archive.read_fully(more, kBlock) == kBlock, "the archive ends within a map of holes");
    take_pairs(more, 21, map);
  }
  return map;
}

bool PaxSparse::take(std::string_view record) {
  constexpr std::string_view kStart = "GNU.sparse.";
  if (!record.starts_with(kStart)) return false;
  present_ = true;
  const size_t equals = std::min(record.find('='), record.size() - 1);
  const std::string_view key = record.substr(kStart.size(), equals - kStart.size()), value = record.substr(equals + 1);
  if (key == "name") name_ = value;
  if (key == "major") map_in_data_ = decimal(value) > 0;
  if (key == "size" || key == "realsize") map_.size = decimal(value);
  if (key == "offset") add(map_, decimal(value), 0);
  if (key == "numbytes") {
    require(!map_.parts.empty(), "a map of holes that starts with a size");
    map_.parts.back().size = decimal(value);
  }
  if (key == "map") {
    for (std::string_view rest = value; !rest.empty();) {
      const size_t comma = rest.find(','), next = std::min(rest.find(',', comma + 1), rest.size());
      require(comma != std::string_view::npos, "a map of holes with an odd count of numbers");
      add(map_, decimal(rest.substr(0, comma)), decimal(rest.substr(comma + 1, next - comma - 1)));
      rest.remove_prefix(std::min(next + 1, rest.size()));
    }
  }
  return true;
}

SparseMap PaxSparse::finish(ByteSource& archive, int64_t& stored) {
  if (!map_in_data_) return std::move(map_);
  std::string line;
  char block[kBlock];
  size_t at = kBlock;
  const auto next_number = [&] {
    for (line.clear(); line.size() < 20; line += block[at++]) {
      if (at == kBlock) {
        require(stored >= kBlock && archive.read_fully(block, kBlock) == kBlock, "a map of holes that does not end");
        stored -= kBlock;
        at = 0;
      }
      if (block[at] == '\n') break;
    }
    require(at < kBlock && block[at++] == '\n', "a map of holes with a number that is too long");
    return decimal(line);
  };
  for (int64_t count = next_number(); count > 0; --count) {
    const int64_t offset = next_number();
    add(map_, offset, next_number());
  }
  return std::move(map_);
}

void check_map(const SparseMap& map, int64_t stored) {
  int64_t end = 0, sum = 0;
  for (const auto& [offset, size] : map.parts) {
    require(offset >= end && size >= 0 && offset <= map.size && size <= map.size - offset,
            "a map of holes whose parts overlap or lie outside the file");
    end = offset + size;
    sum += size;
  }
  require(sum == stored, "a map of holes for ", sum, " bytes, where the archive holds ", stored);
}

}  // namespace scfa
