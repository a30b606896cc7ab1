// What the data tests share: folders that go away, compressed files, small token sets, texts of errors.
#pragma once
#include <zlib.h>
#include <zstd.h>

#include <string>
#include <vector>

#include "core/error.h"
#include "data/set_writer.h"
#include "data/token_file.h"
#include "data/tokenizer.h"
#include "support/temp_dir.h"

namespace scfa::testing {

using TemporaryFolder = test::TempDir;
using test::read_text;

// The message of the Error that f throws; empty if it throws none.
template <class Function>
std::string error_of(const Function& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// One zstd frame; a window log of 0 is zstd's choice.
inline std::string zstd(const std::string& bytes, int window_log = 0) {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, window_log);
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
  std::string out(ZSTD_compressBound(bytes.size()) + 64, '\0');
  ZSTD_inBuffer input{bytes.data(), bytes.size(), 0};
  ZSTD_outBuffer output{out.data(), out.size(), 0};
  // In two calls: then the frame does not state the size of its content, as when it is piped.
  ZSTD_compressStream2(context, &output, &input, ZSTD_e_continue);
  ZSTD_compressStream2(context, &output, &input, ZSTD_e_end);
  ZSTD_freeCCtx(context);
  out.resize(output.pos);
  return out;
}

inline std::string gzip(const std::string& bytes) {
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, MAX_WBITS + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&stream, bytes.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

// A tar header with its checksum, and the content padded to blocks.
inline std::string tar_entry(const std::string& name, const std::string& bytes, char type = '0') {
  std::string header(512, '\0');
  name.copy(&header[0], 100);
  const auto octal = [&](size_t at, size_t digits, size_t value) {
    for (size_t i = digits; i-- > 0; value >>= 3) header[at + i] = static_cast<char>('0' + (value & 7));
  };
  octal(100, 7, 0644);
  octal(124, 11, bytes.size());
  header[156] = type;
  std::string("ustar").copy(&header[257], 5);
  header[263] = header[264] = '0';
  std::fill(header.begin() + 148, header.begin() + 156, ' ');
  size_t sum = 0;
  for (const char c : header) sum += static_cast<unsigned char>(c);
  octal(148, 6, sum);
  header[154] = '\0';
  return header + bytes + std::string((512 - bytes.size() % 512) % 512, '\0');
}

inline std::string tar_end() {
  return std::string(1024, '\0');
}

// A prepared set with just these tokens as its training split.
inline void write_token_set(const std::string& directory, const std::vector<uint32_t>& tokens, int64_t shard_tokens,
                            const std::string& tokenizer = "gpt2") {
  const auto made_by = make_tokenizer(tokenizer);
  SetOptions options;
  options.directory = directory;
  options.shard_tokens = shard_tokens;
  options.val_fraction = 0;
  SetWriter writer(options, *made_by);
  writer.split(Split::kTrain).append(tokens, TokenLengths(*made_by).bytes(tokens));
  writer.finish();
  writer.commit();
}

// All tokens of a split.
inline std::vector<int32_t> all_tokens(const std::string& directory, Split split) {
  const TokenSet set(directory, split);
  std::vector<int32_t> tokens(static_cast<size_t>(set.tokens()));
  set.read(0, set.tokens(), tokens.data());
  return tokens;
}

}  // namespace scfa::testing
