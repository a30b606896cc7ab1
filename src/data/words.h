// How GPT-2 cuts text into words before byte-pair encoding. The reference is the pattern
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// (Radford et al. 2019, encoder.py). A byte that is no part of valid UTF-8 counts as one character that is neither
// letter, number nor blank.
#pragma once
#include <cstddef>
#include <string_view>

namespace scfa {

// The end of the word that starts at text[begin]; begin < text.size() and a word starts there.
size_t word_end(std::string_view text, size_t begin);

// The largest n at which text may be cut: the words of text[0, n) and those of the rest are the words of the whole,
// whatever follows. 0 if there is none.
size_t word_cut(std::string_view text);

}  // namespace scfa
