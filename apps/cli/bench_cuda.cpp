// lace bench attention --device cuda.

#include "bench_cuda.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <iostream>
#include <optional>

#include <cuda_runtime_api.h>

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <nlohmann/json.hpp>
#include <torch/csrc/autograd/autograd.h>
#include <torch/version.h>

#include "lace/attention.h"
#include "lace/device.h"
#include "lace/version.h"

#include "bench_attention.h"
#include "bench_cuda_cases.h"
#include "bench_cuda_time.h"
#include "kernels/cuda/cuda_check.h"
#include "output.h"
#include "terminal.h"

namespace lace::cli {

namespace {

using Json = nlohmann::ordered_json;

// ---- inputs and contenders ----------------------------------------------------------------------

struct Inputs {
  at::Tensor q, k, v, dout;  // [batch, n, heads, head_dim]
};

Inputs make_inputs(const CudaCase& c) {
  const auto make = [&](int64_t heads) {
    return at::randn({c.batch, c.seq_len, heads, c.head_dim},
                     at::device(at::kCUDA).dtype(at::kBFloat16));
  };
  return {make(c.heads).requires_grad_(), make(c.kv_heads).requires_grad_(),
          make(c.kv_heads).requires_grad_(), make(c.heads)};
}

at::Tensor swap(const at::Tensor& x) { return x.transpose(1, 2); }

using Attention = std::function<at::Tensor(const Inputs&)>;  // out [batch, n, heads, head_dim]

// What scaled_dot_product_attention may use, for a while: only this.
class OnlyBackend {
 public:
  explicit OnlyBackend(bool cudnn) { set(cudnn, !cudnn, false); }
  ~OnlyBackend() { set(true, true, true); }
  OnlyBackend(const OnlyBackend&) = delete;
  OnlyBackend& operator=(const OnlyBackend&) = delete;

 private:
  static void set(bool cudnn, bool flash, bool others) {
    at::Context& context = at::globalContext();
    context.setSDPUseCuDNN(cudnn);
    context.setSDPUseFlash(flash);
    context.setSDPUseMemEfficient(others);
    context.setSDPUseMath(others);
  }
};

at::Tensor dense(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, bool causal,
                 bool cudnn) {
  const OnlyBackend only(cudnn);
  return swap(at::scaled_dot_product_attention(swap(q), swap(k), swap(v), {}, 0.0, causal, {},
                                               q.size(2) != k.size(2)));
}

at::Tensor view_of(const at::Tensor& x, const CudaCase& c) {
  const int64_t parts = c.seq_len / c.period;
  if (c.view == DenseView::kResidues) {
    return x.view({c.batch, parts, c.period * x.size(2), c.head_dim});
  }
  return x.view({c.batch * parts, c.period, x.size(2), c.head_dim});
}

// cuDNN's or FlashAttention-2's kernel on the row; empty where it has none.
Attention peer(const CudaCase& c, bool cudnn) {
  const bool causal = c.pattern != "bidirectional(dense)";
  switch (c.view) {
    case DenseView::kWhole:
      return [=](const Inputs& in) { return dense(in.q, in.k, in.v, causal, cudnn); };
    case DenseView::kResidues:
    case DenseView::kBlocks:
      return [=](const Inputs& in) {
        return dense(view_of(in.q, c), view_of(in.k, c), view_of(in.v, c), true, cudnn)
            .reshape(in.q.sizes());
      };
    case DenseView::kWindow:
      if (cudnn) return {};
      return [=](const Inputs& in) {
        return std::get<0>(at::_flash_attention_forward(
            in.q, in.k, in.v, std::optional<at::Tensor>(), std::optional<at::Tensor>(), c.seq_len,
            c.seq_len, 0.0, true, false, std::optional<double>(), c.period - 1, 0));
      };
    case DenseView::kNone:
      return {};
  }
  return {};
}

Attention lace_attention(const CudaCase& c) {
  return [pattern = Pattern::parse(c.pattern)](const Inputs& in) {
    return swap(attention(swap(in.q), swap(in.k), swap(in.v), pattern));
  };
}

// The results: out, and with gradients those of q, k, v.
std::vector<at::Tensor> call(const Attention& attend, Direction direction, const Inputs& in) {
  const at::AutoGradMode grad_mode(direction == Direction::kForwardBackward);
  const at::Tensor out = attend(in);
  std::vector<at::Tensor> results{out};
  if (direction == Direction::kForwardBackward) {
    for (const at::Tensor& grad : torch::autograd::grad({out}, {in.q, in.k, in.v}, {in.dout})) {
      results.push_back(grad);
    }
  }
  return results;
}

// ---- rows ---------------------------------------------------------------------------------------

struct Timed {
  std::string name;
  std::function<void()> run;
  int calls = 1;
  std::vector<double> samples_ms;
  std::string error;

