#include "lace/attention_maps.h"

#include <algorithm>
#include <limits>
#include <set>

#include <ATen/ATen.h>

#include "lace/model.h"

#include "model/visit_attention.h"
#include "ops/torch_context.h"
#include "train/attention_weights.h"
#include "train/batch.h"

namespace lace {
namespace {

constexpr int64_t kMostSize = 512, kDefaultLayers = 4, kDefaultHeads = 4;

// `count` of [0, all), from the first to the last.
std::vector<int64_t> spread(int64_t count, int64_t all) {
  std::set<int64_t> numbers;
  for (int64_t i = 0; i < count; ++i)
    numbers.insert(count > 1 ? i * (all - 1) / (count - 1) : all - 1);
  return {numbers.begin(), numbers.end()};
}

void check_numbers(const char* what, const std::vector<int64_t>& numbers, int64_t end) {
  for (const int64_t number : numbers)
    LACE_CHECK(0 <= number && number < end, "[attention_maps] ", what, " must be in [0, ", end - 1,
               "], got ", number);
}

// Sorted, each once, and in their ranges; defaults filled in.
AttentionMapOptions checked(AttentionMapOptions options, const ModelConfig& config,
                            int64_t window) {
  const auto sort = [](std::vector<int64_t>& numbers) {
    std::sort(numbers.begin(), numbers.end());
    numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
  };
  check_numbers("layers", options.layers, config.layers);
  check_numbers("heads", options.heads, config.heads);
  check_numbers("queries", options.queries, window);
  if (options.layers.empty()) options.layers = spread(kDefaultLayers, config.layers);
  if (options.heads.empty())
    for (int64_t i = 0; i < std::min(kDefaultHeads, config.heads); ++i) options.heads.push_back(i);
  for (std::vector<int64_t>* numbers : {&options.layers, &options.heads, &options.queries})
    sort(*numbers);
  LACE_CHECK(0 <= options.size && options.size <= kMostSize,
             "[attention_maps] size must be in [0, ", kMostSize, "], got ", options.size);
  LACE_CHECK(options.size > 0 || !options.queries.empty(),
             "[attention_maps] there is nothing to map: size is 0 and there are no queries");
  LACE_CHECK(options.windows >= 1, "[attention_maps] windows must be at least 1, got ",
             options.windows);
  LACE_CHECK(options.batch >= 1, "[attention_maps] batch must be at least 1, got ", options.batch);
  options.size = std::min(options.size, window);
  return options;
}

// A head's pattern, bound, and its maps: the matrix, if there is one, then the queries.
class MappedHead {
 public:
  MappedHead(const BoundPattern& pattern, int64_t layer, int64_t head,
             const AttentionMapOptions& options)
      : pattern_(pattern), head_(head) {
    AttentionMap map;
    map.layer = layer;
    map.head = head;
    map.pattern = Pattern({{0, pattern.expr(head)}}, pattern.causal()).to_string();
    const auto add = [&](int64_t cells) {
      map.weights.assign(static_cast<size_t>(cells), std::numeric_limits<double>::quiet_NaN());
      maps_.push_back(map);
    };
    map.rows = map.columns = options.size;
    if (options.size > 0) add(options.size * options.size);
    map.rows = map.columns = 0;
    for (const int64_t query : options.queries) {
      map.query = query;
      add(query + 1);
    }
  }

  void add(const train::HeadRows& rows, const Executor& executor) {
    for (AttentionMap& map : maps_) {
      if (map.query >= 0) {
        add_query_weights(rows, pattern_, head_, map.query, map.weights);
      } else {
        add_weights(rows, pattern_, head_, map.rows, map.columns, executor, map.weights);
      }
    }
  }

