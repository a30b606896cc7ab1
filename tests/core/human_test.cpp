#include "core/human.h"

#include <gtest/gtest.h>

namespace scfa {
namespace {

TEST(Human, PrintsAsPrintfOfAnyLength) {
  EXPECT_EQ(printed("%s-%05d.bin", "train", 7), "train-00007.bin");
  EXPECT_EQ(printed("%s", ""), "");
  EXPECT_EQ(printed("%200d", 1).size(), 200u);
}

TEST(Human, Durations) {
  EXPECT_EQ(format_duration(4.21), "4.2s");
  EXPECT_EQ(format_duration(9.99), "0:10");
  EXPECT_EQ(format_duration(83), "1:23");
  EXPECT_EQ(format_duration(3723), "1:02:03");
  EXPECT_EQ(format_duration(3 * 86400 + 7380), "3d 02:03");
}

TEST(Human, CountsAndBytes) {
  EXPECT_EQ(format_count(512), "512");
  EXPECT_EQ(format_count(999.6), "1.00k");
  EXPECT_EQ(format_count(12345), "12.3k");
  EXPECT_EQ(format_count(9.999e6), "10.0M");
  EXPECT_EQ(format_count(124475904), "124M");
  EXPECT_EQ(format_bytes(512), "512 B");
  EXPECT_EQ(format_bytes(1230000), "1.23 MB");
}

TEST(Human, Bar) {
  EXPECT_EQ(format_bar(0.5), "[###############...............]");
  EXPECT_EQ(format_bar(7), "[##############################]");
}

}  // namespace
}  // namespace scfa
