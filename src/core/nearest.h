// "did you mean": the known word nearest to one that is not known.
#pragma once
#include <algorithm>
#include <string>
#include <vector>

namespace scfa {

inline size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

// "; did you mean X?", or nothing if no word is near. The last part of a dotted key counts too: "n_layers" finds
// "model.n_layer".
inline std::string did_you_mean(const std::string& word, const std::vector<std::string>& known) {
  const auto tail = [](const std::string& s) {
    return s.substr(s.rfind('.') == std::string::npos ? 0 : s.rfind('.') + 1);
  };
  constexpr size_t kLongest = 200;  // no word of ours is near one that is longer, and looking takes time
  if (word.size() > kLongest) return "";
  size_t best = 1 + word.size() / 3;
  std::string nearest;
  for (const std::string& candidate : known) {
    const size_t distance = std::min(edit_distance(word, candidate), edit_distance(tail(word), tail(candidate)) + 1);
    if (distance <= best && (nearest.empty() || distance < best)) {
      best = distance;
      nearest = candidate;
    }
  }
  return nearest.empty() ? "" : "; did you mean \"" + nearest + "\"?";
}

}  // namespace scfa
