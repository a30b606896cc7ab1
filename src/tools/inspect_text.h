// What inspect found as a person reads it, on lines of at most 80 characters but for long names and texts.
#pragma once
#include <string>

#include "data/json_file.h"

namespace scfa {

struct InspectText {
  bool config = false, tensors = false;  // also print these
};

// found: what inspect() (train/inspect.h) returned. Without its "problems".
std::string describe_inspected(const Json& found, const InspectText& also);

}  // namespace scfa
