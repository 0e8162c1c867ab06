// lace bench decode: times what drawing a byte costs, beside what reading its weights and cache
// rows takes at the device's memory bandwidth; or over the length, pattern by pattern.

#include "bench_decode.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <iostream>
#include <memory>
#include <numeric>

#include <ATen/ATen.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <nlohmann/json.hpp>
#include <torch/version.h>

#include "lace/device.h"
#include "lace/recipe.h"
#include "lace/version.h"

#include "arguments.h"
#include "bench_rounds.h"
#include "bench_step.h"
#include "commands.h"
#include "core/instruction_set.h"
#include "core/large_memory.h"
#include "core/processor.h"
#include "data/random.h"
#include "generate/draw.h"
#include "kernels/decode/decode.h"
#include "kernels/decode/gpu_decode.h"
#include "model/decode.h"
#include "ops/torch_context.h"
#include "output.h"
#include "terminal.h"

namespace lace::cli {

namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr int kWarmUp = 3, kLeastSteps = 5;
constexpr double kRowSeconds = 1.5;

struct Options {
  std::vector<std::string> recipes, overrides;
  std::string device = "cpu";
  int64_t position = -1, batch = 1, longest = int64_t{1} << 18;
  int steps = 0;  // 0: as many as fill kRowSeconds
  bool lengths = false, json = false;
};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// ---- memory bandwidth ---------------------------------------------------------------------------

uint64_t sum_words(const uint64_t* words, int64_t count) {
  uint64_t sums[32] = {};
  for (int64_t i = 0; i + 32 <= count; i += 32) {
    for (int64_t j = 0; j < 32; ++j) sums[j] += words[i + j];
  }
  return std::accumulate(sums, sums + 32, uint64_t{0});
}

class Bandwidth {
 public:
  virtual ~Bandwidth() = default;
  // Adds some rates in GB/s.
  virtual void measure(std::vector<double>& gb_s) const = 0;
};

// How fast all threads together read memory that no cache holds, slice by slice of some
// milliseconds, so that some of them are read while nobody else wants a core.
class HostBandwidth final : public Bandwidth {
 public:
  explicit HostBandwidth(const Executor& executor)
      : executor_(executor), memory_(allocate_large(kBytes)) {
    std::fill_n(words(), kBytes / 8, 1);
  }

  void measure(std::vector<double>& gb_s) const override {
    for (int64_t slice = 0; slice < kBytes / kSliceBytes; ++slice) {
      gb_s.push_back(read(words() + slice * kSliceBytes / 8));
    }
  }

 private:
  static constexpr int64_t kBytes = int64_t{1} << 30;  // more than caches hold
  static constexpr int64_t kSliceBytes = kBytes / 32, kTaskBytes = 1 << 18;

  uint64_t* words() const { return reinterpret_cast<uint64_t*>(memory_.get()); }

  double read(const uint64_t* slice) const {
    const Clock::time_point start = Clock::now();
    std::atomic<uint64_t> sum{0};
    run_tasks(executor_, kSliceBytes / kTaskBytes, [&](int64_t task, int) {
      sum += run_with_best<sum_words>(slice + task * kTaskBytes / 8, kTaskBytes / 8);
    });
    LACE_CHECK(sum == kSliceBytes / 8, "[bench] memory must hold what was written");
    return static_cast<double>(kSliceBytes) / seconds_since(start) * 1e-9;
  }

  const Executor& executor_;
  std::shared_ptr<std::byte> memory_;
};

// How fast a GPU copies within its memory: bytes read and bytes written.
class GpuBandwidth final : public Bandwidth {
 public:
  explicit GpuBandwidth(c10::Device device)
      : device_(device),
        memory_(at::zeros({2, kBytes}, at::TensorOptions(at::kByte).device(device))) {}

