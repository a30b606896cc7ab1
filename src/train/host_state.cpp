#include "train/host_state.h"

namespace scfa {

template <class Visit>
void HostState::for_each_state(const Visit& visit) {
  visit(State::kMasterParams);
  if (!moments_) return;
  visit(State::kFirstMoment);
  visit(State::kSecondMoment);
}

HostState::HostState(ParameterStore& store, bool moments, bool here) : store_(store), moments_(moments), here_(here) {
  if (!here) return;
  for_each_state([&](State state) {
    const auto i = static_cast<size_t>(state);
    const Tensor staging = store.staging(state);
    views_[i] = staging;
    // The gradients' memory stands in for one state after the other.
    if (staging.device == Device::kCpu && staging.data != store.gradients().data) return;
    copies_[i] = Buffer(static_cast<size_t>(staging.bytes()), Device::kCpu);
    views_[i] = Tensor(copies_[i].data(), DType::kF32, Device::kCpu, {staging.numel()});
  });
  bucket_biases_ = store.bucket_biases();
  if (!bucket_biases_ || bucket_biases_.device == Device::kCpu) return;
  bucket_bias_copy_ = Buffer(static_cast<size_t>(bucket_biases_.bytes()), Device::kCpu);
  bucket_biases_ = Tensor(bucket_bias_copy_.data(), DType::kF32, Device::kCpu, {bucket_biases_.numel()});
}

void HostState::download(const WithTensor& all_gather) {
  for_each_state([&](State state) {
    const Tensor taken = store_.take(state);
    if (all_gather && taken.data == store_.gradients().data) all_gather(taken);
    if (here_ && view(state).data != taken.data) store_.context().copy(view(state), taken);
  });
  const Tensor biases = store_.bucket_biases();
  if (here_ && bucket_biases_.data != biases.data) store_.context().copy(bucket_biases_, biases);
}

void HostState::upload(const WithTensor& broadcast) {
  for_each_state([&](State state) {
    const Tensor staging = store_.staging(state);
    if (here_ && view(state).data != staging.data) store_.context().copy(staging, view(state));
    if (broadcast) broadcast(staging);
    store_.put(state);
  });
  if (const Tensor biases = store_.bucket_biases(); biases) {
    if (here_ && bucket_biases_.data != biases.data) store_.context().copy(biases, bucket_biases_);
    if (broadcast) broadcast(biases);
  }
  store_.context().synchronize();  // the host's copies go away
}

}  // namespace scfa
