// lace bench products: the matrix products of a model's linear layers on a GPU, and those that
// quick-GELU or its gradient is fused into.

#include "bench_products.h"

#include <cmath>
#include <iostream>
#include <memory>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <nlohmann/json.hpp>
#include <torch/version.h>

#include "lace/device.h"
#include "lace/error.h"
#include "lace/recipe.h"
#include "lace/version.h"

#include "arguments.h"
#include "bench_cuda_time.h"
#include "bench_rounds.h"
#include "commands.h"
#include "kernels/products/products.h"
#include "ops/torch_context.h"
#include "output.h"
#include "terminal.h"

namespace lace::cli {

namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string recipe, device = "cpu", dtype = "bfloat16";
  std::vector<std::string> overrides;
  int64_t rows = 0, d_model = 512, ff = 0;  // 0: the recipe's, or the default
  int rounds = 9;
  bool json = false;
};

struct Layer {
  std::string name;
  int64_t in, out;
};

// What is multiplied.
struct Shapes {
  int64_t rows, d_model, ff;
  std::vector<Layer> layers;
};

Shapes shapes_of(int64_t rows, int64_t d_model, int64_t qkv, int64_t v_dim, int64_t ff) {
  return {rows,
          d_model,
          ff,
          {{"qkv", d_model, qkv},
           {"proj", v_dim, d_model},
           {"ff1", d_model, ff},
           {"ff2", ff, d_model}}};
}

Shapes shapes_of(const Options& options) {
  if (options.recipe.empty()) {
    constexpr int64_t kRows = 4 * 12288;
    return shapes_of(options.rows > 0 ? options.rows : kRows, options.d_model, 3 * options.d_model,
                     options.d_model, options.ff > 0 ? options.ff : 4 * options.d_model);
  }
  const Recipe recipe = load_recipe(options.recipe, options.overrides);
  const ModelConfig& model = recipe.model;
  return shapes_of(options.rows > 0 ? options.rows : recipe.train.batch * model.seq_len,
                   model.d_model, model.qkv_width(), model.v_dim_or_default(), model.ff_width());
}

// Random numbers of the operands of one layer, and where its results go.
struct Operands {
  at::Tensor x, weight, bias, dy;
  at::Tensor y, dx, dweight;

  Operands(const Layer& layer, int64_t rows, const at::TensorOptions& options)
      : x(at::randn({rows, layer.in}, options)),
        weight(at::randn({layer.out, layer.in}, options) /
               std::sqrt(static_cast<double>(layer.in))),
        bias(at::randn({layer.out}, options)),
        dy(at::randn({rows, layer.out}, options)),
        y(at::empty_like(dy)),
        dx(at::empty_like(x)),
        dweight(at::empty({layer.out, layer.in}, options.dtype(at::kFloat))) {}
};

class Bench {
 public:
  Bench(const Options& options, c10::Device device)
      : options_(options),
        device_(device),
        shapes_(shapes_of(options)),
        tensors_(at::device(device).dtype(options.dtype == "float16" ? at::kHalf : at::kBFloat16)) {
    at::globalContext().lazyInitDevice(device.type());
    at::manual_seed(1);
    matmul_ = gpu_matmul_tflops(device);
    release_gpu_memory();
  }

  Json run() {
    Json report = {{"benchmark", "products"},  {"version", version()},
                   {"commit", commit()},       {"libtorch", TORCH_VERSION},
                   {"gpu", gpu_name(device_)}, {"matmul_tflops", rounded(matmul_)},
                   {"dtype", options_.dtype},  {"rounds", options_.rounds},
                   {"rows", shapes_.rows},     {"d_model", shapes_.d_model},
                   {"ff", shapes_.ff},         {"products", Json::array()},
                   {"gelu", Json::array()}};
    ProgressBar bar("bench", static_cast<int64_t>(shapes_.layers.size()) + 2);
    int64_t done = 0;
    for (const Layer& layer : shapes_.layers) {
      bar.update(done++, layer.name);
      add_products(report["products"], layer);
    }
    bar.update(done++, "ff1 with GELU");
    report["gelu"].push_back(linear_gelu(shapes_.layers[2]));
    bar.update(done, "ff2 with GELU's gradient");
    report["gelu"].push_back(grad_input_gelu(shapes_.layers[3]));
    return report;
  }

