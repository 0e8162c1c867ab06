#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include <ATen/core/Tensor.h>

#include "lace/environment.h"

namespace lace {

// The processes that train together, as one of them, a rank, sees them. All ranks call the
// collectives below in the same order, with tensors of the same shape and dtype, from one thread.
//
// While the group lives each rank counts heartbeats in the store that the ranks met at. A rank that
// counts no longer, or that has called fail(), ends the others: collectives that wait, also on a
// GPU, and check() throw lace::Error `[distributed] rank 3 of 4 …` within 20 heartbeats.
class Group {
 public:
  virtual ~Group() = default;
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  at::Device device() const { return device_; }  // of the tensors below

  // tensor = the sum of all ranks' tensors: float32, float64, int64 or uint8, contiguous. All ranks
  // get the same bits, and get them again in every run of as many ranks over the same links.
  // On a CPU returns when it is done. On a GPU enqueues on libtorch's current stream, which may be
  // captured into a CUDA graph; once that was waited for, check() says whether it was done.
  virtual void all_reduce_sum(const at::Tensor& tensor) = 0;

  // tensor = rank `root`'s. Otherwise as all_reduce_sum.
  virtual void broadcast(const at::Tensor& tensor, int root = 0) = 0;

  // Elements [r · share, (r + 1) · share) of `tensor`, which has one dimension, = rank r's, for
  // each rank r; what is left behind them = the last rank's. 0 ≤ size() · share ≤ elements, else
  // throws lace::Error. Otherwise as all_reduce_sum.
  virtual void all_gather(const at::Tensor& tensor, int64_t share);

  // Returns once all ranks have called it.
  void barrier();

  // Throws lace::Error on all ranks, naming the first that differs, unless `text` is rank 0's
  // everywhere: `[distributed] the recipe of rank 2 of 4 is not that of rank 0`.
  void check_same(const std::string& what, const std::string& text);

  // Throws lace::Error if a rank has failed. Does not wait.
  virtual void check() const = 0;

  // Tells the others that this rank ends with an error, and which.
  virtual void fail(const std::string& reason) = 0;

 protected:
  Group(int rank, int size, at::Device device) : rank_(rank), size_(size), device_(device) {}

 private:
  const int rank_, size_;
  const at::Device device_;
};

struct GroupOptions {
  std::chrono::milliseconds rendezvous{300'000};  // in which all ranks have to come
  std::chrono::milliseconds heartbeat{1'000};     // a rank that misses 15 has died
  // Called once, from another thread, if this rank goes on for 8 heartbeats after it could have
  // known of a failure: it computes, or waits for something else. To end the process in time.
  std::function<void(const std::string& failure)> on_stuck = {};
};

// Meets the other ranks of `environment`; of a single process returns at once and opens no port.
// Tensors on a CPU are exchanged through Gloo, those on a GPU through NCCL, which keeps off NVLink
// multicast (its sums differ from call to call) unless NCCL_NVLS_ENABLE is set. CUDA graphs that
// hold collectives are destroyed before the group is. SIGPIPE is ignored from then on, unless the
// program handles it.
// Throws lace::Error `[distributed] …` if a rank does not come in time (naming it), is there twice,
// or has been told of another number of ranks, or if the store's port is taken.
std::unique_ptr<Group> join_group(const Environment& environment, at::Device device,
                                  const GroupOptions& options = {});

// The device that `text` (find_device) names for this rank: with several ranks "cuda" is the GPU of
// its local rank, or the only one that its launcher shows it.
// Throws lace::Error as find_device, and for one GPU by number, which not all ranks can have.
at::Device find_rank_device(const std::string& text, const Environment& environment);

}  // namespace lace
