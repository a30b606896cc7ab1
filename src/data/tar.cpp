#include "data/tar.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "core/error.h"

namespace scfa {

namespace {

constexpr int64_t kBlock = 512;
constexpr int64_t kMaxExtra = 1 << 20;  // no sensible name or set of attributes is longer

// A text field that ends at a zero or with the field.
std::string_view field(const char* header, size_t offset, size_t size) {
  return {header + offset, strnlen(header + offset, size)};
}

// A number: octal digits, or base 256 if the first bit is set. -1 if it is neither.
int64_t number(const char* header, size_t offset, size_t size) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(header + offset);
  if (bytes[0] & 0x80) {
    uint64_t value = bytes[0] & 0x3F;
    for (size_t i = 1; i < size; ++i) {
      if (value >> 54) return -1;
      value = value << 8 | bytes[i];
    }
    return static_cast<int64_t>(value);
  }
  std::string_view digits = field(header, offset, size);
  digits.remove_prefix(std::min(digits.find_first_not_of(' '), digits.size()));
  int64_t value = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), value, 8);
  return value;
}

bool checksum_matches(const char* header) {
  int64_t sum = 0;
  for (int64_t i = 0; i < kBlock; ++i) sum += i >= 148 && i < 156 ? ' ' : static_cast<uint8_t>(header[i]);
  return sum == number(header, 148, 8);
}

}  // namespace

class TarMember final : public ByteSource {
 public:
  explicit TarMember(TarReader& tar) : ByteSource(tar.archive_.name() + ":" + tar.path_), tar_(tar) {}

  size_t read(char* out, size_t size) override {
    if (tar_.left_ == 0) return 0;
    const size_t got =
        tar_.archive_.read(out, static_cast<size_t>(std::min<int64_t>(tar_.left_, static_cast<int64_t>(size))));
    require(got > 0, name(), ": truncated: the archive ends ", tar_.left_, " bytes early");
    tar_.left_ -= static_cast<int64_t>(got);
    return got;
  }

 private:
  TarReader& tar_;
};

bool TarReader::is_tar(std::string_view start) {
  return start.size() == kBlock && start.substr(257, 5) == "ustar" && checksum_matches(start.data());
}

bool TarReader::next() {
  long_path_.clear();
  long_size_ = -1;
  while (true) {
    skip(left_ + padding_);
    char header[kBlock];
    const size_t got = archive_.read_fully(header, kBlock);
    if (got == 0 || std::all_of(header, header + got, [](char c) { return c == 0; })) return false;
    require(got == kBlock, archive_.name(), ": truncated: ends within the header of a member");
    require(checksum_matches(header), archive_.name(), ": corrupt tar archive: wrong checksum of a header after '",
            path_, "'");
    const char type = header[156];
    left_ = number(header, 124, 12);
    if (long_size_ >= 0 && type != 'x' && type != 'L') left_ = long_size_;
    require(left_ >= 0, archive_.name(), ": corrupt tar archive: size of a member after '", path_, "'");
    padding_ = (kBlock - left_ % kBlock) % kBlock;
    if (type == 'x') {
      read_extended_header(read_text(left_));
    } else if (type == 'L') {
      long_path_ = read_text(left_);
      long_path_.resize(strnlen(long_path_.c_str(), long_path_.size()));
    } else {
      const bool posix = std::memcmp(header + 257, "ustar", 6) == 0;  // GNU writes a blank after "ustar", and no prefix
      const std::string_view prefix = posix ? field(header, 345, 155) : std::string_view();
      path_ = !long_path_.empty() ? long_path_ : concat(prefix, prefix.empty() ? "" : "/", field(header, 0, 100));
      if (type == '0' || type == '\0' || type == '7') return true;
      if (type >= '1' && type <= '6') left_ = padding_ = 0;  // links, devices and folders have no bytes
      if (type != 'g' && type != 'K') {
        long_path_.clear();
        long_size_ = -1;
      }
    }
  }
}

std::unique_ptr<ByteSource> TarReader::open_member() {
  return std::make_unique<TarMember>(*this);
}

void TarReader::skip(int64_t bytes) {
  char scrap[1 << 14];
  while (bytes > 0) {
    const size_t got = archive_.read(scrap, static_cast<size_t>(std::min<int64_t>(bytes, sizeof(scrap))));
    require(got > 0, archive_.name(), ": truncated: ends within '", path_, "'");
    bytes -= static_cast<int64_t>(got);
  }
  left_ = padding_ = 0;
}

std::string TarReader::read_text(int64_t bytes) {
  require(bytes <= kMaxExtra, archive_.name(), ": corrupt tar archive: extra header of ", bytes, " bytes");
  std::string text(static_cast<size_t>(bytes), '\0');
  require(archive_.read_fully(text.data(), text.size()) == text.size(), archive_.name(),
          ": truncated: ends within an extra header");
  left_ = 0;
  return text;
}

// Records "LENGTH KEY=VALUE\n", LENGTH counting all of the record.
void TarReader::read_extended_header(const std::string& records) {
  for (size_t at = 0; at < records.size();) {
    size_t length = 0;
    const auto [stop, error] = std::from_chars(&records[at], records.data() + records.size(), length);
    const auto digits = static_cast<size_t>(stop - &records[at]);
    require(error == std::errc() && length > digits + 1 && length <= records.size() - at, archive_.name(),
            ": corrupt tar archive: pax header after '", path_, "'");
    const std::string record = records.substr(at + digits + 1, length - digits - 2);
    if (record.starts_with("path=")) long_path_ = record.substr(5);
    if (record.starts_with("size=")) std::from_chars(&record[5], record.data() + record.size(), long_size_);
    at += length;
  }
}

}  // namespace scfa
