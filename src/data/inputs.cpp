#include "data/inputs.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <filesystem>
#include <utility>

#include "core/error.h"
#include "data/tar.h"

namespace scfa {

namespace fs = std::filesystem;

namespace {

constexpr size_t kStart = 512;  // bytes that tell what a file is

bool ends_with_any(std::string_view name, std::initializer_list<std::string_view> endings) {
  return std::any_of(endings.begin(), endings.end(), [&](std::string_view end) { return name.ends_with(end); });
}

// The name without .gz or .zst, in lower case.
std::string plain_name(std::string name) {
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
  for (const std::string_view ending : {std::string_view(".gz"), std::string_view(".zst")})
    if (name.ends_with(ending)) name.resize(name.size() - ending.size());
  return name;
}

bool is_json_name(std::string_view name) {
  return ends_with_any(name, {".jsonl", ".ndjson", ".json"});
}

// Files that would be read as nonsense.
void refuse_foreign(const std::string& name, std::string_view start) {
  struct Foreign {
    std::string_view magic, what;
  };
  static constexpr std::array<Foreign, 6> kForeign = {{
      {"PAR1", "a Parquet file; try: node scripts/parquet_text.mjs FILE | prepare_data --input - --stdin-format jsonl"},
      {std::string_view("PK\x03\x04", 4), "a zip archive; try: unzip -p FILE | prepare_data --input -"},
      {std::string_view("\xFD\x37zXZ", 5), "an xz file; try: xz -dc FILE | prepare_data --input -"},
      {"BZh", "a bzip2 file; try: bzip2 -dc FILE | prepare_data --input -"},
      {"scfa-tok", "a shard of a prepared set; such a set needs no preparing"},
      {std::string_view("\x37\x7A\xBC\xAF", 4), "a 7z archive"},
  }};
  for (const auto& [magic, what] : kForeign) require(!start.starts_with(magic), name, ": is ", what);
}

// Appends up to `size` bytes; false if the source has ended.
bool read_more(ByteSource& source, size_t size, std::string& data) {
  const size_t before = data.size();
  data.resize(before + size);
  data.resize(before + source.read_fully(&data[before], size));
  return data.size() == before + size;
}

// Whether the magic of a header of llm.c was hit by a bit or a few: bare tokens hardly begin so, and go on with a
// version of 1.
bool is_damaged_magic(const int32_t* header, int32_t magic) {
  constexpr int kFew = 4;
  return header[1] == 1 && std::popcount(static_cast<uint32_t>(header[0] ^ magic)) <= kFew;
}

// Splits off what follows `cut`.
std::string split_tail(std::string& data, size_t cut) {
  std::string tail = data.substr(cut);
  data.resize(cut);
  return tail;
}

}  // namespace

bool is_separator(std::string_view line, std::string_view separator) {
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line == separator;
}

InputReader::InputReader(InputOptions options) : options_(std::move(options)) {
  require(!options_.inputs.empty(), "no input: name files, folders or - with --input");
  require(options_.stdin_format == "auto" || options_.stdin_format == "text" || options_.stdin_format == "jsonl",
          "--stdin-format must be text, jsonl or auto, not '", options_.stdin_format, "'");
  bool known = true;
  for (const std::string& input : options_.inputs) {
    if (input == "-") {
      require(std::find(files_.begin(), files_.end(), "-") == files_.end(), "--input: - can be named once only");
      known = false;
      files_.push_back(input);
      continue;
    }
    std::error_code error;
    const fs::file_status status = fs::status(input, error);
    require(status.type() != fs::file_type::not_found, input, ": no such file or folder");
    require(!error, input, ": cannot be opened: ", error.message());
    fs::is_directory(status) ? add_folder(input) : files_.push_back(input);
  }
  for (const std::string& file : files_) {
    std::error_code error;
    const uintmax_t size = fs::file_size(file, error);
    known = known && !error;  // a pipe has none
    if (known) total_bytes_ += static_cast<int64_t>(size);
  }
  if (!known) total_bytes_ = 0;
}

void InputReader::add_folder(const std::string& folder) {
  std::vector<std::string> found;
  find_files(folder, found);
  require(!found.empty(), folder,
          ": the folder has no file with a known extension (.txt, .md, .jsonl, .bin, ...; "
          "with or without .gz or .zst; .tar)");
  std::sort(found.begin(), found.end());
  files_.insert(files_.end(), found.begin(), found.end());
}

// Links to files are followed; others could lead in circles.
void InputReader::find_files(const std::string& folder, std::vector<std::string>& found) {
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    std::error_code dangling;
    const std::string path = at->path().string();
    if (at->is_symlink(dangling) && !at->is_regular_file(dangling))
      ++skipped_links_;
    else if (at->is_directory(dangling))
      find_files(path, found);
    else if (at->is_regular_file(dangling))
      known_extension(at->path().filename().string()) ? found.push_back(path) : void(++skipped_);
  }
  require(!error, folder, ": cannot be listed: ", error.message());
}

