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
  cuda::decode::LoneLayout lone;  // of one sequence, which has two ways
  const void* lone_kernel = nullptr;
};

namespace {

int attribute(cudaDeviceAttr name) {
  int device = 0, value = 0;
  LACE_CUDA(cudaGetDevice(&device));
  LACE_CUDA(cudaDeviceGetAttribute(&value, name, device));
  return value;
}

void allow_shared_memory(const void* kernel) {
  // The most that any plan asks for, as the kernel is every plan's.
  LACE_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)));
}

void fill(const GpuDecodePlan& plan, const GpuDecodeStep& step,
          cuda::decode::StepArguments& arguments) {
  arguments.shape = cuda::decode::step_shape(plan.shape);
  arguments.tables = step.tables;
  arguments.block_eps = static_cast<float>(plan.shape.block_eps);
  arguments.final_eps = static_cast<float>(plan.shape.final_eps);
  arguments.row_bytes = row_bytes(plan.shape);
  std::copy(std::begin(step.positions), std::end(step.positions), arguments.positions);
  arguments.cos = step.cos;
  arguments.sin = step.sin;
  arguments.logits = step.logits;
  arguments.workspace = step.workspace;
  const cuda::decode::StepWords& changing = *step.changing;
  arguments.patterns = changing.patterns;
  arguments.reads = static_cast<int>(changing.reads);
  arguments.writes = static_cast<int>(changing.writes);
  arguments.word_count = static_cast<int>(changing.words.size());
  arguments.far_words = step.far_words;
  if (step.far_words == nullptr) {
    LACE_CHECK(changing.fit_a_launch(), "[decode] a launch carries at most ",
               cuda::decode::kLaunchWords, " words, got ", changing.words.size());
    std::copy(changing.words.begin(), changing.words.end(), arguments.words);
  }
}

void launch(const Context& context, const void* kernel, int blocks, int threads,
            int64_t shared_bytes, void* params) {
  cudaLaunchAttribute cooperative = {};
  cooperative.id = cudaLaunchAttributeCooperative;
  cooperative.val.cooperative = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = static_cast<cudaStream_t>(context.stream);
  config.attrs = &cooperative;
  config.numAttrs = 1;
  void* arguments[] = {params};
  LACE_CUDA(cudaLaunchKernelExC(&config, kernel, arguments));
}

}  // namespace

std::shared_ptr<const GpuDecodePlan> plan_gpu_decode(const DecodeShape& shape, int64_t batch) {
  LACE_CHECK(attribute(cudaDevAttrCooperativeLaunch) != 0,
             "[decode] the GPU must be able to run cooperative launches, got ", "one that is not");
  auto plan = std::make_shared<GpuDecodePlan>();
  plan->shape = shape;
  plan->batch = batch;
  const cuda::decode::Gpu gpu = {
      .multiprocessors = attribute(cudaDevAttrMultiProcessorCount),
      .shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)};
  const bool half = shape.compute == DType::kFloat16;
  plan->layout = cuda::decode::step_layout(shape, batch, gpu);
  plan->kernel = half ? cuda::decode::step_kernel_fp16(plan->layout)
                      : cuda::decode::step_kernel_bf16(plan->layout);
  allow_shared_memory(plan->kernel);
  if (batch > 1) return plan;
  plan->lone = cuda::decode::lone_layout(shape, gpu);
  if (plan->lone.fits) {
    plan->lone_kernel = half ? cuda::decode::lone_step_kernel_fp16(plan->lone)
                             : cuda::decode::lone_step_kernel_bf16(plan->lone);
    allow_shared_memory(plan->lone_kernel);
  }
  return plan;
}

size_t workspace_bytes(const GpuDecodePlan& plan) {
  return static_cast<size_t>(plan.lone.words * 8 + plan.layout.workspace_bytes);
}

std::string_view gpu_decode_name() { return "cuda"; }

void gpu_decode_step(const Context& context, const GpuDecodePlan& plan, const GpuDecodeStep& step) {
  if (cuda::decode::goes_alone(plan.lone, step.changing->most_keys)) {
    cuda::decode::LoneParams params;
    fill(plan, step, params);
    params.layout = plan.lone;
    params.stamp = step.number * static_cast<uint32_t>(plan.shape.layers) + 1;
    launch(context, plan.lone_kernel, plan.lone.blocks, cuda::decode::kLoneThreads,
           plan.lone.shared_bytes, &params);
  } else {
    cuda::decode::StepParams params;
    fill(plan, step, params);
    params.layout = plan.layout;
    params.workspace += plan.lone.words * 8;  // behind the other way's
    params.batch = static_cast<int>(plan.batch);
    launch(context, plan.kernel, plan.layout.blocks, cuda::decode::kThreads,
           plan.layout.shared_bytes, &params);
  }
}

void gpu_decode_store(const Context& context, const DecodeShape& shape,
                      const GpuDecodeStore& store) {
  cuda::decode::store(context, shape, store);
}

}  // namespace lace
