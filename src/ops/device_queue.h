#pragma once

#include <memory>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include "core/executor.h"

namespace lace::ops {

// The order in which a device does one thread's work, in which the host may run ahead: on a GPU a
// stream of its own, and others for copies to and from it. On a CPU, and in builds without CUDA,
// all work is done at once and none of this costs anything.
class DeviceQueue {
 public:
  static std::unique_ptr<DeviceQueue> make(c10::Device device);
  virtual ~DeviceQueue() = default;

  // While the result lives, what this thread asks of the device goes into this queue.
  virtual std::shared_ptr<void> enter() = 0;

  // Memory of the host that copies to and from the device need not wait for: uint8 [bytes].
  virtual at::Tensor host_bytes(int64_t bytes) = 0;

  // to ← from, which host_bytes made and which must stay as it is until a later mark is reached.
  // Beside the work in the queue; what enters the queue from now on waits for it.
  virtual void upload(const at::Tensor& to, const at::Tensor& from) = 0;

  // What `work` asks of the device is done beside the queue, once the device has come here in it,
  // and after other such work. What enters the queue after join() waits for it.
  virtual void beside(FunctionRef<void()> work) = 0;
  virtual void join() = 0;

  // to, which host_bytes made, ← from, as the work in the queue so far leaves it: beside what
  // enters the queue later, up to hold_for_downloads(). Both must stay where they are until then.
  virtual void download(const at::Tensor& to, const at::Tensor& from) = 0;
  // What enters the queue from now on waits for the downloads so far.
  virtual void hold_for_downloads() = 0;

  // A place in the queue, behind all that has entered it.
  class Mark {
   public:
    virtual ~Mark() = default;
    virtual void wait() = 0;  // until the device has come there
  };
  virtual std::unique_ptr<Mark> mark() = 0;
  // The end of the downloads so far. Any thread may wait for it.
  virtual std::unique_ptr<Mark> mark_downloads() = 0;

  // Work that is asked of the device again and again, without its being asked each time. All its
  // memory stays its own; what it reads and writes from outside must stay where it is.
  class Graph {
   public:
    virtual ~Graph() = default;
    virtual void replay() = 0;
  };
  // Records `work`, within enter(), without doing it; it may not wait for the device. All graphs of
  // a queue share memory: they run one after the other. Null where there is nothing to gain.
  virtual std::unique_ptr<Graph> record(FunctionRef<void()> work) = 0;
};

std::unique_ptr<DeviceQueue> make_cpu_queue();

// The peak of memory that this process has allocated on the device since the last call, in bytes; 0
// on a CPU.
int64_t take_peak_memory(c10::Device device);

}  // namespace lace::ops
