#include "kernels/document_starts.h"

#include <gtest/gtest.h>

#include <random>

#include "support/array.h"
#include "support/compare.h"
#include "support/gpu.h"

namespace scfa::test {
namespace {

constexpr int32_t kEnd = 9;

// Ids of which one in `every` ends a document.
Array draw_ids(int64_t B, int64_t T, unsigned every) {
  Array ids(DType::kI32, {B, T});
  std::mt19937 random(static_cast<unsigned>(B * T) + every);
  for (int64_t i = 0; i < B * T; ++i)
    ids.as<int32_t>()[i] = random() % every == 0 ? kEnd : static_cast<int32_t>(random() % 8);
  return ids;
}

// By definition: one behind the last end before a token.
std::vector<double> formula(const Array& ids) {
  std::vector<double> starts;
  const int64_t B = ids.view().size(0), T = ids.view().size(1);
  for (int64_t b = 0; b < B; ++b)
    for (int64_t t = 0; t < T; ++t) {
      int64_t s = t - 1;
      while (s >= 0 && ids.as<int32_t>()[b * T + s] != kEnd) --s;
      starts.push_back(static_cast<double>(s + 1));
    }
  return starts;
}

TEST(DocumentStarts, EqualsTheFormula) {
  Context ctx;
  for (const int64_t T : {1, 2, 77, 1025})
    for (const unsigned every : {1u, 3u, 100u, 1u << 30}) {
      const Array ids = draw_ids(3, T, every), starts(DType::kI32, {3, T});
      document_starts(ctx, starts, ids, kEnd);
      EXPECT_EQ(starts.values(), formula(ids)) << T << ", " << every;
    }
}

TEST(DocumentStarts, TheTokenThatEndsADocumentBelongsToIt) {
  Context ctx;
  Array ids(DType::kI32, {1, 6});
  ids.assign({1, kEnd, 2, kEnd, kEnd, 3});
  const Array starts(DType::kI32, {1, 6});
  document_starts(ctx, starts, ids, kEnd);
  EXPECT_EQ(starts.values(), (std::vector<double>{0, 0, 2, 2, 4, 5}));
}

TEST(DocumentStarts, WrongShapesAreNamed) {
  Context ctx;
  const Array ids(DType::kI32, {2, 4}), shorter(DType::kI32, {2, 3}), floats({2, 4});
  EXPECT_TRUE(fails_naming([&] { document_starts(ctx, shorter, ids, kEnd); }, {"document_starts: starts ", "2, 4"}));
  EXPECT_TRUE(fails_naming([&] { document_starts(ctx, ids, floats, kEnd); }, {"document_starts: ids ", "f32"}));
  EXPECT_TRUE(fails_naming([&] { document_starts(ctx, ids, {}, kEnd); }, {"document_starts: ids ", "empty"}));
}

class DocumentStartsGpu : public GpuTest {};

TEST_F(DocumentStartsGpu, EqualsTheFormula) {
  Context ctx(Device::kGpu);
  for (const int64_t T : {1, 31, 32, 33, 1023, 1024, 1025, 5000})
    for (const unsigned every : {1u, 3u, 100u, 2000u, 1u << 30}) {
      const Array ids = draw_ids(3, T, every), starts(DType::kI32, {3, T});
      const GpuCopy ids_gpu(ctx, ids), starts_gpu(ctx, starts);
      document_starts(ctx, starts_gpu, ids_gpu, kEnd);
      starts_gpu.download(starts);
      EXPECT_EQ(starts.values(), formula(ids)) << T << ", " << every;
    }
}

}  // namespace
}  // namespace scfa::test
