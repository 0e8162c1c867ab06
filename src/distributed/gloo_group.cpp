#include <condition_variable>
#include <cstdlib>
#include <mutex>

#include <ATen/ATen.h>

#define USE_C10D_GLOO
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include "lace/error.h"

#include "distributed/backends.h"
#include "distributed/watch.h"

namespace lace::distributed {
namespace {

using c10d::ProcessGroupGloo;

constexpr std::chrono::seconds kConnect{25};      // to all other ranks, who are there already
constexpr std::chrono::hours kNoLimit{24 * 365};  // of a collective: the watch ends what hangs

// Which of this host's addresses others connect to: that of the interface named by libtorch's
// variable; the loopback if the store is there too; else what the host's name stands for.
std::shared_ptr<gloo::transport::Device> find_device(const Environment& environment) {
  if (const char* interface = std::getenv("GLOO_SOCKET_IFNAME"))
    return ProcessGroupGloo::createDeviceForInterface(interface);
  for (const char* loopback : {"localhost", "127.0.0.1", "::1"}) {
    if (environment.address == loopback)
      return ProcessGroupGloo::createDeviceForHostname("127.0.0.1");
  }
  return ProcessGroupGloo::createDefaultDevice();
}

// Gloo's all-reduce is a ring: each part of the tensor is summed in one fixed order of the ranks on
// its way to the rank that hands the sum to all others.
class GlooGroup : public Group {
 public:
  GlooGroup(const c10::intrusive_ptr<c10d::Store>& store, const Environment& environment,
            const GroupOptions& options)
      : Group(environment.rank, environment.size, at::kCPU), watch_(store, environment, options) {
    auto gloo = ProcessGroupGloo::Options::create(kConnect);
    gloo->threads = 1;
    try {
      gloo->devices = {find_device(environment)};
      gloo_ = c10::make_intrusive<ProcessGroupGloo>(store, rank(), size(), gloo);
    } catch (const std::exception& error) {
      watch_.explain(first_line(error));
    }
  }

  ~GlooGroup() override {
    // A collective that waits for a rank that has died cannot be ended, and its thread not joined:
    // both are left to the end of the process, which an error is about to bring.
    if (watch_.failed()) gloo_.release();
  }

  void all_reduce_sum(const at::Tensor& tensor) override {
    check_tensor(*this, tensor);
    if (tensor.numel() == 0) return;
    c10d::AllreduceOptions options;
    options.timeout = kNoLimit;
    finish([&] {
      std::vector<at::Tensor> tensors = {tensor};
      return gloo_->allreduce(tensors, options);
    });
  }

  void broadcast(const at::Tensor& tensor, int root) override {
    check_tensor(*this, tensor);
    if (tensor.numel() == 0) return;
    c10d::BroadcastOptions options;
    options.rootRank = root;
    options.timeout = kNoLimit;
    finish([&] {
      std::vector<at::Tensor> tensors = {tensor};
      return gloo_->broadcast(tensors, options);
    });
  }

  void check() const override { watch_.check(); }
  void fail(const std::string& reason) override { watch_.fail(reason); }

 private:
  // Starts a collective and waits until it is done or a rank has failed.
  template <typename Start>
  void finish(const Start& start) {
    constexpr std::chrono::milliseconds kLook{100};
    struct Done {
      std::mutex mutex;
      std::condition_variable changed;
      bool done = false;
    };
    watch_.check();
    try {
      const auto work = start();
      const auto done = std::make_shared<Done>();
      work->getFuture()->addCallback([done](c10::ivalue::Future&) {
        const std::lock_guard lock(done->mutex);
        done->done = true;
        done->changed.notify_all();
      });
      for (std::unique_lock lock(done->mutex); !done->done;) {
        if (!done->changed.wait_for(lock, kLook, [&] { return done->done; })) watch_.check();
      }
      work->wait();
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      watch_.explain(first_line(error));
    }
  }

  Watch watch_;
  c10::intrusive_ptr<ProcessGroupGloo> gloo_;
};

}  // namespace

std::unique_ptr<Group> gloo_group(const c10::intrusive_ptr<c10d::Store>& store,
                                  const Environment& environment, const GroupOptions& options) {
  return std::make_unique<GlooGroup>(store, environment, options);
}

}  // namespace lace::distributed
