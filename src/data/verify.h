// A full check of a prepared set.
#pragma once
#include <cstdint>
#include <functional>
#include <string>

#include "data/token_file.h"

namespace scfa {

// Reads every shard and compares its header, size, checksum, tokens, documents and bytes of text with the manifest.
// Throws Error naming the first thing that is wrong. Returns the manifest.
Manifest verify_set(const std::string& directory);

// Compares the checksums of all shards of a split with its manifest, as they were opened, at the speed of the disk or
// of memory. progress(bytes done, bytes in all), which may be empty, is called often. Returns the bytes read. Throws
// Error naming the shard that is not as it was written, Interrupted once a signal asked to stop.
int64_t verify_shards(const TokenSet& set, const std::function<void(int64_t, int64_t)>& progress = {});

}  // namespace scfa
