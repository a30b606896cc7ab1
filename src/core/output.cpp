#include "core/output.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <iostream>
#include <streambuf>
#include <string>

#include "core/signals.h"

namespace scfa {

namespace {

class PatientBuffer : public std::streambuf {
 public:
  PatientBuffer() { setp(block_.data(), block_.data() + block_.size()); }
  int error() const { return error_; }

 protected:
  int sync() override {
    const int error = write_patiently(STDOUT_FILENO, {pbase(), static_cast<size_t>(pptr() - pbase())});
    setp(block_.data(), block_.data() + block_.size());
    if (error_ == 0) error_ = error;
    return error == 0 ? 0 : -1;
  }
  int_type overflow(int_type c) override {
    if (sync() != 0) return traits_type::eof();
    if (!traits_type::eq_int_type(c, traits_type::eof())) sputc(traits_type::to_char_type(c));
    return traits_type::not_eof(c);
  }

 private:
  std::array<char, 8192> block_;
  int error_ = 0;
};

// Never destroyed: std::cout is flushed once more when the program has ended.
PatientBuffer& patient_buffer() {
  static auto* const buffer = new PatientBuffer;
  return *buffer;
}

}  // namespace

int write_patiently(int fd, std::string_view text) {
  while (!text.empty()) {
    pollfd ready{fd, POLLOUT, 0};
    const int count = ::poll(&ready, 1, 100);
    if (count < 0 && errno != EINTR) return errno;
    if (count == 0 && stop_requested()) return EINTR;
    if (count <= 0) continue;
    // A pipe that is ready takes this much; of more it could take a part, and wait where no signal ends it.
    const ssize_t done = ::write(fd, text.data(), std::min<size_t>(text.size(), PIPE_BUF));
    if (done < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (done < 0) return errno;
    text.remove_prefix(static_cast<size_t>(done));
  }
  return 0;
}

void say_at_the_end(std::string_view text) {
  std::string line(::isatty(STDERR_FILENO) == 1 ? "\r\033[K" : "");
  line.append("train: ").append(text).append("\n");
  pollfd ready{STDERR_FILENO, POLLOUT, 0};
  if (::poll(&ready, 1, 1000) <= 0) return;
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
}

void make_standard_output_patient() {
  std::cout.flush();
  std::cout.rdbuf(&patient_buffer());
}

int standard_output_error() {
  return patient_buffer().error();
}

}  // namespace scfa