  double time_ms() const { return median(samples_ms); }
};

// Warms it up. A failure is kept as text.
void prepare(Timed& contender) {
  try {
    contender.calls = warm_up(contender.run);
  } catch (const c10::Error& error) {
    contender.error = error.what_without_backtrace();
  } catch (const std::exception& error) {
    contender.error = error.what();
  }
}

struct Row {
  CudaCase attention_case;
  Direction direction = Direction::kForward;
  std::string name() const { return attention_case.name + "-" + cli::name(direction); }
};

Json row_json(const Row& row, const std::string& kernel, const Ceilings& ceilings,
              const std::vector<Timed>& contenders) {
  const CudaCase& c = row.attention_case;
  const Timed& lace = contenders.front();
  const double operations =
      static_cast<double>(c.batch) *
      live_operations(c.pattern, c.heads, c.seq_len, c.head_dim, row.direction);
  Json json = {
      {"name", row.name()},     {"pattern", c.pattern},   {"dtype", "bfloat16"},
      {"batch", c.batch},       {"seq_len", c.seq_len},   {"heads", c.heads},
      {"kv_heads", c.kv_heads}, {"head_dim", c.head_dim}, {"direction", name(row.direction)},
      {"kernel", kernel}};
  std::optional<double> best;
  std::string best_name;
  Json peers = Json::object();
  for (const Timed& contender : contenders) {
    const bool timed = !contender.samples_ms.empty();
    const Json figures = {
        {"time_ms", timed ? Json(rounded(contender.time_ms())) : Json()},
        {"spread_ms", timed ? Json(rounded(spread(contender.samples_ms))) : Json()},
        {"tflops_live", timed ? Json(rounded(operations / contender.time_ms() * 1e-9)) : Json()},
        {"error", contender.error.empty() ? Json() : Json(contender.error)}};
    if (&contender == &lace) {
      json.update(figures);
      json["share_of_matmul"] =
          timed ? Json(rounded(operations / contender.time_ms() * 1e-9 / ceilings.matmul_tflops))
                : Json();
      continue;
    }
    peers[contender.name] = figures;
    if (timed && (!best || contender.time_ms() < *best)) {
      best = contender.time_ms();
      best_name = contender.name;
    }
  }
  json["peers"] = peers;
  json["best_peer"] = best ? Json(best_name) : Json();
  json["ratio"] = best && !lace.samples_ms.empty() ? Json(rounded(*best / lace.time_ms())) : Json();
  return json;
}

Json bench_row(const Row& row, const CudaBenchOptions& options, const Ceilings& ceilings) {
  const CudaCase& c = row.attention_case;
  // Two sets of inputs in turn: each is larger than the cache, so that no call finds its own there.
  const std::vector<Inputs> inputs = {make_inputs(c), make_inputs(c)};
  size_t turn = 0;
  std::vector<Timed> contenders;
  const auto add = [&](const std::string& name, const Attention& attend) {
    if (!attend) return;
    Timed timed;
    timed.name = name;
    timed.run = [&inputs, &turn, attend, &row] {
      call(attend, row.direction, inputs[turn++ % inputs.size()]);
    };
    prepare(timed);
    contenders.push_back(timed);
  };
  add("lace", lace_attention(c));
  if (!options.no_peer) {
    add("cudnn", peer(c, true));
    add("flash_attention_2", peer(c, false));
  }
  for (int round = 0; round < options.rounds; ++round) {
    for (Timed& contender : contenders) {
      if (!contender.error.empty()) continue;
      contender.samples_ms.push_back(sample_ms(contender.run, contender.calls));
    }
  }
  const Inputs& in = inputs.front();
  std::string kernel;
  if (contenders.front().error.empty()) {
    kernel = attention_kernel(swap(in.q), swap(in.k), swap(in.v));
  }
  return row_json(row, kernel, ceilings, contenders);
}

int64_t gpu_bytes_used() {
  size_t free = 0, total = 0;
  LACE_CUDA(cudaMemGetInfo(&free, &total));
  return static_cast<int64_t>(total - free);
}

// Forward + backward of a million tokens: what the first call takes beyond inputs and results, in
// libtorch's allocator and outside it, and its time on the host's clock, plans and all.
Json bench_memory_row(const Row& row, const CudaBenchOptions& options, const Ceilings& ceilings) {
  using namespace c10::cuda;
  const CudaCase& c = row.attention_case;
  const Inputs in = make_inputs(c);
  const Attention attend = lace_attention(c);
  LACE_CUDA(cudaDeviceSynchronize());
  CUDACachingAllocator::resetPeakStats(0);
  const auto before = CUDACachingAllocator::getDeviceStats(0);
  const int64_t used_before = gpu_bytes_used();
  const auto start = std::chrono::steady_clock::now();
  int64_t result_bytes = 4 * c.heads * c.seq_len;  // lse
  for (const at::Tensor& result : call(attend, row.direction, in)) {
    result_bytes += static_cast<int64_t>(result.nbytes());
  }
  LACE_CUDA(cudaDeviceSynchronize());
  const std::chrono::duration<double, std::milli> first = std::chrono::steady_clock::now() - start;
  const auto after = CUDACachingAllocator::getDeviceStats(0);
  const int64_t in_torch =
      after.allocated_bytes[0].peak - before.allocated_bytes[0].current - result_bytes;
  const int64_t outside = gpu_bytes_used() - used_before -
                          (after.reserved_bytes[0].current - before.reserved_bytes[0].current);
  Timed lace;
  lace.name = "lace";
  lace.run = [&] { call(attend, row.direction, in); };
  prepare(lace);
  for (int round = 0; round < options.rounds && lace.error.empty(); ++round) {
    lace.samples_ms.push_back(sample_ms(lace.run, lace.calls));
  }
  Json json = row_json(row, attention_kernel(swap(in.q), swap(in.k), swap(in.v)), ceilings, {lace});
  json["extra_memory_mb"] =
      rounded(static_cast<double>(in_torch + std::max<int64_t>(0, outside)) * 1e-6);
  json["first_call_ms"] = rounded(first.count());
  return json;
}

std::vector<Row> chosen_rows(const CudaBenchOptions& options) {
  std::vector<Row> rows;
  for (const CudaCase& c : cuda_cases()) {
    for (const Direction direction : {Direction::kForward, Direction::kForwardBackward}) {
      const Row row{c, direction};
      const bool wanted =
          c.memory_row
              ? direction == Direction::kForwardBackward && (options.million || options.list)
              : options.direction.empty() || options.direction == name(direction);
      if (wanted && asks_for(options.rows, row.name())) rows.push_back(row);
    }
  }
  return rows;
}

std::string text_of(const Json& number) {
  return number.is_number() ? format_number(number.get<double>()) : "–";
}

void print(const Json& report) {
  std::cout << report["gpu"].get<std::string>() << ": matrix product "
            << text_of(report["ceilings"]["matmul_tflops"]) << " TFLOP/s bf16, copy "
            << text_of(report["ceilings"]["copy_tb_s"]) << " TB/s\n";
  Table table({"row", "kernel", "ms", "±", "TFLOP/s", "of matmul", "cuDNN ms", "FA2 ms", "ratio"});
  for (const Json& row : report["rows"]) {
    const auto peer_ms = [&](const char* name) {
      return row["peers"].contains(name) ? text_of(row["peers"][name]["time_ms"]) : "–";
    };
    const Json& share = row["share_of_matmul"];
    table.add({row["name"], row["kernel"], text_of(row["time_ms"]), text_of(row["spread_ms"]),
               text_of(row["tflops_live"]),
               share.is_number() ? format_number(100 * share.get<double>()) + "%" : "–",
               peer_ms("cudnn"), peer_ms("flash_attention_2"), text_of(row["ratio"])});
  }
  std::cout << table.to_string()
            << "TFLOP/s count live pairs; ratio: the best peer's time over ours\n";
  for (const Json& row : report["rows"]) {
    if (row.contains("extra_memory_mb")) {
      std::cout << row["name"].get<std::string>() << ": " << text_of(row["extra_memory_mb"])
                << " MB beyond inputs and results, the first call took "
                << text_of(row["first_call_ms"]) << " ms\n";
    }
  }
}

// Throws lace::Error with what lace's own calls failed of. A peer may have no kernel for a row.
void check_rows(const Json& report) {
  std::string failed;
  for (const Json& row : report["rows"]) {
    if (!row["error"].is_string()) continue;
    failed += concat("\n  ", row["name"].get<std::string>(), ": ", row["error"].get<std::string>());
  }
  LACE_CHECK(failed.empty(), "[bench] every row must run, got errors of", failed);
}

}  // namespace

void bench_attention_cuda(const CudaBenchOptions& options) {
  const std::vector<Row> rows = chosen_rows(options);
  LACE_CHECK(!rows.empty(),
             "[bench] no row of the table has all that was asked for (--list names them)");
  if (options.list) {
    for (const Row& row : rows) std::cout << row.name() << "\n";
    return;
  }
  const c10::Device device = find_device("cuda");
  at::manual_seed(1);
  const Ceilings ceilings = measure_ceilings(options.rounds);
  c10::cuda::CUDACachingAllocator::emptyCache();
  Json report = {{"benchmark", "attention_cuda"},
                 {"version", version()},
                 {"commit", commit()},
                 {"libtorch", TORCH_VERSION},
                 {"cudnn", at::detail::getCUDAHooks().versionCuDNN()},
                 {"gpu", gpu_name(device)},
                 {"ceilings",
                  {{"matmul_tflops", rounded(ceilings.matmul_tflops)},
                   {"copy_tb_s", rounded(ceilings.copy_tb_s)}}},
                 {"rounds", options.rounds},
                 {"rows", Json::array()}};
  {
    ProgressBar bar("bench", static_cast<int64_t>(rows.size()));
    for (const Row& row : rows) {
      bar.update(static_cast<int64_t>(report["rows"].size()), row.name());
      report["rows"].push_back(row.attention_case.memory_row
                                   ? bench_memory_row(row, options, ceilings)
                                   : bench_row(row, options, ceilings));
      c10::cuda::CUDACachingAllocator::emptyCache();
    }
  }
  if (options.json) {
    print_json(report);
  } else {
    print(report);
  }
  check_rows(report);
}

}  // namespace lace::cli