 private:
  const Products& table() const { return *products(Device::kCuda); }
  // In a deterministic context the library's first algorithm is taken, else the fastest.
  Context context(bool deterministic) const {
    return ops::make_torch_context(device_, deterministic);
  }
  LinearShape shape(const Layer& layer) const {
    return {shapes_.rows, layer.in, layer.out,
            options_.dtype == "float16" ? DType::kFloat16 : DType::kBFloat16};
  }

  Json shape_json(const Layer& layer, const char* direction) const {
    return {{"layer", layer.name},
            {"direction", direction},
            {"rows", shapes_.rows},
            {"in", layer.in},
            {"out", layer.out}};
  }
  Json time_json(const Layer& layer, const GpuContender& contender) const {
    const double ms = median(contender.samples_ms);
    const double tflops = 2 * static_cast<double>(shapes_.rows) * static_cast<double>(layer.in) *
                          static_cast<double>(layer.out) / ms * 1e-9;
    return {{"time_ms", rounded(ms)},
            {"spread_ms", rounded(spread(contender.samples_ms))},
            {"tflops", rounded(tflops)},
            {"share_of_matmul", rounded(tflops / matmul_)}};
  }

  // `run` with a context.
  Json product_row(const Layer& layer, const char* direction,
                   const std::function<void(const Context&)>& run) const {
    std::vector<GpuContender> contenders;
    for (const bool first : {true, false}) {
      contenders.push_back({[this, &run, first] { run(context(first)); }, {}});
    }
    time_on_gpu(device_, contenders, options_.rounds);
    Json row = shape_json(layer, direction);
    row["first"] = time_json(layer, contenders[0]);
    row["fastest"] = time_json(layer, contenders[1]);
    return row;
  }

  void add_products(Json& rows, const Layer& layer) const {
    const Operands o(layer, shapes_.rows, tensors_);
    const LinearShape s = shape(layer);
    rows.push_back(product_row(layer, "forward", [&](const Context& context) {
      table().linear(context, {s, o.x.const_data_ptr(), o.weight.const_data_ptr(),
                               o.bias.const_data_ptr(), o.y.mutable_data_ptr()});
    }));
    rows.push_back(product_row(layer, "input gradient", [&](const Context& context) {
      table().grad_input(
          context, {s, o.dy.const_data_ptr(), o.weight.const_data_ptr(), o.dx.mutable_data_ptr()});
    }));
    rows.push_back(product_row(layer, "weight gradient", [&](const Context& context) {
      table().grad_weight(context, {s, o.dy.const_data_ptr(), o.x.const_data_ptr(),
                                    o.dweight.mutable_data_ptr<float>(), false});
    }));
  }

  // `run` with a way.
  Json gelu_row(const Layer& layer, const char* direction, const LinearShape& gelu_shape,
                const std::function<void(int way)>& run) const {
    std::vector<GpuContender> contenders;
    std::vector<std::string> reasons;
    for (int way = 0; way < static_cast<int>(table().gelu_ways.size()); ++way) {
      reasons.push_back(table().no_gelu_way(way, gelu_shape));
      if (reasons.back().empty()) contenders.push_back({[&run, way] { run(way); }, {}});
    }
    time_on_gpu(device_, contenders, options_.rounds);
    Json row = shape_json(layer, direction);
    row["ways"] = Json::array();
    auto contender = contenders.begin();
    for (size_t way = 0; way < reasons.size(); ++way) {
      Json json = {{"way", table().gelu_ways[way]}, {"reason", nullptr}};
      if (reasons[way].empty()) {
        json.update(time_json(layer, *contender++));
      } else {
        json["reason"] = reasons[way];
      }
      row["ways"].push_back(json);
    }
    return row;
  }

  Json linear_gelu(const Layer& layer) const {
    const Operands o(layer, shapes_.rows, tensors_);
    const at::Tensor u = at::empty_like(o.y);
    const LinearShape s = shape(layer);
    return gelu_row(layer, "forward", s, [&](int way) {
      table().linear_gelu(context(false), {s, o.x.const_data_ptr(), o.weight.const_data_ptr(),
                                           o.bias.const_data_ptr(), u.mutable_data_ptr(),
                                           o.y.mutable_data_ptr(), way});
    });
  }

  Json grad_input_gelu(const Layer& layer) const {
    const Operands o(layer, shapes_.rows, tensors_);
    const at::Tensor sum = at::empty({layer.in}, tensors_.dtype(at::kFloat));
    const LinearShape s = shape(layer);
    return gelu_row(layer, "input gradient", s, [&](int way) {
      table().grad_input_gelu(context(false), {s,
                                               o.dy.const_data_ptr(),
                                               o.weight.const_data_ptr(),
                                               o.x.const_data_ptr(),
                                               o.dx.mutable_data_ptr(),
                                               {sum.mutable_data_ptr(), false},
                                               way});
    });
  }