  // The maps as means over so many windows.
  std::vector<AttentionMap> finish(int64_t windows) {
    for (AttentionMap& map : maps_) {
      for (size_t i = 0; i < map.weights.size(); ++i) {
        int64_t queries = windows;
        if (map.query < 0) {
          const int64_t row = static_cast<int64_t>(i) / map.columns;
          queries *= train::first_of_row(row + 1, map.rows, pattern_.k_len()) -
                     train::first_of_row(row, map.rows, pattern_.k_len());
        }
        map.weights[i] /= static_cast<double>(queries);
      }
    }
    return std::move(maps_);
  }

 private:
  BoundPattern pattern_;
  int64_t head_;
  std::vector<AttentionMap> maps_;
};

// One sequence of a batch, one head: [n, columns] or [n] as floats in the memory of the CPU.
at::Tensor rows_of(const at::Tensor& tensor, int64_t sequence, int64_t head) {
  return tensor[sequence][head].to(at::kCPU).to(at::kFloat).contiguous();
}

}  // namespace

int64_t map_window(int64_t seq_len, const DataSplit& split) {
  int64_t longest = 0;
  for (int64_t i = 0; i < split.pieces(); ++i)
    longest = std::max(longest, split.piece_end(i) - split.piece_begin(i));
  return std::min(seq_len, longest);
}

AttentionMaps attention_maps(const SparseTransformer& model, const DataSplit& split,
                             const AttentionMapOptions& given,
                             const std::function<void(int64_t, int64_t)>& on_layer) {
  const ModelConfig& config = model.config();
  const int64_t window = map_window(config.seq_len, split);
  LACE_CHECK(window > 0, "[attention_maps] there are no bytes to look at");
  const AttentionMapOptions options = checked(given, config, window);
  const std::vector<int64_t> begins = spread_windows(split, window, options.windows);
  std::vector<std::vector<MappedHead>> mapped;  // by layer, then head
  for (const int64_t layer : options.layers) {
    const Pattern pattern =
        Pattern::parse(config.patterns[static_cast<size_t>(layer) % config.patterns.size()]);
    const BoundPattern bound = pattern.bind(config.heads, window, window);
    mapped.emplace_back();
    for (const int64_t head : options.heads)
      mapped.back().emplace_back(bound, layer, head, options);
  }
  const ops::OwnThreads threads;
  const auto windows = static_cast<int64_t>(begins.size());
  const int64_t batches = (windows + options.batch - 1) / options.batch;
  int64_t done = 0;
  for (int64_t first = 0; first < windows; first += options.batch) {
    const auto from = begins.begin() + first;
    const int64_t count = std::min(options.batch, windows - first);
    const at::Tensor tokens =
        train::read_windows(split.bytes, {from, from + count}, window, model.device());
    size_t next = 0;  // of options.layers
    model::visit_attention(model, tokens, [&](const model::LayerAttention& attention) {
      if (attention.layer != options.layers[next]) return true;
      const int64_t members = attention.q.size(1) / attention.k.size(1);
      for (int64_t sequence = 0; sequence < count; ++sequence) {
        for (size_t i = 0; i < options.heads.size(); ++i) {
          const int64_t head = options.heads[i];
          const at::Tensor q = rows_of(attention.q, sequence, head),
                           k = rows_of(attention.k, sequence, head / members),
                           lse = rows_of(attention.lse, sequence, head);
          mapped[next][i].add({.q = q.const_data_ptr<float>(),
                               .k = k.const_data_ptr<float>(),
                               .lse = lse.const_data_ptr<float>(),
                               .n = window,
                               .head_dim = q.size(1),
                               .scale = static_cast<float>(attention.scale)},
                              ops::current_executor());
        }
      }
      ++next;
      if (on_layer) on_layer(++done, batches * static_cast<int64_t>(options.layers.size()));
      return next < options.layers.size();
    });
  }
  AttentionMaps maps{.window = window, .windows = windows};
  for (std::vector<MappedHead>& heads : mapped) {
    for (MappedHead& head : heads) {
      for (AttentionMap& map : head.finish(windows)) maps.maps.push_back(std::move(map));
    }
  }
  return maps;
}

}  // namespace lace
