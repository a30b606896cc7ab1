#include "data/byte_source.h"

#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "data/input_file.h"

namespace scfa {

namespace {

constexpr size_t kBlock = size_t{1} << 18;
constexpr const char* kNoMemory = ": not enough memory to decompress it";

class FileSource final : public ByteSource {
 public:
  FileSource(const std::string& path, ReadControl& control)
      : ByteSource(path == "-" ? "standard input" : path), control_(control) {
    fd_ = path == "-" ? STDIN_FILENO : open_for_reading(path);
    struct stat status {};
    waits_ = ::fstat(fd_, &status) == 0 && !S_ISREG(status.st_mode);
  }
  ~FileSource() override {
    if (fd_ != STDIN_FILENO) ::close(fd_);
  }

  size_t read(char* out, size_t size) override {
    while (true) {
      control_.check_stop(name(), ": reading was interrupted");
      if (waits_ && !wait_readable(fd_)) continue;  // a pipe: look up now and then, whether to stop
      const ssize_t got = ::read(fd_, out, size);
      if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      require(got >= 0, name(), ": cannot be read: ", std::strerror(errno));
      control_.bytes += got;
      return static_cast<size_t>(got);
    }
  }

 private:
  ReadControl& control_;
  int fd_ = -1;
  bool waits_ = false;
};

// What the two decompressors share: a block of input and where in it they are.
class Decompressor : public ByteSource {
 public:
  explicit Decompressor(std::unique_ptr<ByteSource> source)
      : ByteSource(source->name()), source_(std::move(source)), input_(kBlock) {}

 protected:
  // Makes sure that there is input left; false at the end of the source.
  bool refill() {
    if (at_ < end_) return true;
    at_ = 0;
    end_ = source_->read(input_.data(), input_.size());
    return end_ > 0;
  }

  std::unique_ptr<ByteSource> source_;
  std::vector<char> input_;
  size_t at_ = 0, end_ = 0;
};

class ZstdSource final : public Decompressor {
 public:
  explicit ZstdSource(std::unique_ptr<ByteSource> source)
      : Decompressor(std::move(source)), stream_(ZSTD_createDStream(), &ZSTD_freeDStream) {
    const size_t limit = ZSTD_dParam_getBounds(ZSTD_d_windowLogMax).upperBound;
    require(stream_ != nullptr && !ZSTD_isError(ZSTD_DCtx_setParameter(stream_.get(), ZSTD_d_windowLogMax, limit)),
            name(), ": zstd cannot be set up");
  }

  size_t read(char* out, size_t size) override {
    ZSTD_outBuffer output{out, size, 0};
    while (output.pos == 0) {
      // What is decoded but did not fit comes out without more input.
      if (!more_output_ && !refill()) {
        require(frame_done_, name(), ": truncated: ends in the middle of a zstd frame");
        return 0;
      }
      ZSTD_inBuffer input{input_.data(), end_, at_};
      const size_t left = ZSTD_decompressStream(stream_.get(), &output, &input);
      require(ZSTD_getErrorCode(left) != ZSTD_error_memory_allocation, name(), kNoMemory);
      require(!ZSTD_isError(left), name(), ": corrupt zstd data: ", ZSTD_getErrorName(left));
      at_ = input.pos;
      frame_done_ = left == 0;
      more_output_ = output.pos == output.size && !frame_done_;
    }
    return output.pos;
  }

 private:
  std::unique_ptr<ZSTD_DStream, size_t (*)(ZSTD_DStream*)> stream_;
  bool frame_done_ = true, more_output_ = false;
};

class GzipSource final : public Decompressor {
 public:
  explicit GzipSource(std::unique_ptr<ByteSource> source) : Decompressor(std::move(source)) {
    require(inflateInit2(&stream_, MAX_WBITS + 16) == Z_OK, name(), ": zlib cannot be set up");
  }
  ~GzipSource() override { inflateEnd(&stream_); }

  size_t read(char* out, size_t size) override {
    size = std::min<size_t>(size, 1u << 30);
    stream_.next_out = reinterpret_cast<Bytef*>(out);
    stream_.avail_out = static_cast<uInt>(size);
    while (stream_.avail_out == size) {
      if (!refill()) {
        require(member_done_, name(), ": truncated: ends in the middle of gzip data");
        return 0;
      }
      if (member_done_) {  // another member follows
        inflateReset(&stream_);
        member_done_ = false;
      }
      stream_.next_in = reinterpret_cast<Bytef*>(input_.data() + at_);
      stream_.avail_in = static_cast<uInt>(end_ - at_);
      const int status = inflate(&stream_, Z_NO_FLUSH);
      at_ = end_ - stream_.avail_in;
      require(status != Z_MEM_ERROR, name(), kNoMemory);
      require(status == Z_OK || status == Z_STREAM_END, name(),
              ": corrupt gzip data: ", stream_.msg ? stream_.msg : "unexpected end of a block");
      member_done_ = status == Z_STREAM_END;
    }
    return size - stream_.avail_out;
  }

 private:
  z_stream stream_{};
  bool member_done_ = false;
};

}  // namespace

size_t ByteSource::read_fully(char* out, size_t size) {
  size_t done = 0;
  while (done < size) {
    const size_t got = read(out + done, size - done);
    if (got == 0) break;
    done += got;
  }
  return done;
}

std::unique_ptr<ByteSource> open_file(const std::string& path, ReadControl& control) {
  return std::make_unique<FileSource>(path, control);
}

PeekSource::PeekSource(std::unique_ptr<ByteSource> source) : ByteSource(source->name()), source_(std::move(source)) {}

std::string_view PeekSource::peek(size_t size) {
  ahead_.erase(0, used_);
  used_ = 0;
  const size_t have = ahead_.size();
  if (have < size) {
    ahead_.resize(size);
    ahead_.resize(have + source_->read_fully(&ahead_[have], size - have));
  }
  return std::string_view(ahead_).substr(0, size);
}

size_t PeekSource::read(char* out, size_t size) {
  if (used_ == ahead_.size()) return source_->read(out, size);
  const size_t part = ahead_.copy(out, size, used_);
  used_ += part;
  return part;
}

namespace {

bool is_zstd(std::string_view start) {  // pzstd starts with a frame to skip
  return start == "\x28\xB5\x2F\xFD" ||
         (start.size() == 4 && (start[0] & 0xF0) == 0x50 && start.substr(1) == "\x2A\x4D\x18");
}

bool is_gzip(std::string_view start) {
  return start.substr(0, 3) == "\x1F\x8B\x08";
}

}  // namespace

std::unique_ptr<PeekSource> decompress(std::unique_ptr<ByteSource> source) {
  auto plain = std::make_unique<PeekSource>(std::move(source));
  for (const auto& [ending, is] : {std::pair{".zst", &is_zstd}, std::pair{".gz", &is_gzip}})
    require(!plain->name().ends_with(ending) || is(plain->peek(4)), plain->name(), ": not ", ending + 1,
            " data, despite its name");
  while (true) {
    if (is_zstd(plain->peek(4)))
      plain = std::make_unique<PeekSource>(std::make_unique<ZstdSource>(std::move(plain)));
    else if (is_gzip(plain->peek(4)))
      plain = std::make_unique<PeekSource>(std::make_unique<GzipSource>(std::move(plain)));
    else
      return plain;
  }
}

}  // namespace scfa
