// The names of the files of a prepared set. Only these are ever removed from its folder.
#pragma once
#include <string>

#include "data/manifest.h"
#include "data/output_file.h"

namespace scfa {

// The name of a shard: train-00000.bin.
std::string shard_name(Split split, size_t index);

// The name of a file of an export (data/export.h): train.bin, or train_000000.bin.
std::string nanogpt_name(Split split);
std::string llmc_name(Split split, int64_t index);

// Whether an entry of the folder in which a set is made is one of it: the manifest, shards, exports.
bool is_set_entry(const std::string& entry);

// Likewise of the folder in which an export is made.
bool is_export_entry(const std::string& entry);

// The entries of a set that is there: of shards only the ones that its manifest lists.
IsOurs entries_of(const Manifest& manifest);

}  // namespace scfa
