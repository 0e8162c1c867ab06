// The one file that sees NCCL.
#include <cstdlib>
#include <cstring>
#include <future>
#include <mutex>
#include <thread>

#include <nccl.h>

#include <ATen/ATen.h>

#include "lace/error.h"

#include "distributed/backends.h"
#include "distributed/watch.h"
#include "ops/device_stream.h"

namespace lace::distributed {
namespace {

constexpr std::chrono::seconds kFarewell{5};

// A communicator, which ends once: in peace or, from whichever thread, aborted with all that it is
// about. Both may wait for ranks that are gone, or for graphs that are alive, and so are done by a
// thread that may stay behind.
class Communicator {
 public:
  void set(ncclComm_t comm) {
    const std::lock_guard lock(mutex_);
    comm_ = comm;
  }

  void end(ncclResult_t (*how)(ncclComm_t)) {
    const std::lock_guard lock(mutex_);
    if (comm_ == nullptr || ended_.valid()) return;
    std::packaged_task<void()> task([comm = comm_, how] { how(comm); });
    ended_ = task.get_future().share();
    std::thread(std::move(task)).detach();
  }

  void wait_for_end() {
    std::shared_future<void> ended;
    {
      const std::lock_guard lock(mutex_);
      ended = ended_;
    }
    if (ended.valid()) ended.wait_for(kFarewell);
  }

 private:
  std::mutex mutex_;
  ncclComm_t comm_ = nullptr;
  std::shared_future<void> ended_;
};

ncclDataType_t nccl_type(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return ncclFloat32;
    case at::kDouble:
      return ncclFloat64;
    case at::kLong:
      return ncclInt64;
    default:
      return ncclUint8;  // check_tensor() lets no other through
  }
}

// Rank 0's id of the communicator, through the store.
ncclUniqueId exchange_id(c10d::Store& store, int rank) {
  constexpr const char* kKey = "nccl_id";
  ncclUniqueId id{};
  if (rank == 0) {
    LACE_CHECK(ncclGetUniqueId(&id) == ncclSuccess,
               "[distributed] NCCL: ", ncclGetLastError(nullptr));
    store.set(kKey, std::string(id.internal, sizeof id.internal));
  } else {
    const std::string bytes = store.get_to_str(kKey);
    std::memcpy(id.internal, bytes.data(), std::min(bytes.size(), sizeof id.internal));
  }
  return id;
}

// NCCL chooses among its algorithms by the number of ranks, their links, the type and the size
// alone, and each but two adds in an order that follows from these. The two that let switches add
// are kept off: NVLink's (NVLS), which has a variable only, and the network's (CollNet).
class NcclGroup : public Group {
 public:
  NcclGroup(const c10::intrusive_ptr<c10d::Store>& store, const Environment& environment,
            at::Device device, const GroupOptions& options)
      : Group(environment.rank, environment.size, device),
        communicator_(std::make_shared<Communicator>()),
        watch_(store, environment, options,
               [communicator = communicator_] { communicator->end(ncclCommAbort); }) {
    setenv("NCCL_NVLS_ENABLE", "0", /*replace=*/0);
    const c10::DeviceGuard guard(device);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.collnetEnable = 0;
    try {
      call(ncclCommInitRankConfig(&comm_, size(), exchange_id(*store, rank()), rank(), &config));
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {  // of the store
      watch_.explain(first_line(error));
    }
    communicator_->set(comm_);
    watch_.check();
  }

  ~NcclGroup() override {
    communicator_->end(watch_.failed() ? ncclCommAbort : ncclCommDestroy);
    communicator_->wait_for_end();
  }

  void all_reduce_sum(const at::Tensor& tensor) override {
    check_tensor(*this, tensor);
    watch_.check();
    const c10::DeviceGuard guard(device());
    call(ncclAllReduce(tensor.data_ptr(), tensor.data_ptr(), static_cast<size_t>(tensor.numel()),
                       nccl_type(tensor.scalar_type()), ncclSum, comm_, stream()));
  }

  void broadcast(const at::Tensor& tensor, int root) override {
    check_tensor(*this, tensor);
    watch_.check();
    const c10::DeviceGuard guard(device());
    call(ncclBroadcast(tensor.data_ptr(), tensor.data_ptr(), static_cast<size_t>(tensor.numel()),
                       nccl_type(tensor.scalar_type()), root, comm_, stream()));
  }

  void all_gather(const at::Tensor& tensor, int64_t share) override {
    check_shares(*this, tensor, share);
    watch_.check();
    const c10::DeviceGuard guard(device());
    const int64_t gathered = size() * share, rest = tensor.numel() - gathered;
    if (share > 0) {  // in place: each rank sends from where its share is to come
      call(ncclAllGather(tensor.narrow(0, rank() * share, share).data_ptr(), tensor.data_ptr(),
                         static_cast<size_t>(share), nccl_type(tensor.scalar_type()), comm_,
                         stream()));
    }
    if (rest > 0) broadcast(tensor.narrow(0, gathered, rest), size() - 1);
  }

  void check() const override { watch_.check(); }
  void fail(const std::string& reason) override { watch_.fail(reason); }

 private:
  cudaStream_t stream() const { return static_cast<cudaStream_t>(ops::current_stream(device())); }

  void call(ncclResult_t result) const {
    if (result == ncclSuccess) return;
    watch_.explain(concat("NCCL: ", ncclGetErrorString(result), ": ", ncclGetLastError(comm_)));
  }

  const std::shared_ptr<Communicator> communicator_;
  ncclComm_t comm_ = nullptr;
  Watch watch_;
};

}  // namespace

std::unique_ptr<Group> nccl_group(const c10::intrusive_ptr<c10d::Store>& store,
                                  const Environment& environment, at::Device device,
                                  const GroupOptions& options) {
  return std::make_unique<NcclGroup>(store, environment, device, options);
}

}  // namespace lace::distributed
