// The kernel of decoding on emulated threads: random models, patterns, batches and GPUs against
// plain loops in float64 that round where the kernel does. Runs without a GPU.

#include <array>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <random>

#include <gtest/gtest.h>

#include "kernels/decode/cuda/machine.cuh"  // the emulated one, before all else
#include "kernels/decode/cuda/step.cuh"
#include "pattern/cache_slots.h"
#include "pattern/live_keys.h"
#include "pattern/random_patterns.h"
#include "pattern/retained.h"

namespace lace::cuda::decode {
namespace {

using testing::pick;

// Relative, of logits: where a float32 sum and a float64 one round to different neighbours in 8
// bits, later sums differ by a few of these.
constexpr double kTolerance = 1e-2;

// An array in an allocation of its own, NaN or −1 at first.
template <typename E>
class Array {
 public:
  explicit Array(int64_t count)
      : data_(static_cast<E*>(std::aligned_alloc(256, (bytes(count) + 255) / 256 * 256)),
              std::free) {
    std::memset(static_cast<void*>(data_.get()), 0xff, bytes(count));
  }
  E* data() const { return data_.get(); }
  E& operator[](int64_t i) const { return data_.get()[i]; }

 private:
  static size_t bytes(int64_t count) { return static_cast<size_t>(count) * sizeof(E); }
  std::unique_ptr<E, void (*)(void*)> data_;
};

using Numbers64 = std::vector<double>;

template <typename T>
double rounded(double x) {
  return elementwise::to_float(elementwise::from_float<T>(static_cast<float>(x)));
}

// Weights of a model, drawn at random.
template <typename T>
struct RandomModel {
  RandomModel(const DecodeShape& of_model, std::mt19937_64& generator)
      : shape(of_model), rng(generator) {
    const int64_t d = shape.d_model, heads = shape.heads * shape.v_dim;
    const int64_t width =
        (shape.heads + shape.kv_heads) * shape.qk_dim + shape.kv_heads * shape.v_dim;
    for (int64_t layer = 0; layer < shape.layers; ++layer) {
      blocks.push_back({wide(d, 1), wide(d, 0), half(width, d), half(width, 9), half(d, heads),
                        half(d, 9), wide(d, 1), wide(d, 0), half(shape.ff_width, d),
                        half(shape.ff_width, 9), half(d, shape.ff_width), half(d, 9)});
    }
    tables = {.blocks = blocks.data(),
              .caches = nullptr,
              .norm_weight = wide(d, 1),
              .norm_bias = wide(d, 0),
              .output_weight = wide(shape.vocab * d, 0),
              .tokens = wide(shape.vocab * d, 0),
              .start = wide(d, 0)};
    for (const float*& position : positions) position = wide(d, 0);
  }

  double normal() { return std::normal_distribution<double>()(rng); }
  // [rows, in], or with in = 9 a bias.
  const T* half(int64_t rows, int64_t in) {
    const int64_t count = in == 9 ? rows : rows * in;
    halves.emplace_back(count);
    for (int64_t i = 0; i < count; ++i) {
      halves.back()[i] = elementwise::from_float<T>(
          static_cast<float>(normal() / std::sqrt(static_cast<double>(in))));
    }
    return halves.back().data();
  }
  const float* wide(int64_t count, double mean) {
    wides.emplace_back(count);
    for (int64_t i = 0; i < count; ++i) {
      wides.back()[i] = static_cast<float>(mean + 0.5 * normal());
    }
    return wides.back().data();
  }

  DecodeShape shape;
  std::mt19937_64& rng;
  std::vector<Array<T>> halves;
  std::vector<Array<float>> wides;
  std::vector<DecodeBlock> blocks;
  GpuDecodeTables tables;
  std::array<const float*, kMaxDecodePositions> positions;
};

// What differs from position to position, the same for the kernel and for the reference.
struct Position {
  int64_t index = 0;
  std::vector<int64_t> tokens;  // empty at the start
  std::array<const float*, kMaxDecodePositions> rows = {};
  const float *cos = nullptr, *sin = nullptr;
};

// One sequence, symbol by symbol.
template <typename T>
class Reference {
 public:
  Reference(const RandomModel<T>& model, const std::vector<BoundPattern>& patterns)
      : model_(model),
        s_(model.shape),
        patterns_(patterns),
        keys_(static_cast<size_t>(s_.layers * s_.kv_heads)),
        values_(keys_.size()) {}

