// From text to a prepared set: a thread that reads and decompresses, any number that encode, and the calling thread,
// which writes their results in order. The set does not depend on the number of threads.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/inputs.h"
#include "data/set_writer.h"

namespace scfa {

inline constexpr int kMaxAskedThreads = 1024;

struct PrepareOptions {
  InputOptions input;
  SetOptions set;
  std::string tokenizer = "gpt2";
  int threads = 0;            // that encode; 0: one per core, at most 64
  std::string export_format;  // nanogpt or llmc: also written, into a folder of that name within the set; empty: no
};

struct PrepareProgress {
  int64_t read_bytes = 0;   // of the files as they lie on disk
  int64_t total_bytes = 0;  // 0 if not known
  int64_t text_bytes = 0;   // encoded and written
  int64_t tokens = 0;
  int64_t documents = 0;
};

struct PrepareResult {
  Manifest manifest;
  int64_t skipped_files = 0;           // of folders and archives, for their extension
  int64_t skipped_links = 0;           // likewise, because they are links
  std::vector<std::string> left_over;  // paths of files that came into a replaced set in the last moment; they stay
};

// Throws Error if anything is wrong, Interrupted (core/signals.h) once *stop is set; nothing is left behind then.
// `progress` is called often.
PrepareResult prepare(const PrepareOptions& options, const std::function<void(const PrepareProgress&)>& progress = {},
                      const std::atomic<bool>* stop = nullptr);

// Whether document `index` of the input is held out for validation: a fixed function, true for about `fraction` of all.
bool is_held_out(uint64_t seed, int64_t index, double fraction);

}  // namespace scfa
