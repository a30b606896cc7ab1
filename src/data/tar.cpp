#include "data/tar.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "core/error.h"

namespace scfa {

namespace {

constexpr int64_t kBlock = 512;
constexpr int64_t kMaxExtra = 1 << 24;  // no sensible name, set of attributes or map of holes is longer

// A text field that ends at a zero or with the field.
std::string_view field(const char* header, size_t offset, size_t size) {
  return {header + offset, strnlen(header + offset, size)};
}

bool checksum_matches(const char* header) {
  int64_t sum = 0;
  for (int64_t i = 0; i < kBlock; ++i) sum += i >= 148 && i < 156 ? ' ' : static_cast<uint8_t>(header[i]);
  return sum == tar_number(header, 148, 8);
}

}  // namespace

class TarMember final : public ByteSource {
 public:
  explicit TarMember(TarReader& tar) : ByteSource(tar.archive_.name() + ":" + tar.path_), tar_(tar) {}

  size_t read(char* out, size_t size) override {
    if (tar_.map_.size > 0) return read_sparse(out, size);
    return tar_.left_ == 0 ? 0 : read_stored(out, std::min<int64_t>(tar_.left_, static_cast<int64_t>(size)));
  }

 private:
  size_t read_stored(char* out, int64_t size) {
    const size_t got = tar_.archive_.read(out, static_cast<size_t>(size));
    require(got > 0, name(), ": truncated: the archive ends ", tar_.left_, " bytes early");
    tar_.left_ -= static_cast<int64_t>(got);
    return got;
  }

  size_t read_sparse(char* out, size_t size) {
    const std::vector<SparseMap::Part>& parts = tar_.map_.parts;
    while (part_ < parts.size() && at_ >= parts[part_].offset + parts[part_].size) ++part_;
    const bool within = part_ < parts.size() && at_ >= parts[part_].offset;
    const int64_t end = within                 ? parts[part_].offset + parts[part_].size
                        : part_ < parts.size() ? parts[part_].offset
                                               : tar_.map_.size;
    int64_t count = std::min<int64_t>(end - at_, static_cast<int64_t>(size));
    if (within)
      count = static_cast<int64_t>(read_stored(out, count));
    else
      std::fill_n(out, count, '\0');
    at_ += count;
    return static_cast<size_t>(count);
  }

  TarReader& tar_;
  int64_t at_ = 0;   // of a file with holes
  size_t part_ = 0;  // of its map
};

bool TarReader::is_tar(std::string_view start) {
  return start.size() == kBlock && start.substr(257, 5) == "ustar" && checksum_matches(start.data());
}

bool TarReader::next() {
  extra_ = {};
  while (true) {
    skip(left_ + padding_);
    char header[kBlock];
    const size_t got = archive_.read_fully(header, kBlock);
    if (got == 0 || std::all_of(header, header + got, [](char c) { return c == 0; })) return false;
    require(got == kBlock, archive_.name(), ": truncated: ends within the header of a member");
    require(checksum_matches(header), archive_.name(), ": corrupt tar archive: wrong checksum of a header after '",
            path_, "'");
    const char type = header[156];
    left_ = tar_number(header, 124, 12);
    if (extra_.size >= 0 && type != 'x' && type != 'L') left_ = extra_.size;
    require(left_ >= 0, archive_.name(), ": corrupt tar archive: size of a member after '", path_, "'");
    padding_ = (kBlock - left_ % kBlock) % kBlock;
    if (type == 'x') {
      read_extended_header(read_text(left_));
    } else if (type == 'L') {
      extra_.path = read_text(left_);
      extra_.path.resize(strnlen(extra_.path.c_str(), extra_.path.size()));
    } else if (type != 'g' && type != 'K') {
      if (read_member(header)) return true;
      extra_ = {};
    }
  }
}

// False for what is neither a file nor a link.
bool TarReader::read_member(const char* header) {
  const char type = header[156];
  const bool posix = std::memcmp(header + 257, "ustar", 6) == 0;  // GNU writes a blank after "ustar", and no prefix
  const std::string_view prefix = posix ? field(header, 345, 155) : std::string_view();
  path_ = !extra_.sparse.name().empty() ? extra_.sparse.name()
          : !extra_.path.empty()        ? extra_.path
                                        : concat(prefix, prefix.empty() ? "" : "/", field(header, 0, 100));
  if (type >= '1' && type <= '6') left_ = padding_ = 0;  // links, devices and folders have no bytes
  map_ = {};
  is_file_ = type == '0' || type == '\0' || type == '7' || type == 'S';
  if (is_file_ && (type == 'S' || extra_.sparse.present())) read_sparse_map(header);
  const bool passed_over = (type >= '3' && type <= '6') || type == 'V' || type == 'D';
  return !passed_over;
}

void TarReader::read_sparse_map(const char* header) {
  try {
    map_ = header[156] == 'S' ? read_gnu_map(header, archive_) : extra_.sparse.finish(archive_, left_);
    check_map(map_, left_);
  } catch (const Error& error) {
    fail(archive_.name(), ":", path_, ": corrupt tar archive: ", error.what(),
         " (tar without --sparse makes an archive without holes)");
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
    if (record.starts_with("path=")) extra_.path = record.substr(5);
    if (record.starts_with("size=")) std::from_chars(&record[5], record.data() + record.size(), extra_.size);
    try {
      extra_.sparse.take(record);
    } catch (const Error& what) {
      fail(archive_.name(), ": corrupt tar archive: pax header after '", path_, "': ", what.what());
    }
    at += length;
  }
}

}  // namespace scfa
