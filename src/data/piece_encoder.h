// From a piece of input to tokens: the work of one thread of prepare_data.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/inputs.h"
#include "data/tokenizer.h"

namespace scfa {

// How many bytes of text stand behind tokens; none behind end-of-text.
class TokenLengths {
 public:
  explicit TokenLengths(const Tokenizer& tokenizer);
  int64_t bytes(std::span<const uint32_t> tokens) const;

 private:
  std::vector<uint8_t> length_;
};

// A run of tokens of one document.
struct Segment {
  enum class End : uint8_t {
    kOpen,      // the document goes on
    kText,      // its text ends here; end-of-text is still to be written
    kIncluded,  // the last token is its end-of-text
  };
  int64_t tokens = 0;
  int64_t bytes = 0;  // of text
  End end = End::kOpen;
};

struct EncodedPiece {
  std::vector<uint32_t> tokens;
  std::vector<Segment> segments;
  bool continues = false;  // as Piece
};

class PieceEncoder {
 public:
  PieceEncoder(const std::string& tokenizer, std::string field, std::string separator);

  // Throws Error naming the file and the line or token at fault.
  EncodedPiece encode(const Piece& piece);

 private:
  void encode_text(const Piece& piece, EncodedPiece& out);
  void encode_json_lines(const Piece& piece, EncodedPiece& out);
  void take_tokens(const Piece& piece, EncodedPiece& out) const;
  void add_segment(std::string_view text, Segment::End end, EncodedPiece& out);

  std::unique_ptr<Tokenizer> tokenizer_;
  TokenLengths lengths_;
  std::string field_, separator_;
  std::string text_;  // of one line of JSON
};

}  // namespace scfa
