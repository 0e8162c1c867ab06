#include "kernels/cuda/device_plan.h"

#include <cstring>

#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/mask_bits.h"

namespace lace::cuda {
namespace {

constexpr size_t kAlignment = 16;

// Lets this thread allocate and free while another thread captures a graph.
class RelaxedCapture {
 public:
  RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

bool is_capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  LACE_CUDA(cudaStreamIsCapturing(stream, &status));
  return status != cudaStreamCaptureStatusNone;
}

void check_not_capturing(cudaStream_t stream) {
  LACE_CHECK(
      !is_capturing(stream),
      "[attention] a CUDA graph is being captured, and what this call needs on the GPU is not "
      "there yet: run the same call, of the same shapes, once before the capture");
}

// What graphs let go: CUDA forbids its own calls where it tells so.
std::mutex released_mutex;
std::vector<std::shared_ptr<const UploadedPlan>> released;

void free_released() {
  std::vector<std::shared_ptr<const UploadedPlan>> plans;
  std::lock_guard lock(released_mutex);
  plans.swap(released);
}

// Keeps `plan` as long as the graph that `stream` is being captured into.
void keep_with_graph(const std::shared_ptr<const UploadedPlan>& plan, cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  cudaGraph_t graph = nullptr;
  LACE_CUDA(cudaStreamGetCaptureInfo(stream, &status, nullptr, &graph, nullptr, nullptr, nullptr));
  using Kept = std::shared_ptr<const UploadedPlan>;
  auto kept = std::make_unique<Kept>(plan);
  cudaUserObject_t object = nullptr;
  const auto release = [](void* pointer) {
    const std::unique_ptr<Kept> last(static_cast<Kept*>(pointer));
    std::lock_guard lock(released_mutex);
    released.push_back(std::move(*last));
  };
  LACE_CUDA(cudaUserObjectCreate(&object, kept.get(), release, 1, cudaUserObjectNoDestructorSync));
  kept.release();
  LACE_CUDA(cudaGraphRetainUserObject(graph, object, 1, cudaGraphUserObjectMove));
}

// A plan on each GPU that has it.
struct UploadedPlans {
  std::mutex mutex;
  std::map<int, std::shared_ptr<const UploadedPlan>> of_device;
};

}  // namespace

DeviceMemory::DeviceMemory(const DevicePacker& packer, cudaStream_t stream) : stream_(stream) {
  const RelaxedCapture relaxed;
  const auto padded = [](size_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  };
  for (const auto& part : packer.parts_) bytes_ += padded(part.bytes);
  bytes_ += kAlignment;  // never empty
  try {
    LACE_CUDA(cudaMalloc(&device_, bytes_));
    LACE_CUDA(cudaMallocHost(&pinned_, bytes_));
    LACE_CUDA(cudaEventCreateWithFlags(&copied_, cudaEventDisableTiming));
    size_t offset = 0;
    for (const auto& part : packer.parts_) {
      if (part.bytes > 0) {
        std::memcpy(static_cast<std::byte*>(pinned_) + offset, part.data, part.bytes);
      }
      *part.device = static_cast<std::byte*>(device_) + offset;
      offset += padded(part.bytes);
    }
    LACE_CUDA(cudaMemcpyAsync(device_, pinned_, offset, cudaMemcpyHostToDevice, stream));
    LACE_CUDA(cudaEventRecord(copied_, stream));
  } catch (...) {
    free();
    throw;
  }
}

DeviceMemory::~DeviceMemory() { free(); }

void DeviceMemory::free() {
  // Waits for the kernels that may still read it. At the end of the process the driver may be gone:
  // then there is nothing to free.
  const RelaxedCapture relaxed;
  if (copied_) cudaEventDestroy(copied_);
  if (device_) cudaFree(device_);
  if (pinned_) cudaFreeHost(pinned_);
}

void DeviceMemory::wait(cudaStream_t stream) const {
  if (done_) return;
  const RelaxedCapture relaxed;
  const cudaError_t status = cudaEventQuery(copied_);
  if (status == cudaSuccess) {
    done_ = true;
  } else if (status != cudaErrorNotReady) {
    LACE_CUDA(status);
  } else if (is_capturing(stream)) {
    // A captured stream cannot wait for what was enqueued before the capture.
    LACE_CUDA(cudaEventSynchronize(copied_));
    done_ = true;
  } else if (stream != stream_) {
    LACE_CUDA(cudaStreamWaitEvent(stream, copied_, 0));
  }
}

UploadedPlan::UploadedPlan(const Plan& plan, cudaStream_t stream) {
  std::vector<DeviceMask> masks;
  std::vector<uint64_t> words;
  for (const Mask& mask : plan.masks) {
    const MaskBits bits = bits_by_owner(mask);
    masks.push_back(
        {mask.owners, mask.others, bits.words_per_owner, static_cast<int32_t>(words.size())});
    words.insert(words.end(), bits.words.begin(), bits.words.end());
    LACE_CHECK(words.size() <= INT32_MAX, "[attention] the masks of this plan are too large");
  }
  DevicePacker packer;
  packer.add(plan.runs, &view_.runs);
  packer.add(plan.mask_ids, &view_.mask_ids);
  packer.add(masks, &view_.masks);
  packer.add(words, &view_.words);
  packer.add(plan.offsets, &view_.offsets);
  packer.add(plan.head_group, &view_.head_group);
  memory_ = std::make_unique<DeviceMemory>(packer, stream);
}

size_t UploadedPlan::bytes() const {
  std::lock_guard lock(mutex_);
  size_t bytes = memory_->bytes();
  for (const auto& [key, table] : tables_) bytes += table.memory->bytes();
  return bytes;
}

const void* UploadedPlan::table(std::type_index type, const Variant& variant, cudaStream_t stream,
                                const MakeTable& make) const {
  std::lock_guard lock(mutex_);
  const auto key = std::pair(type, variant);
  auto found = tables_.find(key);
  if (found == tables_.end()) {
    check_not_capturing(stream);
    DevicePacker packer;
    Table table;
    table.object = make(packer);
    table.memory = std::make_unique<DeviceMemory>(packer, stream);
    found = tables_.emplace(key, std::move(table)).first;
  }
  found->second.memory->wait(stream);
  return found->second.object.get();
}

std::shared_ptr<const UploadedPlan> upload(const Plan& plan, cudaStream_t stream) {
  int device = 0;
  LACE_CUDA(cudaGetDevice(&device));
  const auto plans = std::static_pointer_cast<UploadedPlans>(
      plan.attachment.get([] { return std::make_shared<UploadedPlans>(); }));
  const bool capturing = is_capturing(stream);
  std::shared_ptr<const UploadedPlan> uploaded;
  {
    std::lock_guard lock(plans->mutex);
    auto& slot = plans->of_device[device];
    if (!slot) {
      check_not_capturing(stream);
      free_released();
      slot = std::make_shared<UploadedPlan>(plan, stream);
    }
    uploaded = slot;
  }
  uploaded->memory_->wait(stream);
  if (capturing) keep_with_graph(uploaded, stream);
  return uploaded;
}

}  // namespace lace::cuda
