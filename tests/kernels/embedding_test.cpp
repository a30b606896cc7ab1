#include "kernels/embedding.h"

#include <gtest/gtest.h>

#include "support/compare.h"

namespace scfa::test {
namespace {

Array token_ids(int64_t B, int64_t T, int64_t V) {
  Array ids(DType::kI32, {B, T});
  for (int64_t i = 0; i < B * T; ++i) ids.as<int32_t>()[i] = static_cast<int32_t>(i * i * 7 % V);  // with repetitions
  ids.as<int32_t>()[B * T - 1] = static_cast<int32_t>(V - 1);
  return ids;
}

TEST(Embedding, ForwardAddsTokenAndPosition) {
  Context ctx;
  for (const int64_t C : {1, 65, 1000})
    for (const int64_t first : {-1, 0, 3}) {  // -1: no learned positions
      const int64_t B = 3, T = 5, V = 7;
      const Array ids = token_ids(B, T, V), wte = normal({V, C}, 1), wpe = normal({T + 3, C}, 2);
      Array x({B, T, C});
      embedding_forward(ctx, x, ids, wte, first < 0 ? ConstTensor() : ConstTensor(wpe), std::max<int64_t>(first, 0));
      for (int64_t i = 0; i < B * T; ++i)
        for (int64_t c = 0; c < C; ++c) {
          const float position = first < 0 ? 0.0f : wpe.as<float>()[(first + i % T) * C + c];
          ASSERT_EQ(x.as<float>()[i * C + c], wte.as<float>()[ids.as<int32_t>()[i] * C + c] + position);
        }
    }
}

TEST(Embedding, BackwardAddsEveryUse) {
  Context ctx;
  for (const int64_t C : {1, 65, 130})
    for (const bool positions : {false, true}) {
      const int64_t B = 3, T = 50, V = 7, S = 60;
      const Array ids = token_ids(B, T, V), dx = normal({B, T, C}, 3);
      Array dwte = normal({V, C}, 4), dwpe = normal({S, C}, 5);
      std::vector<double> tokens = dwte.values(), places = dwpe.values();
      for (int64_t i = 0; i < B * T; ++i)
        for (int64_t c = 0; c < C; ++c) {
          const double g = dx.as<float>()[i * C + c];
          tokens[static_cast<size_t>(ids.as<int32_t>()[i] * C + c)] += g;
          if (positions) places[static_cast<size_t>(i % T * C + c)] += g;
        }
      embedding_backward(ctx, dwte, positions ? dwpe.view() : Tensor(), dx, ids, {});
      EXPECT_TRUE(close(dwte, tokens, 1e-6));
      EXPECT_TRUE(close(dwpe, places, 1e-6));  // rows past T, and all without positions, stay as they were
      Array again = normal({V, C}, 4);
      const Threads one(1);
      embedding_backward(ctx, again, {}, dx, ids, {});
      EXPECT_TRUE(again.same_bits(dwte));
    }
}

// Looking up is linear, so backward is the derivative if <dx, forward(w)> = <backward(dx), w> for any w.
TEST(Embedding, BackwardIsTheTransposeOfForward) {
  Context ctx;
  const int64_t B = 2, T = 65, V = 11, C = 33;
  const Array ids = token_ids(B, T, V), wte = normal({V, C}, 1), wpe = normal({T, C}, 2), dx = normal({B, T, C}, 3);
  Array x({B, T, C}), dwte({V, C}), dwpe({T, C});
  dwte.fill(0);
  dwpe.fill(0);
  embedding_forward(ctx, x, ids, wte, wpe, 0);
  embedding_backward(ctx, dwte, dwpe, dx, ids, {});
  const double forward = dot(dx.values(), x.values());
  EXPECT_NEAR(forward, dot(dwte.values(), wte.values()) + dot(dwpe.values(), wpe.values()), 1e-4);
  EXPECT_GT(std::abs(forward), 1.0);
}

TEST(Embedding, WrongIdsAndShapesAreNamed) {
  Context ctx;
  const int64_t B = 2, T = 3, V = 4, C = 5;
  Array ids(DType::kI32, {B, T}), x({B, T, C}), wte({V, C}), wpe({T, C});
  const auto forward = [&](int64_t first) { return [&, first] { embedding_forward(ctx, x, ids, wte, wpe, first); }; };
  for (const int32_t id : {-1, 4, 1 << 30}) {
    ids.fill(0);
    ids.as<int32_t>()[5] = id;
    EXPECT_TRUE(fails_naming(forward(0), {"embedding_forward", std::to_string(id).c_str(), "vocabulary of 4"}));
  }
  EXPECT_TRUE(x.poisoned());  // checked before anything is written
  ids.fill(0);
  EXPECT_NO_THROW(forward(0)());
  EXPECT_TRUE(fails_naming(forward(1), {"embedding_forward", "positions up to 4", "3 learned"}));
  EXPECT_TRUE(fails_naming(forward(-1), {"embedding_forward", "positions"}));
  EXPECT_TRUE(fails_naming([&] { embedding_forward(ctx, wte, ids, wte, wpe, 0); }, {"embedding_forward: x "}));
  EXPECT_TRUE(fails_naming(
      [&] {
        embedding_forward(ctx, x, ids, wte, wte.view().reshape({C, V}), 0);
      },
      {"embedding_forward: wpe "}));
  EXPECT_TRUE(fails_naming([&] { embedding_forward(ctx, x, wte, wte, {}, 0); }, {"embedding_forward: ids "}));
  EXPECT_TRUE(fails_naming([&] { embedding_forward(ctx, x, {}, wte, {}, 0); }, {"embedding_forward: ids "}));
  EXPECT_TRUE(fails_naming([&] { embedding_backward(ctx, wte, {}, wte, ids, {}); }, {"embedding_backward: dx "}));
  EXPECT_TRUE(fails_naming([&] { embedding_backward(ctx, wte, {}, x, {}, {}); }, {"embedding_backward: ids "}));
  EXPECT_TRUE(fails_naming([&] { embedding_backward(ctx, wte, wpe.view().slice(0, 2), x, ids, {}); },
                           {"embedding_backward: dwpe "}));
}

}  // namespace
}  // namespace scfa::test
