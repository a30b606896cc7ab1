// The text of one line of JSON lines.
#pragma once
#include <string>
#include <string_view>

namespace scfa {

// Appends to `text` the value of the top-level field `field` of the JSON object in `line`: a string, or a list of
// strings joined by an empty line. The whole line is checked (RFC 8259), but for bytes that are not UTF-8, which are
// passed on; half a surrogate pair becomes U+FFFD; of a field that stands twice the last counts. Throws Error (without
// file or line, which the caller knows) saying what is wrong and in which column; for a missing field, which fields
// there are.
void extract_json_text(std::string_view line, std::string_view field, std::string& text);

}  // namespace scfa
