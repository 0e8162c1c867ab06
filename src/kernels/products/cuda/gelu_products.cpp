// Products with quick-GELU or its gradient: which way is taken, and what both ways need besides
// their kernels.

#include "kernels/products/cuda/gelu_products.h"

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <mutex>
#include <tuple>
#include <vector>

#include "kernels/elementwise/cuda/finish_sums.h"
#include "kernels/elementwise/cuda/functions.h"
#include "kernels/elementwise/cuda/launch.h"
#include "kernels/products/cuda/cublas_products.h"
#include "kernels/products/cuda/fastest.h"
#include "kernels/products/cuda/gelu_kernels.h"

namespace lace::cuda::products {

namespace {

constexpr int kTwoSteps = 0;
constexpr int kWays = 1 + static_cast<int>(kTilings.size());
// What deterministic contexts, and matrices that no other way can read, get at every shape.
constexpr int kFixedWay = kTwoSteps;

constexpr std::array<std::string_view, kWays> kWayNames = [] {
  std::array<std::string_view, kWays> names = {"product, then elementwise"};
  for (size_t i = 0; i < kTilings.size(); ++i) names[i + 1] = kTilings[i].name;
  return names;
}();

int current_device() {
  int device = 0;
  LACE_CUDA(cudaGetDevice(&device));
  return device;
}

int compute_capability_major(int device) {
  int major = 0;
  LACE_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  return major;
}

void run_way(const Context& context, const LinearGeluArgs& args, int way) {
  const LinearShape& s = args.shape;
  if (way == kTwoSteps) {
    void* u = args.u != nullptr ? args.u : args.y;
    linear(context, {s, args.x, args.weight, args.bias, u});
    elementwise::gelu(context, {{s.rows, s.out, s.compute}, u, args.y});
    return;
  }
  const auto run = s.compute == DType::kBFloat16 ? linear_gelu_bf16 : linear_gelu_fp16;
  run(way - 1, args, elementwise::stream_of(context));
}

void run_way(const Context& context, const GradInputGeluArgs& args, int way) {
  const LinearShape& s = args.shape;
  if (way == kTwoSteps) {
    grad_input(context, {s, args.dy, args.weight, args.du});
    elementwise::gelu_grad(context,
                           {{s.rows, s.in, s.compute}, args.du, args.u, args.du, args.sum});
    return;
  }
  const Partials partials = partials_of(kTilings[static_cast<size_t>(way - 1)], s);
  Workspace memory;
  if (args.sum.data != nullptr) {
    memory = context.allocate_floats(partials.count * partials.stride);
  }
  auto* sums = reinterpret_cast<float*>(memory.get());
  const cudaStream_t stream = elementwise::stream_of(context);
  const auto run = s.compute == DType::kBFloat16 ? grad_input_gelu_bf16 : grad_input_gelu_fp16;
  run(way - 1, args, sums, stream);
  if (sums != nullptr) {
    elementwise::finish_sums(sums, partials.count, 1, partials.stride, s.in, {args.sum}, stream);
  }
}

bool aligned(const LinearGeluArgs& args) {
  return elementwise::begin_aligned(args.x, args.weight, args.bias, args.u, args.y);
}
bool aligned(const GradInputGeluArgs& args) {
  return elementwise::begin_aligned(args.dy, args.weight, args.u, args.du);
}

// What a trial may write: all but sums that are added to.
LinearGeluArgs trial_of(const Context&, const LinearGeluArgs& args, Workspace&) { return args; }
GradInputGeluArgs trial_of(const Context& context, GradInputGeluArgs args, Workspace& memory) {
  if (args.sum.data == nullptr) return args;
  memory = context.allocate_floats(args.shape.in);
  args.sum = {memory.get(), false};
  return args;
}

constexpr bool has_sum(const LinearGeluArgs& args) { return args.bias != nullptr; }
constexpr bool has_sum(const GradInputGeluArgs& args) { return args.sum.data != nullptr; }

template <typename Args>
int measure(const Context& context, const Args& args) {
  std::vector<int> ways;
  for (int way = 0; way < kWays; ++way) {
    if (no_gelu_way(way, args.shape).empty()) ways.push_back(way);
  }
  if (ways.size() == 1) return ways.front();
  Workspace memory;
  const Args trial = trial_of(context, args, memory);
  return ways[fastest(ways.size(), context,
                      [&](size_t i, const Context& its_own) { run_way(its_own, trial, ways[i]); })];
}

// The fastest way of a product at each shape on each device, once it was measured. Whether u is
// wanted makes no difference: a block that is recomputed is computed as it was.
template <typename Args>
int fastest_way(const Context& context, const Args& args) {
  using Key = std::tuple<int, int64_t, int64_t, int64_t, DType, bool>;
  static std::mutex mutex;
  static auto& ways = *new std::map<Key, int>;
  const LinearShape& s = args.shape;
  const Key key = {current_device(), s.rows, s.in, s.out, s.compute, has_sum(args)};
  const std::lock_guard lock(mutex);
  const auto known = ways.find(key);
  if (known != ways.end()) return known->second;
  return ways[key] = measure(context, args);
}

template <typename Args>
void run(const Context& context, const Args& args) {
  int way = args.way;
  if (way != kFastestWay) {
    std::string reason = no_gelu_way(way, args.shape);
    if (reason.empty() && way != kTwoSteps && !aligned(args)) {
      reason = "matrices must begin at multiples of 16 bytes";
    }
    LACE_CHECK(reason.empty(), "[products] ", reason);
  } else if (context.deterministic || !aligned(args)) {
    way = kFixedWay;
  } else {
    way = fastest_way(context, args);
  }
  run_way(context, args, way);
}

}  // namespace

const std::span<const std::string_view> kGeluWays = kWayNames;

std::string no_gelu_way(int way, const LinearShape& shape) {
  if (way < 0 || way >= kWays) return concat("ways are 0 to ", kWays - 1, ", got ", way);
  if (way == kTwoSteps) return {};
  if (const int major = compute_capability_major(current_device()); major != 9) {
    return concat("the GPU must have compute capability 9, got ", major);
  }
  if (shape.in % 8 != 0 || shape.out % 8 != 0) {
    return concat("widths must be multiples of 8, got ", shape.in, " and ", shape.out);
  }
  constexpr int64_t kMost = std::numeric_limits<int>::max() / 2;
  if (shape.rows < 1 || std::max({shape.rows, shape.in, shape.out}) > kMost) {
    return concat("rows and widths must be 1 to ", kMost, ", got ", shape.rows, ", ", shape.in,
                  " and ", shape.out);
  }
  return {};
}

void linear_gelu(const Context& context, const LinearGeluArgs& args) { run(context, args); }
void grad_input_gelu(const Context& context, const GradInputGeluArgs& args) { run(context, args); }

}  // namespace lace::cuda::products
