// lace bench: `attention` here, against libtorch's and the processor's peaks; `step`, `products`
// and `decode` in files of their own.

#include <iostream>
#include <memory>

#include <nlohmann/json.hpp>
#include <torch/version.h>

#include "lace/error.h"
#include "lace/pattern.h"
#include "lace/version.h"

#include "arguments.h"
#include "bench_attention.h"
#include "bench_cuda.h"
#include "bench_decode.h"
#include "bench_products.h"
#include "bench_step.h"
#include "commands.h"
#include "core/processor.h"
#include "ops/torch_context.h"
#include "output.h"
#include "terminal.h"

namespace lace::cli {

namespace {

using Json = nlohmann::ordered_json;

struct BenchOptions {
  std::vector<std::string> rows;
  std::string pattern, dtype, direction, device = "cpu";
  int64_t seq_len = 0;
  int64_t heads = 8;
  int64_t head_dim = 64;
  int rounds = 7;
  bool million = false;
  bool no_peer = false;
  bool list = false;
  bool json = false;
};

std::vector<Direction> directions(const BenchOptions& options) {
  std::vector<Direction> both = {Direction::kForward, Direction::kForwardBackward};
  if (!options.direction.empty()) {
    std::erase_if(both, [&](Direction d) { return name(d) != options.direction; });
  }
  return both;
}

// The rows of --pattern.
std::vector<AttentionCase> own_cases(const BenchOptions& options) {
  std::vector<AttentionCase> cases;
  for (const Direction direction : directions(options)) {
    AttentionCase c;
    c.pattern = given_pattern(options.pattern).to_string();
    c.dtype = options.dtype == "bfloat16" ? DType::kBFloat16 : DType::kFloat32;
    c.seq_len = options.seq_len > 0 ? options.seq_len : 4096;
    c.heads = options.heads;
    c.head_dim = options.head_dim;
    c.direction = direction;
    c.peer = !options.no_peer;
    c.name = concat(c.pattern, "-", lace::name(c.dtype), "-", c.seq_len, "-", name(direction));
    cases.push_back(c);
  }
  return cases;
}

// The rows of the table that the options leave.
std::vector<AttentionCase> table_cases(const BenchOptions& options) {
  std::vector<AttentionCase> cases = attention_table();
  std::erase_if(cases, [&](const AttentionCase& c) {
    return !asks_for(options.rows, c.name) || (c.memory_row && !options.million && !options.list) ||
           (!options.dtype.empty() && lace::name(c.dtype) != options.dtype) ||
           (options.seq_len > 0 && c.seq_len != options.seq_len) ||
           (!options.direction.empty() && name(c.direction) != options.direction);
  });
  for (AttentionCase& c : cases) c.peer = c.peer && !options.no_peer;
  return cases;
}

Json or_null(const std::optional<double>& value) { return value ? Json(*value) : Json(); }

Json row_json(const AttentionResult& r) {
  const AttentionCase& c = r.attention_case;
  auto over = [&](const std::optional<double>& whole) -> Json {
    return whole ? Json(rounded(r.gflops_live / *whole)) : Json();
  };
  return {
      {"name", c.name},
      {"pattern", c.pattern},
      {"dtype", lace::name(c.dtype)},
      {"seq_len", c.seq_len},
      {"heads", c.heads},
      {"head_dim", c.head_dim},
      {"direction", name(c.direction)},
      {"kernel", r.kernel},
      {"time_ms", rounded(r.time_ms)},
      {"spread_ms", rounded(r.spread_ms)},
      {"gflops_live", rounded(r.gflops_live)},
      {"peak_gflops", or_null(r.peak_gflops)},
      {"share_of_peak", over(r.peak_gflops)},
      {"peer", r.peer_ms ? Json("libtorch scaled_dot_product_attention, dense causal") : Json()},
      {"peer_ms", or_null(r.peer_ms)},
      {"ratio", r.peer_ms ? Json(rounded(*r.peer_ms / r.time_ms)) : Json()},
      {"dense_gflops", or_null(r.dense_gflops)},
      {"share_of_dense", over(r.dense_gflops)},
      {"extra_memory_mb", or_null(r.extra_memory_mb)},
      {"rounds", r.rounds.rounds},
      {"repeated", r.rounds.repeated},
      {"contradicted", r.rounds.contradicted}};
}

Json report_json(const std::vector<AttentionResult>& results) {
  const Processor processor = this_processor();
  Json rows = Json::array();
  for (const AttentionResult& result : results) rows.push_back(row_json(result));
  return {{"benchmark", "attention"},
          {"version", version()},
          {"commit", commit()},
          {"libtorch", TORCH_VERSION},
          {"processor", processor.name},
          {"features", processor.features},
          {"threads", ops::torch_executor().num_threads()},
          {"rows", rows}};
}

std::string percent(const std::optional<double>& whole, double part) {
  return whole ? format_number(100 * part / *whole) + "%" : "–";
}

void print(const std::vector<AttentionResult>& results) {
  Table table(
      {"row", "kernel", "ms", "±", "GFLOP/s", "of peak", "libtorch ms", "ratio", "of own dense"});
  for (const AttentionResult& r : results) {
    table.add({r.attention_case.name, r.kernel, format_number(r.time_ms),
               format_number(r.spread_ms), format_number(r.gflops_live),
               percent(r.peak_gflops, r.gflops_live), r.peer_ms ? format_number(*r.peer_ms) : "–",
               r.peer_ms ? format_number(*r.peer_ms / r.time_ms) + "×" : "–",
               percent(r.dense_gflops, r.gflops_live)});
  }
  std::cout << table.to_string();
  int contradicted = 0;
  for (const AttentionResult& r : results) {
    contradicted += r.rounds.contradicted;
    if (r.extra_memory_mb) {
      std::cout << r.attention_case.name << ": " << format_number(*r.extra_memory_mb)
                << " MB beyond inputs and results\n";
    }
  }
  std::cout << "GFLOP/s count live pairs; libtorch computes dense causal attention; "
            << ops::torch_executor().num_threads() << " threads\n";
  if (contradicted > 0) {
    std::cout << colored(concat("The machine was not quiet during ", contradicted, " samples.\n"),
                         Color::kYellow);
  }
}

void bench_cuda(const BenchOptions& options) {
  if (!options.pattern.empty() || !options.dtype.empty() || options.seq_len > 0) {
    throw CLI::ValidationError("--device",
                               "cuda has a table of its own: no --pattern, --dtype, --seq-len");
  }
  bench_attention_cuda({options.rows, options.direction, options.rounds, options.million,
                        options.no_peer, options.list, options.json});
}

void bench(const BenchOptions& options) {
  if (options.device == "cuda") return bench_cuda(options);
  if (!options.pattern.empty() && (!options.rows.empty() || options.million)) {
    throw CLI::ValidationError("--pattern", "chooses rows of its own: not with --rows, --million");
  }
  const std::vector<AttentionCase> cases =
      options.pattern.empty() ? table_cases(options) : own_cases(options);
  if (cases.empty()) {
    throw CLI::ValidationError("bench attention",
                               "no row of the table has all that was asked for "
                               "(--list names them; --pattern times one of your own)");
  }
  if (options.list) {
    for (const AttentionCase& c : cases) std::cout << c.name << "\n";
    return;
  }
  std::vector<AttentionResult> results;
  {
    ProgressBar bar("bench", static_cast<int64_t>(cases.size()) * 1000);
    for (size_t i = 0; i < cases.size(); ++i) {
      results.push_back(bench_attention(
          cases[i], options.rounds, [&](int64_t done, int64_t total, const std::string& contender) {
            bar.update(static_cast<int64_t>(i) * 1000 + 1000 * done / total,
                       cases[i].name + ", " + contender);
          }));
    }
  }
  if (options.json) {
    print_json(report_json(results));
  } else {
    print(results);
  }
}

void add_bench(CLI::App& app) {
  CLI::App* command = app.add_subcommand("bench", "Times lace against libtorch and the processor");
  command->require_subcommand(1);
  command->footer(
      examples({"lace bench attention --rows dense-float32-4096 --json > attention.json",
                "lace bench step recipes/demo.toml", "lace bench decode",
                "lace bench products --device cuda"}));
  auto options = std::make_shared<BenchOptions>();
  CLI::App* attention = command->add_subcommand(
      "attention", "Attention, forward and with backward: a table of cases, or --pattern's");
  attention
      ->add_option("--device", options->device,
                   "cuda: a table of its own, beside cuDNN and FlashAttention-2")
      ->capture_default_str()
      ->check(CLI::IsMember({"cpu", "cuda"}));
  attention->add_option("--rows", options->rows, "Only rows of the table whose name has this text")
      ->type_name("TEXT");
  attention->add_option("--pattern", options->pattern, "Time this pattern instead of the table");
  attention->add_option("--seq-len", options->seq_len, "Only this length (--pattern: default 4096)")
      ->transform(whole_number(1, int64_t{1} << 30));
  attention->add_option("--dtype", options->dtype, "Only this type (--pattern: default float32)")
      ->check(CLI::IsMember({"float32", "bfloat16"}));
  attention->add_option("--direction", options->direction, "Only this direction")
      ->check(CLI::IsMember({"forward", "forward+backward"}));
  attention->add_option("--heads", options->heads, "Heads of --pattern's rows")
      ->capture_default_str()
      ->transform(whole_number(1, 65536));
  attention->add_option("--head-dim", options->head_dim, "head_dim of --pattern's rows")
      ->capture_default_str()
      ->transform(whole_number(1, 65536));
  attention->add_option("--rounds", options->rounds, "Samples of each contender")
      ->capture_default_str()
      ->transform(whole_number(1, 1000));
  attention->add_flag("--million", options->million,
                      "The row of 1,048,576 tokens too, its memory measured");
  attention->add_flag("--no-peer", options->no_peer,
                      "Neither libtorch nor our own dense attention");
  attention->add_flag("--list", options->list, "Print the names of the rows and stop");
  attention->add_flag("--json", options->json, "Print JSON");
  add_threads(*attention, 2);
  attention->footer(examples({
      "lace bench attention --json > attention.json",
      "lace bench attention --rows dense-float32-4096 fixed",
      "lace bench attention --million --rows 1048576",
      "lace bench attention --device cuda --rows A-",
      "lace bench attention --pattern 'local(256) | sinks(4)' --seq-len 16384 --no-peer",
  }));
  attention->callback([options] { bench(*options); });
  add_bench_step(*command);
  add_bench_products(*command);
  add_bench_decode(*command);
}

const Command kBench(Order::kBench, add_bench);

}  // namespace

}  // namespace lace::cli