bool InputReader::known_extension(const std::string& name) {
  const std::string plain = plain_name(name);
  return is_json_name(plain) || ends_with_any(plain, {".txt", ".text", ".md", ".rst", ".bin", ".tar", ".tgz"});
}

void InputReader::read(ReadControl& control, const Tokenizer& tokenizer, const std::function<void(Piece)>& sink) {
  tokenizer_ = &tokenizer;
  sink_ = &sink;
  for (const std::string& file : files_) read_source(open_file(file, control), file);
}

void InputReader::read_source(std::unique_ptr<ByteSource> raw, const std::string& name) {
  const std::unique_ptr<PeekSource> source = decompress(std::move(raw));
  const std::string_view start = source->peek(kStart);
  refuse_foreign(source->name(), start);
  const std::string plain = plain_name(name);
  if (TarReader::is_tar(start)) return read_archive(*source);
  require(!ends_with_any(plain, {".tar", ".tgz"}), source->name(), ": not a tar archive (ustar, GNU or pax)");
  const InputFormat format = format_of(plain, *source);
  if (format == InputFormat::kTokens) return read_tokens(*source);
  format == InputFormat::kJsonLines ? read_json_lines(*source) : read_text(*source);
  after_tokens_ = false;
}

InputFormat InputReader::format_of(const std::string& name, PeekSource& source) const {
  if (name == "-") {
    if (options_.stdin_format != "auto")
      return options_.stdin_format == "text" ? InputFormat::kText : InputFormat::kJsonLines;
    const std::string_view start = source.peek(kStart);
    const size_t first = start.find_first_not_of(" \t\r\n");
    return first != std::string_view::npos && start[first] == '{' ? InputFormat::kJsonLines : InputFormat::kText;
  }
  if (is_json_name(name)) return InputFormat::kJsonLines;
  return name.ends_with(".bin") ? InputFormat::kTokens : InputFormat::kText;
}

void InputReader::read_archive(ByteSource& archive) {
  TarReader tar(archive);
  int64_t read = 0;
  while (tar.next()) {
    const std::string path = tar.path();
    if (!tar.is_file()) {
      skipped_links_ += known_extension(path);
    } else if (known_extension(path)) {
      read_source(tar.open_member(), path);
      ++read;
    } else {
      ++skipped_;
    }
  }
  require(read > 0, archive.name(), ": the archive has no file with a known extension (.txt, .jsonl, .jsonl.zst, ...)");
}

// With a separator, a cut must neither fall into a separator line, nor into a last line that may become one.
size_t InputReader::text_cut(std::string_view text, bool within_line) const {
  if (options_.separator.empty()) return tokenizer_->safe_cut(text);
  const size_t last = text.rfind('\n') + 1;
  const bool undecided = text.size() - last <= options_.separator.size() + 1 && !(last == 0 && within_line);
  const size_t cut = tokenizer_->safe_cut(undecided ? text.substr(0, last) : text);
  if (cut == 0) return 0;
  const size_t start = text.rfind('\n', cut - 1) + 1, end = std::min(text.find('\n', cut), text.size());
  if ((start == 0 && within_line) || !is_separator(text.substr(start, end - start), options_.separator)) return cut;
  return start > 0 ? start : std::min(end + 1, text.size());  // before it or after it: documents end here
}

