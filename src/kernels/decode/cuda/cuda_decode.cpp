// Plans and launches of steps.

#include <algorithm>
#include <iterator>

#include <cuda_runtime_api.h>

#include "kernels/cuda/cuda_check.h"
#include "kernels/decode/cuda/step_kernels.h"
#include "kernels/decode/cuda/step_params.h"
#include "kernels/decode/cuda/store.h"
#include "kernels/decode/gpu_decode.h"

namespace lace {

struct GpuDecodePlan {
  DecodeShape shape;
  int64_t batch = 0;
  cuda::decode::StepLayout layout;
  const void* kernel = nullptr;
};

namespace {

int attribute(cudaDeviceAttr name) {
  int device = 0, value = 0;
  LACE_CUDA(cudaGetDevice(&device));
  LACE_CUDA(cudaDeviceGetAttribute(&value, name, device));
  return value;
}

}  // namespace

std::shared_ptr<const GpuDecodePlan> plan_gpu_decode(const DecodeShape& shape, int64_t batch) {
  LACE_CHECK(attribute(cudaDevAttrCooperativeLaunch) != 0,
             "[decode] the GPU must be able to run cooperative launches, got ", "one that is not");
  auto plan = std::make_shared<GpuDecodePlan>();
  plan->shape = shape;
  plan->batch = batch;
  plan->layout = cuda::decode::step_layout(
      shape, batch,
      {.multiprocessors = attribute(cudaDevAttrMultiProcessorCount),
       .shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)});
  plan->kernel = shape.compute == DType::kFloat16 ? cuda::decode::step_kernel_fp16(plan->layout)
                                                  : cuda::decode::step_kernel_bf16(plan->layout);
  // The most that any plan asks for, as the kernel is every plan's.
  LACE_CUDA(cudaFuncSetAttribute(plan->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)));
  return plan;
}

size_t workspace_bytes(const GpuDecodePlan& plan) {
  return static_cast<size_t>(plan.layout.workspace_bytes);
}

std::string_view gpu_decode_name() { return "cuda"; }

void gpu_decode_step(const Context& context, const GpuDecodePlan& plan, const GpuDecodeStep& step) {
  cuda::decode::StepParams params;
  params.shape = cuda::decode::step_shape(plan.shape);
  params.layout = plan.layout;
  params.tables = step.tables;
  params.block_eps = static_cast<float>(plan.shape.block_eps);
  params.final_eps = static_cast<float>(plan.shape.final_eps);
  params.batch = static_cast<int>(plan.batch);
  params.row_bytes = row_bytes(plan.shape);
  std::copy(std::begin(step.positions), std::end(step.positions), params.positions);
  params.cos = step.cos;
  params.sin = step.sin;
  params.logits = step.logits;
  params.workspace = step.workspace;
  const cuda::decode::StepWords& changing = *step.changing;
  params.patterns = changing.patterns;
  params.reads = static_cast<int>(changing.reads);
  params.writes = static_cast<int>(changing.writes);
  params.word_count = static_cast<int>(changing.words.size());
  params.far_words = step.far_words;
  if (step.far_words == nullptr) {
    LACE_CHECK(changing.fit_a_launch(), "[decode] a launch carries at most ",
               cuda::decode::kLaunchWords, " words, got ", changing.words.size());
    std::copy(changing.words.begin(), changing.words.end(), params.words);
  }
  cudaLaunchAttribute cooperative;
  cooperative.id = cudaLaunchAttributeCooperative;
  cooperative.val.cooperative = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(plan.layout.blocks));
  config.blockDim = dim3(cuda::decode::kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(plan.layout.shared_bytes);
  config.stream = static_cast<cudaStream_t>(context.stream);
  config.attrs = &cooperative;
  config.numAttrs = 1;
  void* arguments[] = {&params};
  LACE_CUDA(cudaLaunchKernelExC(&config, plan.kernel, arguments));
}

void gpu_decode_store(const Context& context, const DecodeShape& shape,
                      const GpuDecodeStore& store) {
  cuda::decode::store(context, shape, store);
}

}  // namespace lace
