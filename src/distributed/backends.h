#pragma once

#include <memory>

#include "lace/distributed.h"

#include "distributed/rendezvous.h"

namespace lace::distributed {

// Groups of tensors on a CPU and on a GPU, over a store at which all ranks are (rendezvous()).
std::unique_ptr<Group> gloo_group(const c10::intrusive_ptr<c10d::Store>& store,
                                  const Environment& environment, const GroupOptions& options);
std::unique_ptr<Group> nccl_group(const c10::intrusive_ptr<c10d::Store>& store,
                                  const Environment& environment, at::Device device,
                                  const GroupOptions& options);

// Throws lace::Error unless `tensor` is one that `group` exchanges.
void check_tensor(const Group& group, const at::Tensor& tensor);

// Throws lace::Error unless `tensor` can be gathered of shares of `share` elements.
void check_shares(const Group& group, const at::Tensor& tensor, int64_t share);

}  // namespace lace::distributed