  Numbers64 logits(const Position& position, int64_t token) {
    Numbers64 x = embedded(position, token);
    for (int64_t layer = 0; layer < s_.layers; ++layer) {
      const DecodeBlock& w = model_.blocks[static_cast<size_t>(layer)];
      Numbers64 qkv = linear(rounded_all(normed(x, w.norm1_weight, w.norm1_bias, s_.block_eps)),
                             w.qkv_weight, w.qkv_bias);
      turn(position, qkv);
      add(x, linear(attention(layer, position.index, qkv), w.proj_weight, w.proj_bias));
      Numbers64 ff = linear(rounded_all(normed(x, w.norm2_weight, w.norm2_bias, s_.block_eps)),
                            w.ff1_weight, w.ff1_bias);
      for (double& e : ff) e = e / (1 + std::exp(-1.702 * e));
      add(x, linear(rounded_all(ff), w.ff2_weight, w.ff2_bias));
    }
    const Numbers64 y = normed(x, model_.tables.norm_weight, model_.tables.norm_bias, s_.final_eps);
    Numbers64 result(static_cast<size_t>(s_.vocab));
    for (size_t i = 0; i < result.size(); ++i) {
      for (size_t c = 0; c < y.size(); ++c) {
        result[i] += model_.tables.output_weight[i * y.size() + c] * y[c];
      }
    }
    return result;
  }

 private:
  Numbers64 embedded(const Position& position, int64_t token) const {
    Numbers64 x(static_cast<size_t>(s_.d_model));
    for (size_t c = 0; c < x.size(); ++c) {
      x[c] = token < 0 ? model_.tables.start[c]
                       : model_.tables.tokens[static_cast<size_t>(token) * x.size() + c];
      for (const float* row : position.rows) x[c] += row != nullptr ? row[c] : 0;
    }
    return x;
  }
  static Numbers64 rounded_all(Numbers64 x) {
    for (double& e : x) e = rounded<T>(e);
    return x;
  }
  static void add(Numbers64& x, const Numbers64& y) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }
  static Numbers64 normed(const Numbers64& x, const void* weight, const void* bias, double eps) {
    const auto n = static_cast<double>(x.size());
    double mean = 0, variance = 0;
    for (const double e : x) mean += e / n;
    for (const double e : x) variance += (e - mean) * (e - mean) / n;
    Numbers64 y(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      y[i] = (x[i] - mean) / std::sqrt(variance + eps) * static_cast<const float*>(weight)[i] +
             static_cast<const float*>(bias)[i];
    }
    return y;
  }
  // Rows as many as the array of `bias` has.
  Numbers64 linear(const Numbers64& x, const void* weight, const void* bias) const {
    Numbers64 y(rows_of(bias));
    for (size_t row = 0; row < y.size(); ++row) {
      y[row] = elementwise::to_float(static_cast<const T*>(bias)[row]);
      for (size_t c = 0; c < x.size(); ++c) {
        y[row] += elementwise::to_float(static_cast<const T*>(weight)[row * x.size() + c]) * x[c];
      }
    }
    return y;
  }
  size_t rows_of(const void* bias) const {
    for (const DecodeBlock& w : model_.blocks) {
      if (bias == w.ff1_bias) return static_cast<size_t>(s_.ff_width);
      if (bias == w.qkv_bias) {
        return static_cast<size_t>((s_.heads + s_.kv_heads) * s_.qk_dim + s_.kv_heads * s_.v_dim);
      }
    }
    return static_cast<size_t>(s_.d_model);
  }
  void turn(const Position& position, Numbers64& qkv) const {
    if (position.cos == nullptr) return;
    const auto dim = static_cast<size_t>(s_.qk_dim), half = dim / 2;
    for (size_t head = 0; head < static_cast<size_t>(s_.heads + s_.kv_heads); ++head) {
      for (size_t i = 0; i < half; ++i) {
        double &a = qkv[head * dim + i], &b = qkv[head * dim + half + i];
        const double from = a;
        a = from * position.cos[i] - b * position.sin[i];
        b = b * position.cos[i] + from * position.sin[i];
      }
    }
  }
  Numbers64 attention(int64_t layer, int64_t position, const Numbers64& qkv) {
    const auto qk = static_cast<size_t>(s_.qk_dim), dim = static_cast<size_t>(s_.v_dim);
    const auto heads = static_cast<size_t>(s_.heads), kv_heads = static_cast<size_t>(s_.kv_heads);
    const size_t first = static_cast<size_t>(layer) * kv_heads;
    for (size_t head = 0; head < kv_heads; ++head) {
      const auto key = qkv.begin() + static_cast<int64_t>((heads + head) * qk);
      const auto value = qkv.begin() + static_cast<int64_t>((heads + kv_heads) * qk + head * dim);
      keys_[first + head].resize(static_cast<size_t>(position));
      values_[first + head].resize(static_cast<size_t>(position));
      keys_[first + head].emplace_back(key, key + s_.qk_dim);
      values_[first + head].push_back(rounded_all(Numbers64(value, value + s_.v_dim)));
    }
    Numbers64 out(heads * dim);
    const BoundPattern& pattern = patterns_[static_cast<size_t>(layer) % patterns_.size()];
    for (size_t head = 0; head < heads; ++head) {
      const size_t cache = first + head / (heads / kv_heads);
      double total = 0;
      for (int64_t j = 0; j <= position; ++j) {
        if (!pattern.attends(static_cast<int64_t>(head), position, j)) continue;
        const auto at = static_cast<size_t>(j);
        double dot = 0;
        for (size_t c = 0; c < qk; ++c) dot += qkv[head * qk + c] * keys_[cache][at][c];
        const double weight = std::exp(dot / std::sqrt(static_cast<double>(qk)));
        total += weight;
        for (size_t c = 0; c < dim; ++c) out[head * dim + c] += weight * values_[cache][at][c];
      }
      for (size_t c = 0; c < dim && total > 0; ++c) out[head * dim + c] /= total;
    }
    return rounded_all(out);
  }

