#include "data/prepare.h"

#include <xxhash.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <future>
#include <optional>
#include <system_error>
#include <thread>

#include "core/error.h"
#include "data/export.h"
#include "data/work_queue.h"

namespace scfa {

namespace {

constexpr size_t kInFlightBytes = size_t{64} << 20;
constexpr const char* kInterrupted = "interrupted; nothing was written";
constexpr int kMaxThreads = 64;  // more than one reading thread can feed

int thread_count(int asked) {
  require(asked >= 0 && asked <= kMaxAskedThreads, "--threads must be from 0 (one per core) to ", kMaxAskedThreads,
          ", not ", asked);
  return asked > 0 ? asked : std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, kMaxThreads);
}

// Gives each document to its split and closes it with end-of-text.
class DocumentWriter {
 public:
  DocumentWriter(SetWriter& set, const SetOptions& options, uint32_t end_of_text)
      : set_(set),
        seed_(options.seed),
        fraction_(options.val_fraction.value_or(kDefaultValFraction)),
        end_of_text_(end_of_text) {}

  void write(const EncodedPiece& piece) {
    if (!piece.continues) end_document();
    std::span<const uint32_t> rest = piece.tokens;
    for (const Segment& segment : piece.segments) {
      if (segment.tokens > 0) {
        if (!open_) begin_document();
        current().append(rest.first(static_cast<size_t>(segment.tokens)), segment.bytes);
        rest = rest.subspan(static_cast<size_t>(segment.tokens));
      }
      if (segment.end == Segment::End::kText) end_document();
      if (segment.end == Segment::End::kIncluded) open_ = false;
    }
  }

  int64_t documents() const { return documents_; }

 private:
  SplitWriter& current() { return set_.split(split_); }
  void begin_document() {
    split_ = is_held_out(seed_, documents_++, fraction_) ? Split::kVal : Split::kTrain;
    open_ = true;
  }
  void end_document() {
    if (open_) current().append({&end_of_text_, 1}, 0);
    open_ = false;
  }

  SetWriter& set_;
  uint64_t seed_;
  double fraction_;
  uint32_t end_of_text_;
  Split split_ = Split::kTrain;
  bool open_ = false;
  int64_t documents_ = 0;
};

// The threads before the writer. Results come in the order of the input; so does the first error.
class EncodePipeline {
 public:
  EncodePipeline(InputReader& reader, ReadControl& control, const PrepareOptions& options)
      : control_(control), budget_(kInFlightBytes) {
    const int encoders = thread_count(options.threads);
    try {
      for (int i = 0; i < encoders; ++i) threads_.emplace_back([&] { encode(options); });
      threads_.emplace_back([&] { read(reader, control, options.tokenizer); });
    } catch (const std::system_error& error) {
      const size_t started = threads_.size();
      end();
      fail("only ", started, " of ", encoders + 1, " threads could be started: ", error.code().message(),
           "; --threads N asks for fewer");
    }
  }

  ~EncodePipeline() { end(); }

  // Calls `write` with each encoded piece.
  template <class Write>
  void drain(const Write& write) {
    while (std::optional<Pending> pending = order_.pop()) {
      while (pending->result.wait_for(std::chrono::milliseconds(50)) != std::future_status::ready)
        control_.check_stop(kInterrupted);
      control_.check_stop(kInterrupted);
      write(pending->result.get());
      budget_.release(pending->charge);
    }
    if (read_error_) std::rethrow_exception(read_error_);
  }

 private:
  struct Job {
    Piece piece;
    std::promise<EncodedPiece> result;
  };
  struct Pending {
    std::future<EncodedPiece> result;
    size_t charge;
  };

  void end() {
    cancelled_ = true;
    budget_.cancel();
    work_.close();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

  void read(InputReader& reader, ReadControl& control, const std::string& tokenizer_name) {
    try {
      const auto tokenizer = make_tokenizer(tokenizer_name);
      reader.read(control, *tokenizer, [this](Piece piece) {
        const size_t charge = piece.data.capacity() + 4096;
        require(budget_.acquire(charge), "cancelled");
        Job job{std::move(piece), {}};
        order_.push({job.result.get_future(), charge});
        work_.push(std::move(job));
      });
    } catch (...) {
      read_error_ = std::current_exception();  // of what follows all pieces so far
    }
    order_.close();
    work_.close();
  }

  void encode(const PrepareOptions& options) {
    std::optional<PieceEncoder> encoder;  // made where errors are caught
    while (std::optional<Job> job = work_.pop()) {
      if (cancelled_) continue;
      try {
        if (!encoder) encoder.emplace(options.tokenizer, options.input.field, options.input.separator);
        job->result.set_value(encoder->encode(job->piece));
      } catch (...) {
        job->result.set_exception(std::current_exception());
      }
    }
  }

  const ReadControl& control_;
  std::atomic<bool> cancelled_{false};
  ByteBudget budget_;
  WorkQueue<Job> work_;
  WorkQueue<Pending> order_;
  std::exception_ptr read_error_;  // set before order_ is closed
  std::vector<std::thread> threads_;
};

}  // namespace

bool is_held_out(uint64_t seed, int64_t index, double fraction) {
  const uint64_t hash = XXH3_64bits_withSeed(&index, sizeof(index), seed);
  return static_cast<double>(hash >> 11) * 0x1p-53 < fraction;
}

PrepareResult prepare(const PrepareOptions& options, const std::function<void(const PrepareProgress&)>& progress,
                      const std::atomic<bool>* stop) {
  thread_count(options.threads);  // refused before anything is touched
  const auto tokenizer = make_tokenizer(options.tokenizer);
  if (!options.export_format.empty()) parse_export_format(options.export_format);
  InputReader reader(options.input);
  SetWriter set(options.set, *tokenizer);
  DocumentWriter documents(set, options.set, tokenizer->end_of_text());
  ReadControl control;
  control.stop = stop;
  PrepareProgress state;
  state.total_bytes = reader.total_bytes();
  {
    EncodePipeline pipeline(reader, control, options);
    pipeline.drain([&](const EncodedPiece& piece) {
      documents.write(piece);
      for (const Segment& segment : piece.segments) state.text_bytes += segment.bytes;
      state.tokens += static_cast<int64_t>(piece.tokens.size());
      state.read_bytes = control.bytes;
      state.documents = documents.documents();
      if (progress) progress(state);
    });
  }
  PrepareResult result{set.finish(), reader.skipped(), reader.skipped_links(), {}};
  if (!options.export_format.empty()) {
    const std::string folder = set.folder() + "/" + options.export_format;
    std::filesystem::create_directory(folder);
    write_export(set.folder(), parse_export_format(options.export_format), folder);
  }
  control.check_stop(kInterrupted);
  result.left_over = set.commit();
  return result;
}

}  // namespace scfa
