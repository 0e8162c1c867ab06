#include <algorithm>
#include <csignal>

#include <ATen/ATen.h>

#include "lace/device.h"
#include "lace/distributed.h"
#include "lace/error.h"

#include "distributed/backends.h"
#include "ops/device_stream.h"

namespace lace {
namespace {

// A process on its own.
class Alone : public Group {
 public:
  explicit Alone(at::Device device) : Group(0, 1, device) {}
  void all_reduce_sum(const at::Tensor& tensor) override {
    distributed::check_tensor(*this, tensor);
  }
  void broadcast(const at::Tensor& tensor, int /*root*/) override {
    distributed::check_tensor(*this, tensor);
  }
  void check() const override {}
  void fail(const std::string& /*reason*/) override {}
};

// So that a write to a rank that has died is an error, and not the end of this one too.
void ignore_broken_pipes() {
  struct sigaction action {};
  sigaction(SIGPIPE, nullptr, &action);
  if (action.sa_handler == SIG_DFL) std::signal(SIGPIPE, SIG_IGN);
}

// `text`'s bytes, made `bytes` long.
at::Tensor byte_tensor(const std::string& text, int64_t bytes) {
  at::Tensor tensor = at::zeros({bytes}, at::kByte);
  std::copy_n(text.begin(), std::min(text.size(), static_cast<size_t>(bytes)),
              tensor.data_ptr<uint8_t>());
  return tensor;
}

}  // namespace

void Group::all_gather(const at::Tensor& tensor, int64_t share) {
  distributed::check_shares(*this, tensor, share);
  for (int root = 0; root < size_; ++root) {
    const int64_t begin = root * share;
    const int64_t end = root + 1 < size_ ? begin + share : tensor.numel();
    if (begin < end) broadcast(tensor.narrow(0, begin, end - begin), root);
  }
}

void Group::barrier() {
  const at::Tensor one = at::ones({1}, at::TensorOptions(device_).dtype(at::kLong));
  all_reduce_sum(one);
  const auto ranks = one.item<int64_t>();
  check();
  LACE_CHECK(ranks == size_, "[distributed] ", ranks, " of ", size_, " ranks are at a barrier");
}

void Group::check_same(const std::string& what, const std::string& text) {
  const auto bytes = static_cast<int64_t>(text.size());
  const at::Tensor length = at::full({1}, bytes, at::kLong).to(device_);
  broadcast(length);
  const auto first_bytes = length.item<int64_t>();
  check();
  const at::Tensor own = byte_tensor(text, first_bytes), first = own.clone().to(device_);
  if (first_bytes > 0) broadcast(first);
  const bool differs = bytes != first_bytes || !at::equal(first.cpu(), own);
  check();
  at::Tensor ranks = at::zeros({size_}, at::kLong);
  ranks[rank_] = differs ? 1 : 0;
  ranks = ranks.to(device_);
  all_reduce_sum(ranks);
  ranks = ranks.cpu();
  check();
  const int64_t* begin = ranks.data_ptr<int64_t>();
  const auto other = static_cast<int>(std::find(begin, begin + size_, 1) - begin);
  LACE_CHECK(other == size_, "[distributed] the ", what, " of ",
             distributed::rank_name(other, size_), " is not that of rank 0");
}

std::unique_ptr<Group> join_group(const Environment& environment, at::Device device,
                                  const GroupOptions& options) {
  if (environment.size == 1) return std::make_unique<Alone>(device);
  ignore_broken_pipes();
  const auto store = distributed::rendezvous(environment, options.rendezvous);
  if (device.is_cpu()) return distributed::gloo_group(store, environment, options);
  return distributed::nccl_group(store, environment, device, options);
}

at::Device find_rank_device(const std::string& text, const Environment& environment) {
  const at::Device named = find_device(text);
  if (environment.size == 1 || named.is_cpu()) return named;
  LACE_CHECK(text == "cuda", "[distributed] each of ", environment.size,
             " ranks has a GPU of its own: name cuda, got ", text);
  if (ops::gpus().size() == 1) return named;
  return find_device(concat("cuda:", environment.local_rank));
}

void distributed::check_tensor(const Group& group, const at::Tensor& tensor) {
  LACE_CHECK(tensor.device() == group.device() && tensor.is_contiguous(),
             "[distributed] ranks exchange contiguous tensors on ", group.device(), ", got one on ",
             tensor.device(), tensor.is_contiguous() ? "" : " that is not contiguous");
  const auto dtype = tensor.scalar_type();
  LACE_CHECK(
      dtype == at::kFloat || dtype == at::kDouble || dtype == at::kLong || dtype == at::kByte,
      "[distributed] ranks exchange float32, float64, int64 and uint8, got ", dtype);
}

void distributed::check_shares(const Group& group, const at::Tensor& tensor, int64_t share) {
  check_tensor(group, tensor);
  LACE_CHECK(tensor.dim() == 1, "[distributed] what is gathered has one dimension, got ",
             tensor.dim());
  LACE_CHECK(share >= 0 && share <= tensor.numel() / group.size(), "[distributed] ", group.size(),
             " shares are at least 0 and at most the tensor's ", tensor.numel(),
             " elements, got shares of ", share);
}

}  // namespace lace