  const RandomModel<T>& model_;
  const DecodeShape& s_;
  const std::vector<BoundPattern>& patterns_;
  std::vector<std::vector<Numbers64>> keys_, values_;  // [layers · kv_heads][position]
};

template <typename T>
bool run(const StepParams& params, uint32_t seed) {
  const auto launch = [&](auto eights, auto aligned) {
    return emulation::launch(params.layout.blocks, kThreads,
                             static_cast<size_t>(params.layout.shared_bytes + 15) / 16 * 16, seed,
                             [&] { Step<T, eights(), aligned()>(params).run(); });
  };
  using Yes = std::true_type;
  if (!params.layout.aligned) return launch(std::integral_constant<int, 1>(), std::false_type());
  switch (params.layout.sequences) {
    case 8:
      return launch(std::integral_constant<int, 1>(), Yes());
    case 16:
      return launch(std::integral_constant<int, 2>(), Yes());
    case 32:
      return launch(std::integral_constant<int, 4>(), Yes());
    default:
      return launch(std::integral_constant<int, 8>(), Yes());
  }
}

struct Case {
  DecodeShape shape;
  int64_t batch = 1;
  Gpu gpu;
  bool rotary = false, far_words = false;
  int positions = 0;  // tables
  int steps = 4;
};

// The caches of a pattern's key heads.
std::vector<pattern::CacheSlots> cache_slots(const BoundPattern& bound, const DecodeShape& shape) {
  std::vector<pattern::CacheSlots> slots;
  const int64_t shared = shape.heads / shape.kv_heads;
  for (int64_t head = 0; head < shape.heads; head += shared) {
    pattern::Retained kept = pattern::retained(bound, head);
    for (int64_t h = 1; h < shared; ++h) {
      kept = pattern::join(kept, pattern::retained(bound, head + h));
    }
    slots.emplace_back(kept, bound.k_len(), 0);
  }
  return slots;
}

template <typename T>
void expect_equal(const Case& c, const std::vector<Pattern>& patterns, std::mt19937_64& rng) {
  const DecodeShape& s = c.shape;
  const RandomModel<T> model(s, rng);
  std::vector<BoundPattern> bound;
  std::vector<std::vector<pattern::CacheSlots>> slots;
  for (const Pattern& pattern : patterns) {
    bound.push_back(pattern.bind(s.heads, 40, 40));
    slots.push_back(cache_slots(bound.back(), s));
  }
  StepParams params;
  params.shape = step_shape(s);
  params.layout = step_layout(s, c.batch, c.gpu);
  const Array<std::byte> workspace(params.layout.workspace_bytes);
  std::memset(workspace.data() + params.layout.barrier, 0, 8);
  std::vector<Array<std::byte>> rows;
  std::vector<HeadCache> caches;
  for (int64_t layer = 0; layer < s.layers; ++layer) {
    for (const pattern::CacheSlots& of_head : slots[static_cast<size_t>(layer) % slots.size()]) {
      rows.emplace_back(c.batch * of_head.size() * row_bytes(s));
      caches.push_back({rows.back().data(), of_head.size()});
    }
  }
  params.tables = model.tables;
  params.tables.caches = caches.data();
  params.block_eps = static_cast<float>(s.block_eps);
  params.final_eps = static_cast<float>(s.final_eps);
  params.batch = static_cast<int>(c.batch);
  params.row_bytes = row_bytes(s);
  params.workspace = workspace.data();

  std::vector<Reference<T>> references(static_cast<size_t>(c.batch), Reference<T>(model, bound));
  const Array<float> cos(s.qk_dim / 2), sin(s.qk_dim / 2), logits(c.batch * s.vocab);
  for (int64_t i = 0; i < c.steps; ++i) {
    Position position;
    position.index = i;
    for (int64_t pair = 0; pair < s.qk_dim / 2; ++pair) {
      const double angle = 0.3 * static_cast<double>(i) / static_cast<double>(pair + 1);
      cos[pair] = static_cast<float>(std::cos(angle));
      sin[pair] = static_cast<float>(std::sin(angle));
    }
    if (c.rotary) position.cos = cos.data(), position.sin = sin.data();
    for (int64_t b = 0; i > 0 && b < c.batch; ++b) {
      position.tokens.push_back(pick(rng, 0, s.vocab - 1));
    }
    for (int p = 0; i > 0 && p < c.positions; ++p) {
      position.rows[static_cast<size_t>(p)] = model.positions[static_cast<size_t>(p)];
    }
    std::vector<LayerSlots> now(patterns.size());
    std::vector<const LayerSlots*> pointers;
    for (size_t p = 0; p < patterns.size(); ++p) {
      for (const pattern::CacheSlots& of_head : slots[p]) {
        now[p].writes.emplace_back();
        of_head.append_writes(i, now[p].writes.back());
      }
      for (int64_t head = 0; head < s.heads; ++head) {
        const auto kv_head = static_cast<size_t>(head / (s.heads / s.kv_heads));
        now[p].reads.push_back(
            slots[p][kv_head].slots_of(pattern::live_keys(bound[p], head, i), i));
      }
      pointers.push_back(&now[p]);
    }
    const StepWords words(position.tokens, c.batch, pointers);
    params.patterns = words.patterns;
    params.reads = static_cast<int>(words.reads);
    params.writes = static_cast<int>(words.writes);
    params.word_count = static_cast<int>(words.words.size());
    params.far_words = c.far_words ? words.words.data() : nullptr;
    ASSERT_TRUE(words.fit_a_launch());
    std::copy(words.words.begin(), words.words.end(), params.words);
    std::copy(position.rows.begin(), position.rows.end(), params.positions);
    params.cos = position.cos;
    params.sin = position.sin;
    params.logits = logits.data();
    ASSERT_TRUE(run<T>(params, static_cast<uint32_t>(rng()))) << "threads wait for one another";
    EXPECT_EQ(reinterpret_cast<const uint64_t&>(workspace[params.layout.barrier]), 0u);
    for (int64_t b = 0; b < c.batch; ++b) {
      const auto at = static_cast<size_t>(b);
      const Numbers64 want = references[at].logits(position, i == 0 ? -1 : position.tokens[at]);
      double off = 0, all = 0;
      for (size_t v = 0; v < want.size(); ++v) {
        const double got = logits[b * s.vocab + static_cast<int64_t>(v)];
        off += (got - want[v]) * (got - want[v]);
        all += want[v] * want[v];
      }
      ASSERT_LT(std::sqrt(off / all), kTolerance) << "sequence " << b << ", position " << i;
    }
  }
}

// Small models on small GPUs, which have many items a block; some with rows of odd widths.
Case random_case(std::mt19937_64& rng) {
  Case c;
  DecodeShape& s = c.shape;
  s.layers = pick(rng, 1, 2);
  s.heads = 4;
  s.kv_heads = std::array{1, 2, 4}[static_cast<size_t>(pick(rng, 0, 2))];
  s.qk_dim = 8 * pick(rng, 1, 32);
  s.v_dim = 8 * pick(rng, 1, 32);
  s.d_model = pick(rng, 0, 2) > 0 ? 8 * pick(rng, 1, 6) : pick(rng, 3, 50);
  s.ff_width = s.d_model * pick(rng, 1, 4);
  s.vocab = pick(rng, 3, 40);
  s.block_eps = 1e-5;
  s.final_eps = 1e-6;
  c.batch = std::array{1, 2, 5, 9, 17}[static_cast<size_t>(pick(rng, 0, 4))];
  c.gpu = {.multiprocessors = static_cast<int>(pick(rng, 1, 8)), .shared_bytes = 232448};
  c.rotary = pick(rng, 0, 1) == 1;
  c.far_words = pick(rng, 0, 3) == 0;
  c.positions = static_cast<int>(pick(rng, 0, 3));
  return c;
}

void expect_equal(Case c, std::mt19937_64& rng) {
  std::vector<Pattern> patterns;
  for (int64_t i = pick(rng, 1, 2); i > 0; --i) {
    patterns.push_back(Pattern(testing::random_pattern(rng, 3).entries(), true));
  }
  if (pick(rng, 0, 1) == 0) {
    c.shape.compute = DType::kBFloat16;
    expect_equal<__nv_bfloat16>(c, patterns, rng);
  } else {
    c.shape.compute = DType::kFloat16;
    expect_equal<__half>(c, patterns, rng);
  }
}

TEST(EmulatedDecode, RandomModels) {
  for (uint64_t seed = 0; seed < 4; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 rng(1000 + 77 * seed);
    expect_equal(random_case(rng), rng);
    if (HasFatalFailure()) return;
  }
}

// Sums that are split over blocks, of columns and of keys.
StepLayout layout_of(Case c) {
  c.shape.compute = DType::kBFloat16;
  return step_layout(c.shape, c.batch, c.gpu);
}

TEST(EmulatedDecode, SplitSums) {
  std::mt19937_64 rng(5);
  Case c = random_case(rng);
  c.shape.d_model = 40;
  c.shape.ff_width = 640;
  c.shape.v_dim = 128;
  c.batch = 1;
  c.gpu.multiprocessors = 20;
  EXPECT_GT(layout_of(c).ff2.splits, 1);
  EXPECT_GT(layout_of(c).proj.splits, 1);
  EXPECT_GT(layout_of(c).key_splits, 1);
  expect_equal(c, rng);
}

// Rows that are normed before a barrier, batches in groups.
TEST(EmulatedDecode, ManySequences) {
  std::mt19937_64 rng(9);
  Case c = random_case(rng);
  c.shape.layers = 1;
  c.shape.d_model = 136;
  c.shape.ff_width = 136;
  c.batch = 66;
  c.steps = 2;
  EXPECT_EQ(layout_of(c).sequences, 64);
  EXPECT_FALSE(layout_of(c).own_norms);
  expect_equal(c, rng);
}

}  // namespace
}  // namespace lace::cuda::decode
