// Files with holes, links, and other members of tar archives that are not plain files.
#include "data/tar.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "data/prepare_fixture.h"

namespace scfa {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::PrepareTest;
using testing::read_text;
using testing::tar_end;
using testing::tar_entry;
using testing::Tokens;

class TarTest : public PrepareTest {
 protected:
  // A file with holes at its start, in it and at its end; many, so that maps go on in further blocks.
  std::string put_sparse(int parts) {
    std::string content;
    for (int i = 0; i < parts; ++i) {
      content += std::string(1 << 17, '\0');
      content += concat("part ", i, std::string(4096 - 16, 'x'));
      content.resize((content.size() + 4095) / 4096 * 4096);
    }
    content += std::string(1 << 17, '\0');
    const std::string path = folder_.file("holes.txt");
    test::write_text(path, "");
    fs::resize_file(path, content.size());
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    for (size_t at = 0; at < content.size(); at += 4096) {
      if (content.compare(at, 4096, std::string(4096, '\0')) == 0) continue;
      file.seekp(static_cast<std::streamoff>(at));
      file << content.substr(at, 4096);
    }
    file.close();
    EXPECT_EQ(read_text(path), content);
    return content;
  }
  bool tar(const std::string& options) const {
    return std::system(
               concat("cd '", folder_.file(""), "' && tar ", options, " -cSf a.tar holes.txt after.txt 2>/dev/null")
                   .c_str()) == 0;
  }
  PrepareOptions bytes_options(const std::string& name) {
    PrepareOptions made = options({folder_.file("a.tar")}, name);
    made.tokenizer = "bytes";
    return made;
  }
};

TEST_F(TarTest, FilesWithHolesAreExpanded) {
  if (std::system("tar --version 2>/dev/null | grep -q 'GNU tar'") != 0) GTEST_SKIP() << "no GNU tar here";
  folder_.put("after.txt", "what follows");
  for (const int parts : {1, 3, 60}) {
    const std::string content = put_sparse(parts);
    const Tokens expected = encode({content, "what follows"}, "bytes");
    for (const char* format : {"--format=gnu", "--format=oldgnu", "--format=posix --sparse-version=0.0",
                               "--format=posix --sparse-version=0.1", "--format=posix --sparse-version=1.0"}) {
      ASSERT_TRUE(tar(format)) << format;
      if (fs::file_size(folder_.file("a.tar")) >= content.size()) GTEST_SKIP() << "this file system makes no holes";
      const std::string name = "set" + std::to_string(sets_++);
      EXPECT_TRUE(prepare_tokens(bytes_options(name)) == expected) << format << ", " << parts << " parts";
      fs::remove_all(folder_.file(name));
    }
  }
}

// A pax header in front of a member.
std::string pax(const std::vector<std::string>& records) {
  std::string all;
  for (const std::string& record : records) {
    std::string line = " " + record + "\n";
    size_t length = line.size() + 1;
    while (std::to_string(length).size() + line.size() > length) ++length;
    all += std::to_string(length) + line;
  }
  return tar_entry("PaxHeaders/x", all, 'x');
}

TEST_F(TarTest, MapsThatMakeNoSenseAreRefused) {
  const auto expect = [&](const std::string& archive, const std::string& part) {
    folder_.put("a.tar", archive + tar_end());
    const std::string error = error_of([&] { prepare(bytes_options("set")); });
    EXPECT_NE(error.find(part), std::string::npos) << error;
    EXPECT_NE(error.find("a.tar"), std::string::npos) << error;
    EXPECT_FALSE(fs::exists(folder_.file("set")));
  };
  const std::string size = "GNU.sparse.size=100", member = tar_entry("a.txt", "0123456789");
  expect(pax({size, "GNU.sparse.map=0,20"}) + member, "a.tar:a.txt: corrupt tar archive: a map of holes for 20 bytes");
  expect(pax({size, "GNU.sparse.map=0,20"}) + member, "tar without --sparse makes an archive without holes");
  expect(pax({size, "GNU.sparse.map=95,10"}) + member, "parts overlap or lie outside the file");
  expect(pax({size, "GNU.sparse.map=50,5,40,5"}) + member, "parts overlap");
  expect(pax({size, "GNU.sparse.map=0,5,x,5"}) + member, "\"x\" where a number must be");
  expect(pax({size, "GNU.sparse.map=0,5,7"}) + member, "an odd count of numbers");
  expect(pax({size, "GNU.sparse.numbytes=5"}) + member, "starts with a size");
  expect(pax({size, "GNU.sparse.offset=9223372036854775807", "GNU.sparse.numbytes=9223372036854775807"}) + member,
         "lie outside the file");
  const std::string version = "GNU.sparse.major=1", real = "GNU.sparse.realsize=100";
  expect(pax({version, real}) + tar_entry("a.txt", "2\n0\n5\n"), "a map of holes that does not end");
  expect(pax({version, real}) + tar_entry("a.txt", std::string(600, '1')), "a number that is too long");
  expect(pax({version, real}) + tar_entry("a.txt", "1\n0\n7\n" + std::string(506, '\0') + "12345"),
         "a map of holes for 7 bytes, where the archive holds 5");
  expect(tar_entry("a.txt", "0123456789", 'S'), "a map of holes for 0 bytes, where the archive holds 10");
}

TEST_F(TarTest, TheNameOfAFileWithHolesIsItsOwn) {
  folder_.put("a.tar", pax({"GNU.sparse.major=1", "GNU.sparse.realsize=8", "GNU.sparse.name=b.txt"}) +
                           tar_entry("GNUSparseFile.1/b", "1\n6\n2\n" + std::string(506, '\0') + "ab") +
                           tar_entry("c.txt", "c") + tar_end());
  EXPECT_EQ(prepare_tokens(bytes_options("set")), encode({std::string(6, '\0') + "ab", "c"}, "bytes"));
}

TEST_F(TarTest, LinksAreCounted) {
  folder_.put("a.tar", tar_entry("a.txt", "a") + tar_entry("hard.txt", "", '1') + tar_entry("soft.txt", "", '2') +
                           tar_entry("soft.png", "", '2') + tar_entry("folder.txt", "", '5') +
                           tar_entry("part.txt", "more", 'M') + tar_entry("b.png", "b") + tar_end());
  const PrepareResult result = prepare(bytes_options("set"));
  EXPECT_EQ(result.manifest.train.documents(), 1);
  EXPECT_EQ(result.skipped_links, 3);
  EXPECT_EQ(result.skipped_files, 1);
}

}  // namespace
}  // namespace scfa