  const Options& options_;
  c10::Device device_;
  Shapes shapes_;
  at::TensorOptions tensors_;
  double matmul_ = 0;
};

std::string text_of(const Json& time, const char* key, double factor = 1) {
  return time.contains(key) ? format_number(factor * time[key].get<double>()) : "–";
}

std::string share_of(const Json& time) {
  return time.contains("share_of_matmul") ? text_of(time, "share_of_matmul", 100) + "%" : "–";
}

void print(const Json& report) {
  std::cout << report["gpu"].get<std::string>() << ": matrix product of 8192 "
            << text_of(report, "matmul_tflops") << " TFLOP/s bf16; "
            << report["rows"].get<int64_t>() << " rows, " << report["dtype"].get<std::string>()
            << "\n";
  const auto size = [](const Json& row) {
    return concat(row["in"].get<int64_t>(), " × ", row["out"].get<int64_t>());
  };
  Table plain(
      {"layer", "direction", "in × out", "first ms", "fastest ms", "±", "TFLOP/s", "of matmul"});
  for (const Json& row : report["products"]) {
    const Json& fastest = row["fastest"];
    plain.add({row["layer"], row["direction"], size(row), text_of(row["first"], "time_ms"),
               text_of(fastest, "time_ms"), text_of(fastest, "spread_ms"),
               text_of(fastest, "tflops"), share_of(fastest)});
  }
  Table gelu({"layer", "direction", "with GELU", "ms", "±", "TFLOP/s", "of matmul"});
  for (const Json& row : report["gelu"]) {
    for (const Json& way : row["ways"]) {
      gelu.add({row["layer"], row["direction"], way["way"], text_of(way, "time_ms"),
                text_of(way, "spread_ms"), text_of(way, "tflops"), share_of(way)});
      if (way["reason"].is_string()) {
        std::cerr << way["way"].get<std::string>() << ": " << way["reason"].get<std::string>()
                  << "\n";
      }
    }
  }
  std::cout << plain.to_string() << gelu.to_string()
            << "first: the algorithm that cuBLASLt proposes first; fastest: the one that training "
               "takes; of matmul: over the rate of the product of 8192\n";
}

void bench_products(const Options& options) {
  const c10::Device device = find_device(options.device);
  if (device.is_cpu()) throw CLI::ValidationError("products", "needs --device cuda");
  const Json report = Bench(options, device).run();
  if (options.json) {
    print_json(report);
  } else {
    print(report);
  }
}

}  // namespace

void add_bench_products(CLI::App& bench) {
  auto options = std::make_shared<Options>();
  CLI::App* products = bench.add_subcommand(
      "products",
      "On a GPU: the matrix products of a model's linear layers, with and without GELU");
  CLI::Option* recipe =
      products
          ->add_option("recipe", options->recipe,
                       "A recipe's file, whose micro-batches they are (default: Enwik8's widths)")
          ->transform(path())
          ->check(CLI::ExistingFile);
  add_set(*products, options->overrides)->needs(recipe);
  products->add_option("--rows", options->rows, "Rows of the activations (without a recipe: 49152)")
      ->transform(whole_number(1, int64_t{1} << 30));
  products->add_option("--d-model", options->d_model, "Width of the model")
      ->capture_default_str()
      ->transform(whole_number(1, 65536))
      ->excludes(recipe);
  products->add_option("--ff", options->ff, "Width of the feed-forward (default: 4 times d-model)")
      ->transform(whole_number(1, int64_t{1} << 20))
      ->excludes(recipe);
  products->add_option("--dtype", options->dtype, "What is multiplied")
      ->capture_default_str()
      ->check(CLI::IsMember({"bfloat16", "float16"}));
  products->add_option("--rounds", options->rounds, "Samples of each contender")
      ->capture_default_str()
      ->transform(whole_number(1, 1000));
  products->add_flag("--json", options->json, "Print JSON");
  add_device(*products, options->device, "Where to multiply");
  products->footer(examples({
      "lace bench products --device cuda",
      "lace bench products recipes/cifar10.toml --device cuda --set train.batch=16 --json",
      "lace bench products --device cuda --rows 32768 --d-model 768",
  }));
  products->callback([options] { bench_products(*options); });
}

}  // namespace lace::cli