  void measure(std::vector<double>& gb_s) const override {
    const auto stream = c10::impl::VirtualGuardImpl(device_.type()).getStream(device_);
    for (int i = 0; i <= kCopies; ++i) {
      stream.synchronize();
      const Clock::time_point start = Clock::now();
      memory_[0].copy_(memory_[1]);
      stream.synchronize();
      if (i == 0) continue;  // the first warms up
      gb_s.push_back(2.0 * static_cast<double>(kBytes) / seconds_since(start) * 1e-9);
    }
  }

 private:
  static constexpr int64_t kBytes = int64_t{1} << 30;
  static constexpr int kCopies = 8;

  c10::Device device_;
  at::Tensor memory_;
};

std::unique_ptr<Bandwidth> bandwidth_of(c10::Device device) {
  if (device.is_cpu()) return std::make_unique<HostBandwidth>(ops::current_executor());
  return std::make_unique<GpuBandwidth>(device);
}

// ---- one row ------------------------------------------------------------------------------------

struct Row {
  int64_t position = 0;  // before the first timed step
  std::vector<double> times_ms, gb_s;
  model::DecodeCost cost;
  int64_t cache_bytes = 0;

  double bound_ms(double rate_gb_s) const {
    return static_cast<double>(cost.weight_bytes + cost.cache_bytes) / rate_gb_s * 1e-6;
  }
};

// Draws bytes of `batch` sequences behind `position` symbols, caches filled at random.
Row time_decoding(const SparseTransformer& model, int64_t position, const Options& options,
                  const Bandwidth& bandwidth) {
  const auto state = model::decoding_at(model, options.batch, position);
  at::Tensor tokens = at::zeros({options.batch, 1}, at::kByte);
  const auto draw_one = [&](int64_t i) {
    const at::Tensor logits = model.decode(*state, tokens);
    for (int64_t b = 0; b < options.batch; ++b) {
      const std::span row(logits.const_data_ptr<float>() + b * logits.size(1),
                          static_cast<size_t>(logits.size(1)));
      const double unit =
          random_unit(random_bits(1, static_cast<uint64_t>(b), static_cast<uint64_t>(i)));
      tokens.mutable_data_ptr<uint8_t>()[b] =
          static_cast<uint8_t>(generate::draw(row, SampleOptions{}, unit));
    }
  };
  Row row;
  row.position = position + kWarmUp;
  const int64_t room = model.config().seq_len - 1 - position - kWarmUp;
  const int64_t steps = std::min<int64_t>(room, options.steps > 0 ? options.steps : room);
  LACE_CHECK(steps > 0, "[bench] position must leave room for ", kWarmUp,
             " symbols of warm-up and some more below seq_len (", model.config().seq_len, "), got ",
             position);
  bandwidth.measure(row.gb_s);
  for (int64_t i = 0; i < kWarmUp; ++i) draw_one(i);
  const Clock::time_point start = Clock::now();
  for (int64_t i = 0; i < steps; ++i) {
    const Clock::time_point step_start = Clock::now();
    draw_one(kWarmUp + i);
    row.times_ms.push_back(seconds_since(step_start) * 1e3);
    if (options.steps == 0 && i + 1 >= kLeastSteps && seconds_since(start) > kRowSeconds) break;
  }
  bandwidth.measure(row.gb_s);
  row.cost = model::decode_cost(*state);
  row.cache_bytes = state->cache_bytes();
  return row;
}

Json rates(const Row& row, double time_ms, double gb_s) {
  return {{"time_ms", rounded(time_ms)},
          {"bandwidth_gb_s", rounded(gb_s)},
          {"bound_ms", rounded(row.bound_ms(gb_s))},
          {"share_of_bound", rounded(row.bound_ms(gb_s) / time_ms)}};
}

Json figures(const Row& row) {
  Json json = {{"position", row.position},
               {"steps", row.times_ms.size()},
               {"weight_bytes", row.cost.weight_bytes},
               {"cache_read_bytes", row.cost.cache_bytes},
               {"cache_bytes", row.cache_bytes},
               {"spread_ms", rounded(spread(row.times_ms))}};
  json.update(rates(row, median(row.times_ms), median(row.gb_s)));
  json["fastest"] = rates(row, *std::min_element(row.times_ms.begin(), row.times_ms.end()),
                          *std::max_element(row.gb_s.begin(), row.gb_s.end()));
  return json;
}

// ---- recipes' models ----------------------------------------------------------------------------

Json recipe_row(const std::string& path, const Options& options, const Bandwidth& bandwidth) {
  const ModelConfig config = load_recipe(path, options.overrides).model;
  LACE_CHECK(config.precision != Precision::kFloat64, "[bench] precision must not be fp64");
  const SparseTransformer model(config, find_device(options.device));
  const int64_t position = options.position >= 0 ? options.position : config.seq_len / 2;
  Json json = {{"recipe", path},
               {"parameters", parameter_count(config)},
               {"batch", options.batch},
               {"model", model_json(config)}};
  json.update(figures(time_decoding(model, position, options, bandwidth)));
  return json;
}

// ---- over the length ----------------------------------------------------------------------------

struct Sweep {
  const char* name;
  const char* pattern;
};
constexpr Sweep kSweeps[] = {{"dense", "dense"},
                             {"fixed", "fixed(128, 32, 4)"},
                             {"strided", "local(128) | strided(128)"},
                             {"local", "local(128)"}};
constexpr int64_t kShortest = 1024, kRoom = 64;

ModelConfig sweep_config(const Sweep& sweep, int64_t longest) {
  ModelConfig config;
  config.seq_len = longest + kRoom;
  config.layers = 8;
  config.d_model = 512;
  config.heads = 8;
  config.patterns = {sweep.pattern};
  config.positions = PositionKind::kRotary;
  config.precision = Precision::kBFloat16;
  return config;
}

void add_sweep(const Sweep& sweep, const Options& options, const Bandwidth& bandwidth, Json& rows) {
  const ModelConfig config = sweep_config(sweep, options.longest);
  const SparseTransformer model(config, find_device(options.device));
  for (int64_t n = kShortest; n <= options.longest; n *= 2) {
    Options here = options;
    here.steps = options.steps > 0 ? std::min<int>(options.steps, kRoom) : 16;
    Json row = {{"name", concat(sweep.name, "-", n)},
                {"pattern", sweep.pattern},
                {"n", n},
                {"batch", options.batch}};
    row.update(figures(time_decoding(model, n - 1 - kWarmUp, here, bandwidth)));
    rows.push_back(row);
  }
}

// ---- reports ------------------------------------------------------------------------------------

void print(const Json& report) {
  Table table({"model", "position", "ms/step", "± ms", "weights, MB", "rows read, MB", "cache, MB",
               "memory, GB/s", "bound, ms", "of bound", "fastest, ms", "of its bound"});
  const auto number = [](const Json& row, const char* key, double factor = 1) {
    return format_number(row[key].get<double>() * factor);
  };
  for (const Json& row : report["rows"]) {
    table.add({row[row.contains("recipe") ? "recipe" : "name"],
               format_count(row["position"].get<int64_t>()), number(row, "time_ms"),
               number(row, "spread_ms"), number(row, "weight_bytes", 1e-6),
               number(row, "cache_read_bytes", 1e-6), number(row, "cache_bytes", 1e-6),
               number(row, "bandwidth_gb_s"), number(row, "bound_ms"),
               number(row, "share_of_bound", 100) + "%", number(row["fastest"], "time_ms"),
               number(row["fastest"], "share_of_bound", 100) + "%"});
  }
  std::cout
      << table.to_string() << "A step draws a byte of "
      << (report["batch"] == 1 ? "one sequence"
                               : concat("each of ", report["batch"].dump(), " sequences"))
      << "; "
      << (report.contains("gpu") ? report["gpu"].get<std::string>()
                                 : concat(report["threads"].get<int>(), " threads"))
      << ", " << report["kernel"].get<std::string>()
      << ". The bound reads weights and live rows of the caches once at GB/s, a median as "
         "ms; on a machine that others use too, the fastest step beside the fastest read says "
         "more\n";
  std::cout << "position: bytes before it; ms/step: median, ± the distance of the quartiles; rows "
               "read: live ones, of all that caches hold; of bound: bound over ms/step, above 100% "
               "where caches of the processor keep some of it; of its bound: the same of the "
               "fastest\n";
}

void bench_decode(const Options& options) {
  if (options.lengths && (!options.recipes.empty() || options.position >= 0)) {
    throw CLI::ValidationError("--lengths", "has models and positions of its own");
  }
  const std::vector<std::string> recipes =
      options.recipes.empty()
          ? std::vector<std::string>{"recipes/demo.toml", "recipes/byte_lm_rotary.toml",
                                     "recipes/enwik8.toml"}
          : options.recipes;
  const ops::OwnThreads threads;
  const c10::Device device = find_device(options.device);
  const std::unique_ptr<Bandwidth> bandwidth = bandwidth_of(device);
  Json rows = Json::array();
  const auto total = static_cast<int64_t>(options.lengths ? std::size(kSweeps) : recipes.size());
  {
    ProgressBar bar("bench", total);
    for (int64_t i = 0; i < total; ++i) {
      const auto at = static_cast<size_t>(i);
      bar.update(i, options.lengths ? kSweeps[at].name : recipes[at]);
      if (options.lengths) {
        add_sweep(kSweeps[at], options, *bandwidth, rows);
      } else {
        rows.push_back(recipe_row(recipes[at], options, *bandwidth));
      }
    }
  }
  const Processor processor = this_processor();
  Json report = {{"benchmark", options.lengths ? "decode_lengths" : "decode"},
                 {"version", version()},
                 {"commit", commit()},
                 {"libtorch", TORCH_VERSION},
                 {"processor", processor.name},
                 {"features", processor.features},
                 {"threads", ops::current_executor().num_threads()}};
  if (!device.is_cpu()) report["gpu"] = gpu_name(device);
  report["kernel"] = device.is_cpu() ? decode_kernels().name : gpu_decode_name();
  report["batch"] = options.batch;
  report["rows"] = rows;
  if (options.json) {
    print_json(report);
  } else {
    print(report);
  }
}

}  // namespace

