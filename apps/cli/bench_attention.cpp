#include "bench_attention.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <sstream>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/generated/variable_factories.h>

#include "lace/attention.h"

#include "bench_peak.h"
#include "kernels/kernel.h"
#include "ops/torch_context.h"
#include "plan/plan.h"

namespace lace::cli {

namespace {

at::ScalarType scalar_type(DType dtype) {
  return dtype == DType::kFloat64    ? at::kDouble
         : dtype == DType::kBFloat16 ? at::kBFloat16
                                     : at::kFloat;
}

struct Inputs {
  at::Tensor q, k, v, dout;
};

// Several sets of inputs, taken in turn, so that no run finds its own in the caches.
class RotatingInputs {
 public:
  explicit RotatingInputs(const AttentionCase& c) {
    constexpr double kBytes = 96e6;
    const double set_bytes =
        4.0 * static_cast<double>(c.heads * c.seq_len * c.head_dim * size_bytes(c.dtype));
    const int sets = c.memory_row ? 1 : std::clamp(static_cast<int>(kBytes / set_bytes) + 1, 2, 16);
    at::manual_seed(1);
    const bool differentiable = c.direction == Direction::kForwardBackward;
    for (int i = 0; i < sets; ++i) {
      auto make = [&](bool requires_grad) {
        return at::randn({1, c.heads, c.seq_len, c.head_dim}, at::kFloat)
            .to(scalar_type(c.dtype))
            .set_requires_grad(requires_grad);
      };
      sets_.push_back({make(differentiable), make(differentiable), make(differentiable),
                       differentiable ? make(false) : at::Tensor()});
    }
  }
  const Inputs& next() { return sets_[turn_++ % sets_.size()]; }

 private:
  std::vector<Inputs> sets_;
  size_t turn_ = 0;
};

using AttentionFunction = std::function<at::Tensor(const Inputs&)>;

std::function<void()> timed_run(const AttentionFunction& attention, Direction direction,
                                std::shared_ptr<RotatingInputs> inputs) {
  if (direction == Direction::kForward) {
    return [=] {
      at::NoGradGuard no_grad;
      attention(inputs->next());
    };
  }
  return [=] {
    const Inputs& in = inputs->next();
    torch::autograd::grad({attention(in)}, {in.q, in.k, in.v}, {in.dout});
  };
}

AttentionFunction lace_attention(const std::string& text) {
  return [pattern = Pattern::parse(text)](const Inputs& in) {
    return attention(in.q, in.k, in.v, pattern);
  };
}

at::Tensor libtorch_attention(const Inputs& in) {
  return at::scaled_dot_product_attention(in.q, in.k, in.v, {}, 0.0, /*is_causal=*/true);
}

double live_operations(const AttentionCase& c) {
  return cli::live_operations(c.pattern, c.heads, c.seq_len, c.head_dim, c.direction);
}

// Bytes of a line such as "VmHWM:  1234 kB" of /proc/self/status.
double status_bytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(key + ":", 0) != 0) continue;
    double kilobytes = 0;
    std::istringstream(line.substr(key.size() + 1)) >> kilobytes;
    return kilobytes * 1024;
  }
  throw Error(concat("[bench] /proc/self/status must have a line ", key));
}

// One run from clean peak counters. The memory is what the process's peak rose by, without the
// results that the caller gets.
AttentionResult run_memory_row(const AttentionCase& c) {
  AttentionResult result;
  result.attention_case = c;
  RotatingInputs inputs(c);
  const Inputs& in = inputs.next();
  const AttentionFunction attend = lace_attention(c.pattern);
  const double operations = live_operations(c);
  std::ofstream("/proc/self/clear_refs") << "5";  // resets VmHWM
  const double before = status_bytes("VmRSS");
  const auto start = std::chrono::steady_clock::now();
  const at::Tensor out = attend(in);
  std::vector<at::Tensor> results;
  if (c.direction == Direction::kForwardBackward) {
    results = torch::autograd::grad({out}, {in.q, in.k, in.v}, {in.dout});
  }
  const std::chrono::duration<double, std::milli> elapsed =
      std::chrono::steady_clock::now() - start;
  results.push_back(out);
  double results_bytes = 4.0 * static_cast<double>(c.heads * c.seq_len);  // lse
  for (const at::Tensor& tensor : results) results_bytes += static_cast<double>(tensor.nbytes());
  result.kernel = last_kernel();
  result.time_ms = elapsed.count();
  result.gflops_live = operations / result.time_ms * 1e-6;
  result.extra_memory_mb = (status_bytes("VmHWM") - before - results_bytes) * 1e-6;
  result.rounds.rounds = 1;
  return result;
}

constexpr int64_t kPeakSteps = 4'000'000;

