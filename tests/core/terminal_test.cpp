#include "core/terminal.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>

namespace scfa {
namespace {

const std::string kText = "step 1000000/1000000  loss 10.123  3d 02:03 left";

TEST(ProgressText, FitsEveryWidth) {
  for (int columns = 1; columns <= 200; ++columns)
    for (const double share : {-1.0, 0.0, 0.004, 0.5, 0.999, 1.0, 7.0, std::nan("")}) {
      const std::string line = progress_text(share, kText, columns);
      EXPECT_LE(line.size(), static_cast<size_t>(columns)) << line;
      EXPECT_GE(line.size(), std::min<size_t>(static_cast<size_t>(columns), kText.size())) << line;
      EXPECT_EQ(line.find_first_of("\r\n\t\033"), std::string::npos);
      EXPECT_EQ(line.find('[') == std::string::npos, line.find(']') == std::string::npos) << line;
    }
}

TEST(ProgressText, GivesUpTheBarBeforeTheText) {
  bool had_text = false, had_bar = false;
  size_t bar = 0;
  for (int columns = 1; columns <= 200; ++columns) {  // what is there at one width is there at all wider ones
    const std::string line = progress_text(0.5, kText, columns);
    const bool text = line.find(kText) != std::string::npos, drawn = line.find('[') != std::string::npos;
    EXPECT_TRUE(text || !drawn) << line;
    EXPECT_TRUE(text || !had_text) << line;
    EXPECT_TRUE(drawn || !had_bar) << line;
    if (drawn) {
      EXPECT_GE(line.find(']'), bar) << line;
      bar = line.find(']');
    }
    had_text = text, had_bar = drawn;
  }
  EXPECT_TRUE(had_text && had_bar);
  EXPECT_EQ(progress_text(0.5, "half", 200), "[###############...............]  50%  half");
  EXPECT_EQ(progress_text(1, "all", 14), "100%  all");
  EXPECT_EQ(progress_text(-1, "unknown", 200), "unknown");
}

TEST(ProgressLine, WritesNothingWhereThereIsNoTerminal) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_NONBLOCK), 0);
  {
    ProgressLine line(ends[1]);
    EXPECT_FALSE(line.on_terminal());
    line.draw(0.5, kText);
    line.redraw_if_resized();
    line.clear();
  }
  char byte = 0;
  EXPECT_EQ(::read(ends[0], &byte, 1), -1);
  ::close(ends[0]), ::close(ends[1]);
}

// A terminal whose other side this test reads.
class Terminal {
 public:
  Terminal() : master_(::posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK)) {
    if (master_ < 0 || ::grantpt(master_) != 0 || ::unlockpt(master_) != 0) return;
    slave_ = ::open(::ptsname(master_), O_RDWR | O_NOCTTY);
  }
  ~Terminal() { ::close(master_), ::close(slave_); }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  int fd() const { return slave_; }
  void resize(unsigned short columns) const {
    winsize size{.ws_row = 24, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
    ::ioctl(slave_, TIOCSWINSZ, &size);
  }
  std::string shown() const {
    std::string text;
    char block[4096];
    for (ssize_t got = 0; (got = ::read(master_, block, sizeof block)) > 0;)
      text.append(block, static_cast<size_t>(got));
    return text;
  }

 private:
  int master_, slave_ = -1;
};

// Characters that a terminal shows of what was written to it.
size_t visible(const std::string& text) {
  size_t count = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\033')
      i = text.find_first_of("AJK", i);
    else
      count += text[i] != '\r';
  }
  return count;
}

TEST(ProgressLine, KeepsWithinATerminalThatIsResized) {
  const Terminal terminal;
  if (terminal.fd() < 0) GTEST_SKIP() << "no pseudo-terminals here";
  terminal.resize(40);
  if (terminal_columns(terminal.fd()) != 40) GTEST_SKIP() << "pseudo-terminals here have no size";
  ProgressLine line(terminal.fd());
  ASSERT_TRUE(line.on_terminal());
  line.draw(0.5, kText);
  EXPECT_EQ(visible(terminal.shown()), 39u);
  line.redraw_if_resized();
  EXPECT_EQ(terminal.shown(), "");
  terminal.resize(20);
  line.redraw_if_resized();
  const std::string narrow = terminal.shown();
  EXPECT_EQ(visible(narrow), 19u) << narrow;
  EXPECT_EQ(narrow.substr(0, 4), "\033[1A");  // what stood there takes two rows now
  terminal.resize(200);
  line.redraw_if_resized();
  EXPECT_NE(terminal.shown().find(kText), std::string::npos);
  line.clear();
  line.clear();
  EXPECT_EQ(visible(terminal.shown()), 0u);
}

}  // namespace
}  // namespace scfa
