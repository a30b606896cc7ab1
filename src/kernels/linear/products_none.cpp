// Stands in for products.cpp in a build without CUDA.
#include "kernels/linear/products.h"

namespace scfa::gpu {

namespace {

[[noreturn]] void fail_without_cuda() {
  fail("this build has no CUDA");
}

}  // namespace

void run_product(Context& /*ctx*/, const Product& /*product*/, const ProductOperands& /*operands*/,
                 const char* /*op*/) {
  fail_without_cuda();
}
std::string product_library() {
  fail_without_cuda();
}
void measure_products(Context& /*ctx*/, bool /*on*/) {
  fail_without_cuda();
}
void set_product_choices(Context& /*ctx*/, std::vector<ProductChoice> /*choices*/) {
  fail_without_cuda();
}
void clear_product_choices(Context& /*ctx*/) {
  fail_without_cuda();
}
std::vector<ProductChoice> product_choices(Context& /*ctx*/) {
  fail_without_cuda();
}
std::vector<ProductChoice> used_product_choices(Context& /*ctx*/) {
  fail_without_cuda();
}

}  // namespace scfa::gpu
