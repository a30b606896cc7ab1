#include "data/piece_encoder.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "data/json_lines.h"

namespace scfa {

TokenLengths::TokenLengths(const Tokenizer& tokenizer) : length_(tokenizer.vocab_size()) {
  for (uint32_t token = 0; token < tokenizer.vocab_size(); ++token) {
    const size_t length = token == tokenizer.end_of_text() ? 0 : tokenizer.bytes(token).size();
    require(length < 256, "a token of ", length, " bytes");
    length_[token] = static_cast<uint8_t>(length);
  }
}

int64_t TokenLengths::bytes(std::span<const uint32_t> tokens) const {
  int64_t sum = 0;
  for (const uint32_t token : tokens) sum += length_[token];
  return sum;
}

PieceEncoder::PieceEncoder(const std::string& tokenizer, std::string field, std::string separator)
    : tokenizer_(make_tokenizer(tokenizer)),
      lengths_(*tokenizer_),
      field_(std::move(field)),
      separator_(std::move(separator)) {}

EncodedPiece PieceEncoder::encode(const Piece& piece) {
  EncodedPiece out;
  out.continues = piece.continues;
  out.tokens.reserve(piece.data.size() / 3);
  switch (piece.format) {
    case InputFormat::kText:
      encode_text(piece, out);
      break;
    case InputFormat::kJsonLines:
      encode_json_lines(piece, out);
      break;
    case InputFormat::kTokens:
      take_tokens(piece, out);
      break;
  }
  return out;
}

void PieceEncoder::add_segment(std::string_view text, Segment::End end, EncodedPiece& out) {
  const size_t before = out.tokens.size();
  tokenizer_->encode(text, out.tokens);
  out.segments.push_back({static_cast<int64_t>(out.tokens.size() - before), static_cast<int64_t>(text.size()), end});
}

void PieceEncoder::encode_text(const Piece& piece, EncodedPiece& out) {
  const std::string_view text = piece.data;
  size_t document = 0;  // where the current one starts
  try {
    if (!separator_.empty()) {
      for (size_t at = text.find(separator_); at != std::string_view::npos; at = text.find(separator_, at + 1)) {
        const bool at_line = at == 0 ? !piece.within_line : text[at - 1] == '\n';
        const size_t newline = std::min(text.find('\n', at), text.size());
        if (!at_line || !is_separator(text.substr(at, newline - at), separator_)) continue;
        add_segment(text.substr(document, at - document), Segment::End::kText, out);
        document = std::min(newline + 1, text.size());
      }
    }
    add_segment(text.substr(document), piece.ends ? Segment::End::kText : Segment::End::kOpen, out);
  } catch (const Error& error) {
    fail(piece.source, ": near byte ", piece.position, ": ", error.what());
  }
}

void PieceEncoder::encode_json_lines(const Piece& piece, EncodedPiece& out) {
  std::string_view lines = piece.data;
  int64_t number = piece.position;
  if (number == 1 && lines.starts_with("\xEF\xBB\xBF")) lines.remove_prefix(3);  // byte order mark
  for (; !lines.empty(); ++number) {
    const size_t newline = std::min(lines.find('\n'), lines.size());
    const std::string_view line = lines.substr(0, newline);
    lines.remove_prefix(std::min(newline + 1, lines.size()));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    text_.clear();
    try {
      extract_json_text(line, field_, text_);
      add_segment(text_, Segment::End::kText, out);
    } catch (const Error& error) {
      fail(piece.source, ":", number, ": ", error.what());
    }
  }
  if (text_.capacity() > 4 * kPieceBytes) text_ = {};  // not to be kept by every thread after a huge line
}

void PieceEncoder::take_tokens(const Piece& piece, EncodedPiece& out) const {
  const size_t count = piece.data.size() / sizeof(uint16_t);
  out.tokens.resize(count);
  size_t document = 0;
  const auto add = [&](size_t stop, Segment::End end) {
    const std::span<const uint32_t> part(out.tokens.data() + document, stop - document);
    out.segments.push_back({static_cast<int64_t>(part.size()), lengths_.bytes(part), end});
    document = stop;
  };
  for (size_t i = 0; i < count; ++i) {
    uint16_t token;
    std::memcpy(&token, piece.data.data() + i * sizeof(token), sizeof(token));
    require(token < tokenizer_->vocab_size(), piece.source, ": token ", piece.position + static_cast<int64_t>(i),
            " is ", token, ", not below the ", tokenizer_->vocab_size(), " of the tokenizer '", tokenizer_->name(),
            "'");
    out.tokens[i] = token;
    if (token == tokenizer_->end_of_text()) add(i + 1, Segment::End::kIncluded);
  }
  if (document < count) add(count, Segment::End::kOpen);
}

}  // namespace scfa