void add_bench_decode(CLI::App& bench) {
  auto options = std::make_shared<Options>();
  CLI::App* decode = bench.add_subcommand(
      "decode", "Drawing a byte from recipes' models, or over the length with --lengths");
  decode
      ->add_option("recipes", options->recipes,
                   "Recipes' files; default: demo, byte_lm_rotary and enwik8 in recipes/")
      ->transform(path())
      ->check(CLI::ExistingFile);
  add_set(*decode, options->overrides);
  decode
      ->add_option("--position", options->position,
                   "Bytes that there are before; default: half of what the model takes")
      ->transform(whole_number(0));
  decode->add_option("--batch", options->batch, "Sequences at once")
      ->transform(whole_number(1, 4096))
      ->capture_default_str();
  decode->add_option("--steps", options->steps, "Timed steps a row; default: 1.5 seconds of them")
      ->transform(whole_number(1, 1 << 20));
  decode->add_flag("--lengths", options->lengths,
                   "8 layers of width 512, dense, fixed, strided and local, from 1,024 bytes on");
  decode->add_option("--longest", options->longest, "Where --lengths ends")
      ->transform(whole_number(kShortest, int64_t{1} << 24))
      ->capture_default_str();
  decode->add_flag("--json", options->json, "Print JSON");
  add_device(*decode, options->device, "Where to decode");
  add_threads(*decode, 2);
  decode->footer(examples({"lace bench decode", "lace bench decode recipes/demo.toml --batch 64",
                           "lace bench decode recipes/enwik8.toml --device cuda --position 4096",
                           "lace bench decode --lengths --longest 32768 --json > decode.json"}));
  decode->callback([options] { bench_decode(*options); });
}

}  // namespace lace::cli