void InputReader::read_text(PeekSource& source) {
  // Only a tokenizer of any bytes makes sense of an image or a program.
  require(tokenizer_->name() == "bytes" || source.peek(kStart).find('\0') == std::string_view::npos, source.name(),
          ": has bytes of value 0 near its start, so it is not UTF-8 text (UTF-16: iconv -f UTF-16 -t UTF-8 FILE); "
          "--tokenizer bytes takes any file");
  Piece piece;
  piece.source = source.name();
  size_t want = kPieceBytes;
  while (true) {
    const bool more = read_more(source, want - piece.data.size(), piece.data);
    if (!more) break;
    const size_t cut = text_cut(piece.data, piece.within_line);
    if (cut == 0) {  // no place to cut: look further
      require(want <= Tokenizer::kMaxWord, source.name(), ": ", want, " bytes of text from byte ", piece.position,
              " on have no place to cut between words: is it text?");
      want *= 2;
      continue;
    }
    Piece next;
    next.source = piece.source;
    next.position = piece.position + static_cast<int64_t>(cut);
    next.data = split_tail(piece.data, cut);
    next.continues = true;
    next.within_line = piece.data.back() != '\n';
    (*sink_)(std::exchange(piece, std::move(next)));
    want = kPieceBytes;
    if (piece.data.size() >= want) want = piece.data.size() + kPieceBytes;
  }
  piece.ends = true;
  (*sink_)(std::move(piece));
}

void InputReader::read_json_lines(ByteSource& source) {
  Piece piece;
  piece.format = InputFormat::kJsonLines;
  piece.source = source.name();
  piece.position = 1;
  size_t want = kPieceBytes;
  while (true) {
    const size_t before = piece.data.size();
    const bool more = read_more(source, want - before, piece.data);
    if (!more) break;
    const size_t newline = std::string_view(piece.data).substr(before).rfind('\n');
    if (newline == std::string_view::npos) {
      require(want < kMaxLineBytes, source.name(), ":", piece.position, ": a line of more than ", kMaxLineBytes >> 20,
              " MiB; split the document");
      want *= 2;
      continue;
    }
    Piece next;
    next.format = piece.format;
    next.source = piece.source;
    next.data = split_tail(piece.data, before + newline + 1);
    next.position = piece.position + std::count(piece.data.begin(), piece.data.end(), '\n');
    (*sink_)(std::exchange(piece, std::move(next)));
    want = std::max(kPieceBytes, piece.data.size() + kPieceBytes / 2);
  }
  (*sink_)(std::move(piece));
}

// nanoGPT writes bare uint16 tokens, llm.c a header of 256 int32 before them: magic, version, count.
void InputReader::read_tokens(PeekSource& source) {
  constexpr int32_t kMagic = 20240520, kLlama3Magic = 20240801;
  int32_t header[256] = {};
  source.peek(sizeof(header)).copy(reinterpret_cast<char*>(header), sizeof(header));
  require(header[0] != kLlama3Magic, source.name(), ": llm.c tokens of 32 bits (Llama 3), not of GPT-2");
  const bool llmc = header[0] == kMagic;
  require(llmc || (!is_damaged_magic(header, kMagic) && !is_damaged_magic(header, kLlama3Magic)), source.name(),
          ": looks like a token file of llm.c, but starts with ", header[0], " instead of ", kMagic, ": it is corrupt");
  if (llmc) {
    require(header[1] == 1, source.name(), ": version ", header[1], " of llm.c's token files; 1 is known");
    require(source.read_fully(reinterpret_cast<char*>(header), sizeof(header)) == sizeof(header), source.name(),
            ": truncated: ends within its header");
  }
  Piece piece;
  piece.format = InputFormat::kTokens;
  piece.source = source.name();
  for (bool more = true; more;) {
    more = read_more(source, kPieceBytes, piece.data);
    const int64_t position = piece.position + static_cast<int64_t>(piece.data.size() / 2);
    require(piece.data.size() % 2 == 0, source.name(), ": an odd number of bytes, not a file of uint16 tokens");
    piece.continues = after_tokens_;
    after_tokens_ = true;
    Piece next;
    next.format = piece.format;
    next.source = piece.source;
    next.position = position;
    (*sink_)(std::exchange(piece, std::move(next)));
  }
  require(piece.position > 0, source.name(), ": the file has no tokens");
  require(!llmc || piece.position == header[2], source.name(), ": ", piece.position < header[2] ? "truncated: " : "",
          "holds ", piece.position, " tokens, its header says ", header[2]);
}

}  // namespace scfa
