// From input files to pieces of work. Files, folders, archives and compressed streams are read in order by one thread
// and cut into pieces of bounded size that any number of threads can encode on their own.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "data/byte_source.h"
#include "data/tokenizer.h"

namespace scfa {

enum class InputFormat : uint8_t {
  kText,       // a document a file, or several between separator lines
  kJsonLines,  // a document a line
  kTokens,     // uint16 tokens, each document closed by end-of-text
};

struct InputOptions {
  std::vector<std::string> inputs;    // files, folders, "-"
  std::string field = "text";         // of JSON lines
  std::string separator;              // text files: the line between two documents; empty: a file is a document
  std::string stdin_format = "auto";  // text, jsonl, or auto: jsonl if it starts with an opening brace
};

struct Piece {
  InputFormat format = InputFormat::kText;
  std::string data;          // text, whole lines of JSON, or whole tokens
  std::string source;        // the file, for messages
  int64_t position = 0;      // number of its first line (JSON lines, from 1) or token (from 0)
  bool continues = false;    // starts within the document that the piece before left open
  bool ends = false;         // ends the document (text: at the end of a file)
  bool within_line = false;  // text: does not start at the start of a line
};

// Whether a line, without its newline, is the one that separates documents; a carriage return at its end is ignored.
bool is_separator(std::string_view line, std::string_view separator);

// So that memory is bounded: the size that a piece aims at, and the most that one line of JSON may take.
inline constexpr size_t kPieceBytes = size_t{512} << 10;
inline constexpr size_t kMaxLineBytes = size_t{64} << 20;

class InputReader {
 public:
  // Finds the files. Folders are searched recursively for names with a known extension, in the order of their paths.
  // Throws Error for an input that is not there or a folder without such files.
  explicit InputReader(InputOptions options);

  // The bytes on disk of all files; 0 if standard input is among them.
  int64_t total_bytes() const { return total_bytes_; }
  const std::vector<std::string>& files() const { return files_; }
  // Members of archives and files of folders that were passed over for their extension.
  int64_t skipped() const { return skipped_; }
  // Members of archives that are links or go on from another volume, and links of folders that lead to no file.
  int64_t skipped_links() const { return skipped_links_; }

  // Reads everything and gives the pieces, in order, to `sink`. `tokenizer` says where text can be cut.
  void read(ReadControl& control, const Tokenizer& tokenizer, const std::function<void(Piece)>& sink);

  // Whether a file of a folder or archive is read: .txt .text .md .rst .jsonl .ndjson .json .bin .tar .tgz, each
  // also with .gz or .zst appended.
  static bool known_extension(const std::string& name);

 private:
  void add_folder(const std::string& folder);
  void find_files(const std::string& folder, std::vector<std::string>& found);
  void read_source(std::unique_ptr<ByteSource> source, const std::string& name);
  void read_archive(ByteSource& archive);
  void read_text(PeekSource& source);
  void read_json_lines(ByteSource& source);
  void read_tokens(PeekSource& source);
  InputFormat format_of(const std::string& name, PeekSource& source) const;
  size_t text_cut(std::string_view text, bool within_line) const;

  InputOptions options_;
  std::vector<std::string> files_;
  int64_t total_bytes_ = 0;
  int64_t skipped_ = 0, skipped_links_ = 0;
  bool after_tokens_ = false;  // the piece before was of tokens
  const Tokenizer* tokenizer_ = nullptr;
  const std::function<void(Piece)>* sink_ = nullptr;
};

}  // namespace scfa
