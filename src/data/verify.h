// A full check of a prepared set.
#pragma once
#include <string>

#include "data/manifest.h"

namespace scfa {

// Reads every shard and compares its header, size, checksum, tokens, documents and bytes of text with the manifest.
// Throws Error naming the first thing that is wrong. Returns the manifest.
Manifest verify_set(const std::string& directory);

}  // namespace scfa