// What one contender of bench_attention() says about the row.
void put_time(const Contender& contender, double peak_operations, AttentionResult& result) {
  const double time_ms = median(contender.samples_ms);
  const auto gflops = [time_ms](double operations) { return operations / time_ms * 1e-6; };
  if (contender.name == "lace") {
    result.time_ms = time_ms;
    result.spread_ms = spread(contender.samples_ms);
    result.gflops_live = gflops(live_operations(result.attention_case));
  } else if (contender.name == "libtorch") {
    result.peer_ms = time_ms;
  } else if (contender.name == "lace dense") {
    AttentionCase dense = result.attention_case;
    dense.pattern = "dense";
    result.dense_gflops = gflops(live_operations(dense));
  } else {
    result.peak_gflops = gflops(peak_operations);
  }
}

}  // namespace

double live_pairs(const std::string& pattern, int64_t heads, int64_t seq_len) {
  const auto plan =
      cached_plan(Pattern::parse(pattern), heads, seq_len, seq_len, {64, 64}, /*transposed=*/false);
  double pairs = 0;
  for (const HeadGroup& group : plan->groups) {
    for (int32_t pass = group.pass_begin; pass < group.pass_end; ++pass) {
      pairs +=
          static_cast<double>(plan->passes[static_cast<size_t>(pass)].live_pairs * group.heads);
    }
  }
  return pairs;
}

double live_operations(const std::string& pattern, int64_t heads, int64_t seq_len, int64_t head_dim,
                       Direction direction) {
  const double forward = 4.0 * static_cast<double>(head_dim) * live_pairs(pattern, heads, seq_len);
  return direction == Direction::kForward ? forward : 3.5 * forward;
}

std::string name(Direction direction) {
  return direction == Direction::kForward ? "forward" : "forward+backward";
}

std::vector<AttentionCase> attention_table() {
  std::vector<AttentionCase> table;
  const auto directions = {Direction::kForward, Direction::kForwardBackward};
  auto add = [&](const std::string& name_begin, const std::string& pattern, DType dtype,
                 int64_t seq_len, Direction direction) -> AttentionCase& {
    AttentionCase c;
    c.pattern = pattern;
    c.dtype = dtype;
    c.seq_len = seq_len;
    c.direction = direction;
    c.name = concat(name_begin, "-", lace::name(dtype), "-", seq_len, "-", name(direction));
    return table.emplace_back(c);
  };
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    for (const int64_t seq_len : {4096, 12288}) {
      for (const Direction direction : directions) add("dense", "dense", dtype, seq_len, direction);
    }
  }
  for (const Direction direction : directions) {
    add("fixed", "block(128) | summary(128, 32)", DType::kFloat32, 12288, direction);
  }
  for (const Direction direction : directions) {
    add("strided", "local(128) | strided(128)", DType::kFloat32, 12288, direction);
  }
  AttentionCase& million = add("strided", "local(1024) | strided(1024)", DType::kFloat32, 1 << 20,
                               Direction::kForwardBackward);
  million.heads = 1;
  million.peer = false;
  million.memory_row = true;
  return table;
}

AttentionResult bench_attention(const AttentionCase& c, int rounds, const BenchProgress& progress) {
  if (c.memory_row) {
    progress(0, 1, "lace");
    return run_memory_row(c);
  }
  const auto inputs = std::make_shared<RotatingInputs>(c);
  const bool is_dense = Pattern::parse(c.pattern) == Pattern::parse("dense");
  const Peak peak = c.dtype == DType::kBFloat16 ? Peak::kBf16Dot : Peak::kFp32Fma;
  const Executor& executor = ops::torch_executor();
  double peak_operations = 0;

  AttentionResult result;
  std::vector<Contender> contenders;
  contenders.push_back({"lace", timed_run(lace_attention(c.pattern), c.direction, inputs), {}});
  if (c.peer) {
    contenders.push_back({"libtorch", timed_run(libtorch_attention, c.direction, inputs), {}});
  }
  if (c.peer && !is_dense) {
    contenders.push_back(
        {"lace dense", timed_run(lace_attention("dense"), c.direction, inputs), {}});
  }
  if (has_peak(peak)) {
    contenders.push_back(
        {"peak", [&] { peak_operations = run_peak(peak, executor, kPeakSteps); }, {}});
  }
  QuietProbe probe(executor);
  result.attention_case = c;
  result.rounds = run_rounds(contenders, rounds, probe, progress);
  const Inputs& in = inputs->next();
  result.kernel = attention_kernel(in.q, in.k, in.v);
  for (const Contender& contender : contenders) put_time(contender, peak_operations, result);
  return result;
}

}  // namespace lace::cli
