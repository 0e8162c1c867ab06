#include "lace/error.h"

#include "distributed/backends.h"

// A build without CUDA.
namespace lace::distributed {

std::unique_ptr<Group> nccl_group(const c10::intrusive_ptr<c10d::Store>& /*store*/,
                                  const Environment& /*environment*/, at::Device device,
                                  const GroupOptions& /*options*/) {
  throw Error(concat("[distributed] ", device,
                     " needs a build with CUDA (cmake --preset cuda), this one has none"));
}

}  // namespace lace::distributed
