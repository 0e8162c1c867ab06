// The kernel of decoding on emulated threads: random models, patterns, batches and GPUs against
// plain loops in float64 that round where the kernel does. Runs without a GPU.

#include <array>
#include <cmath>
#include <random>

#include <gtest/gtest.h>

#include "kernels/cuda/emulation/decode_reference.h"  // emulation first
#include "kernels/decode/cuda/lone_step.cuh"
#include "kernels/decode/cuda/step.cuh"
#include "kernels/decode/cuda/store_kernel.cuh"
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

// Threads that wait for a value take turns for ever.
constexpr int kMostRounds = 1 << 14;

template <typename T>
bool run(const LoneParams& params, uint32_t seed) {
  const auto launch = [&](auto lanes) {
    return emulation::launch(
        params.layout.blocks, kLoneThreads, static_cast<size_t>(params.layout.shared_bytes), seed,
        [&] { LoneStep<T, lanes()>(params).run(); }, kMostRounds);
  };
  switch (params.layout.lanes) {
    case 4:
      return launch(std::integral_constant<int, 4>());
    case 8:
      return launch(std::integral_constant<int, 8>());
    default:
      return launch(std::integral_constant<int, 16>());
  }
}

struct Case {
  DecodeShape shape;
  int64_t batch = 1;
  Gpu gpu;
  bool rotary = false, far_words = false;
  bool lone = true;   // one sequence by stamped values, where the model fits
  int positions = 0;  // tables
  int steps = 4;
  int64_t prompt = 0;    // slots that are stored at once before
  int64_t copies = 1;    // that a fork behind the prompt makes of each sequence
  int64_t rollback = 0;  // symbols that are taken back after the steps; as many steps follow
};

constexpr int64_t kSeqLen = 64;

// The caches of a pattern's key heads.
std::vector<pattern::CacheSlots> cache_slots(const BoundPattern& bound, const DecodeShape& shape,
                                             int64_t rollback) {
  std::vector<pattern::CacheSlots> slots;
  const int64_t shared = shape.heads / shape.kv_heads;
  for (int64_t head = 0; head < shape.heads; head += shared) {
    pattern::Retained kept = pattern::retained(bound, head);
    for (int64_t h = 1; h < shared; ++h) {
      kept = pattern::join(kept, pattern::retained(bound, head + h));
    }
    slots.emplace_back(kept, bound.k_len(), rollback);
  }
  return slots;
}

// Sequences that the kernels decode, beside a reference of each.
template <typename T>
class Decoding {
 public:
  Decoding(const Case& c, const std::vector<Pattern>& patterns, std::mt19937_64& rng)
      : c_(c),
        s_(c.shape),
        rng_(rng),
        model_(c.shape, rng),
        cos_(s_.qk_dim / 2),
        sin_(s_.qk_dim / 2) {
    for (const Pattern& pattern : patterns) {
      bound_.push_back(pattern.bind(s_.heads, kSeqLen, kSeqLen));
      slots_.push_back(cache_slots(bound_.back(), s_, c.rollback));
    }
    for (int64_t b = 0; b < c.batch; ++b) references_.emplace_back(model_, bound_);
    allocate();
  }

  // Slots 0 to `count` − 1 as a pass of the model leaves them: rows in the model's dtype, all at
  // once.
  void prefill(int64_t count) {
    for (; next_ < count; ++next_) {
      const Position position = draw(next_);
      for (size_t b = 0; b < references_.size(); ++b) {
        references_[b].logits(position, next_ == 0 ? -1 : position.tokens[b]);
      }
    }
    for (size_t b = 0; b < references_.size(); ++b) {
      references_[b].round_keys();
      for (int64_t layer = 0; layer < s_.layers; ++layer) store(b, layer, count);
    }
  }

  // Each sequence as often as that, side by side.
  void fork(int64_t copies) {
    const std::vector<Array<std::byte>> from = std::move(rows_);
    const std::vector<Reference<T>> were = std::move(references_);
    references_.clear();
    for (const Reference<T>& reference : were) {
      for (int64_t i = 0; i < copies; ++i) references_.push_back(reference);
    }
    allocate();
    for (size_t i = 0; i < rows_.size(); ++i) {
      const pattern::CacheSlots& slots = slots_of(i);
      for (size_t b = 0; b < references_.size(); ++b) {
        const auto size = static_cast<size_t>(slots.size() * row_bytes(s_));
        std::memcpy(rows_[i].data() + b * size,
                    from[i].data() + b / static_cast<size_t>(copies) * size,
                    static_cast<size_t>(slots.extent(next_) * row_bytes(s_)));
      }
    }
  }

  void rollback(int64_t n) { next_ -= n; }

  void expect_step() {
    const auto batch = static_cast<int64_t>(references_.size());
    const Position position = draw(next_);
    const std::vector<LayerSlots> now = slots_at(next_);
    std::vector<const LayerSlots*> pointers;
    for (const LayerSlots& slots : now) pointers.push_back(&slots);
    const StepWords words(position.tokens, batch, pointers);
    StepArguments& told = lone_.layout.fits ? static_cast<StepArguments&>(lone_) : params_;
    told.patterns = words.patterns;
    told.reads = static_cast<int>(words.reads);
    told.writes = static_cast<int>(words.writes);
    told.word_count = static_cast<int>(words.words.size());
    const bool far = c_.far_words || !words.fit_a_launch();
    told.far_words = far ? words.words.data() : nullptr;
    if (!far) std::copy(words.words.begin(), words.words.end(), told.words);
    std::copy(position.rows.begin(), position.rows.end(), told.positions);
    told.cos = position.cos;
    told.sin = position.sin;
    const Array<float> logits(batch * s_.vocab);
    told.logits = logits.data();
    const auto seed = static_cast<uint32_t>(rng_());
    if (lone_.layout.fits) {
      lone_.stamp = number_++ * static_cast<uint32_t>(s_.layers) + 1;
      ASSERT_TRUE(run<T>(lone_, seed)) << "threads wait for one another";
    } else {
      ASSERT_TRUE(run<T>(params_, seed)) << "threads wait for one another";
      EXPECT_EQ(reinterpret_cast<const uint64_t&>(workspace_[params_.layout.barrier]), 0u);
    }
    for (size_t b = 0; b < references_.size(); ++b) {
      const Numbers64 want = references_[b].logits(position, next_ == 0 ? -1 : position.tokens[b]);
      double off = 0, all = 0;
      for (size_t v = 0; v < want.size(); ++v) {
        const double got = logits[static_cast<int64_t>(b * want.size() + v)];
        off += (got - want[v]) * (got - want[v]);
        all += want[v] * want[v];
      }
      ASSERT_LT(std::sqrt(off / all), kTolerance) << "sequence " << b << ", position " << next_;
    }
    ++next_;
  }

 private:
  size_t kv_heads() const { return static_cast<size_t>(s_.kv_heads); }
  const pattern::CacheSlots& slots_of(size_t cache) const {
    return slots_[cache / kv_heads() % slots_.size()][cache % kv_heads()];
  }

  // Caches and what the kernel is told, of as many sequences as there are references.
  void allocate() {
    const auto batch = static_cast<int64_t>(references_.size());
    rows_.clear();
    caches_.clear();
    for (size_t i = 0; i < static_cast<size_t>(s_.layers) * kv_heads(); ++i) {
      rows_.emplace_back(batch * slots_of(i).size() * row_bytes(s_));
      caches_.push_back({rows_.back().data(), slots_of(i).size()});
    }
    params_.layout = step_layout(s_, batch, c_.gpu);
    params_.batch = static_cast<int>(batch);
    workspace_ = Array<std::byte>(params_.layout.workspace_bytes);
    std::memset(workspace_.data() + params_.layout.barrier, 0, 8);
    lone_.layout = batch == 1 && c_.lone ? lone_layout(s_, c_.gpu) : LoneLayout();
    if (lone_.layout.fits) {
      workspace_ = Array<std::byte>(lone_.layout.words * 8);
      std::memset(workspace_.data(), 0, static_cast<size_t>(lone_.layout.words * 8));
      number_ = pick(rng_, 0, 1) == 0 ? 0 : ~1u;  // whose stamps come round to zero
    }
    for (StepArguments* told :
         {static_cast<StepArguments*>(&params_), static_cast<StepArguments*>(&lone_)}) {
      told->shape = step_shape(s_);
      told->tables = model_.tables;
      told->tables.caches = caches_.data();
      told->block_eps = static_cast<float>(s_.block_eps);
      told->final_eps = static_cast<float>(s_.final_eps);
      told->row_bytes = row_bytes(s_);
      told->workspace = workspace_.data();
    }
  }

  Position draw(int64_t i) {
    Position position;
    position.index = i;
    for (int64_t pair = 0; pair < s_.qk_dim / 2; ++pair) {
      const double angle = 0.3 * static_cast<double>(i) / static_cast<double>(pair + 1);
      cos_[pair] = static_cast<float>(std::cos(angle));
      sin_[pair] = static_cast<float>(std::sin(angle));
    }
    if (c_.rotary) position.cos = cos_.data(), position.sin = sin_.data();
    for (size_t b = 0; i > 0 && b < references_.size(); ++b) {
      position.tokens.push_back(pick(rng_, 0, s_.vocab - 1));
    }
    for (int p = 0; i > 0 && p < c_.positions; ++p) {
      position.rows[static_cast<size_t>(p)] = model_.positions[static_cast<size_t>(p)];
    }
    return position;
  }

  std::vector<LayerSlots> slots_at(int64_t position) const {
    std::vector<LayerSlots> now(bound_.size());
    for (size_t p = 0; p < now.size(); ++p) {
      for (const pattern::CacheSlots& of_head : slots_[p]) {
        now[p].writes.emplace_back();
        of_head.append_writes(position, now[p].writes.back());
      }
      for (int64_t head = 0; head < s_.heads; ++head) {
        const auto kv_head = static_cast<size_t>(head / (s_.heads / s_.kv_heads));
        now[p].reads.push_back(
            slots_[p][kv_head].slots_of(pattern::live_keys(bound_[p], head, position), position));
      }
    }
    return now;
  }

  // The rows of sequence b in a layer, by the kernel.
  void store(size_t b, int64_t layer, int64_t count) {
    const size_t first = static_cast<size_t>(layer) * kv_heads();
    std::vector<std::vector<std::vector<int64_t>>> writes(kv_heads());
    const Array<T> k(s_.kv_heads * count * s_.qk_dim), v(s_.kv_heads * count * s_.v_dim);
    for (size_t head = 0; head < kv_heads(); ++head) {
      for (int64_t i = 0; i < count; ++i) {
        slots_of(first + head).append_writes(i, writes[head].emplace_back());
        const auto at = static_cast<int64_t>(head) * count + i;
        const auto copy = [&](const Numbers64& from, T* to) {
          for (size_t c = 0; c < from.size(); ++c) {
            to[c] = elementwise::from_float<T>(static_cast<float>(from[c]));
          }
        };
        copy(references_[b].key(first + head, i), k.data() + at * s_.qk_dim);
        copy(references_[b].value(first + head, i), v.data() + at * s_.v_dim);
      }
    }
    const std::vector<StoredRow> rows = stored_rows(writes);
    GpuDecodeStore args;
    args.sequence = static_cast<int64_t>(b);
    args.k = {k.data(), 0, count * s_.qk_dim, s_.qk_dim};
    args.v = {v.data(), 0, count * s_.v_dim, s_.v_dim};
    args.caches = caches_.data() + first;
    args.rows = rows.data();
    args.count = static_cast<int64_t>(rows.size());
    const auto kernel = [&] {
      store_kernel<T>(args, static_cast<int>(s_.qk_dim), static_cast<int>(s_.v_dim), row_bytes(s_));
    };
    ASSERT_TRUE(emulation::launch(cover(static_cast<int>(rows.size()), kWarps), kThreads, 16,
                                  static_cast<uint32_t>(rng_()), kernel));
  }

  const Case& c_;
  const DecodeShape& s_;
  std::mt19937_64& rng_;
  const RandomModel<T> model_;
  std::vector<BoundPattern> bound_;
  std::vector<std::vector<pattern::CacheSlots>> slots_;  // by pattern and key head
  std::vector<Reference<T>> references_;
  std::vector<Array<std::byte>> rows_;  // of the caches
  std::vector<HeadCache> caches_;
  Array<std::byte> workspace_{0};
  StepParams params_;
  LoneParams lone_;
  uint32_t number_ = 0;
  Array<float> cos_, sin_;
  int64_t next_ = 0;
};

template <typename T>
void expect_equal(const Case& c, const std::vector<Pattern>& patterns, std::mt19937_64& rng) {
  Decoding<T> decoding(c, patterns, rng);
  const auto expect_steps = [&](int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      ASSERT_NO_FATAL_FAILURE(decoding.expect_step());
    }
  };
  if (c.prompt > 0) decoding.prefill(c.prompt);
  if (c.copies > 1) decoding.fork(c.copies);
  ASSERT_NO_FATAL_FAILURE(expect_steps(c.steps));
  decoding.rollback(c.rollback);
  ASSERT_NO_FATAL_FAILURE(expect_steps(c.rollback));
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

LoneLayout lone_layout_of(Case c) {
  c.shape.compute = DType::kBFloat16;
  return lone_layout(c.shape, c.gpu);
}

// One sequence, whose blocks pass one another stamped values.
TEST(EmulatedDecode, LoneSequences) {
  for (uint64_t seed = 0; seed < 4; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 rng(2000 + 77 * seed);
    Case c = random_case(rng);
    c.batch = 1;
    c.shape.d_model = 8 * pick(rng, 1, 20);
    c.shape.ff_width = 8 * pick(rng, 1, 80);
    EXPECT_TRUE(lone_layout_of(c).fits);
    expect_equal(c, rng);
    if (HasFatalFailure()) return;
  }
}

// Rows in stretches, keys in ranges, more of a tile than a thread copies at once, and a prompt of
// more keys than a block looks at at once.
TEST(EmulatedDecode, LoneSequenceOfManyBlocks) {
  std::mt19937_64 rng(31);
  Case c = random_case(rng);
  c.shape.heads = 4;
  c.shape.kv_heads = 2;
  c.shape.v_dim = c.shape.qk_dim = 136;
  c.shape.d_model = 64;
  c.shape.ff_width = 1056;
  c.shape.layers = 2;
  c.gpu.multiprocessors = 10;
  c.prompt = 40;
  c.steps = 3;
  c.batch = 1;
  const LoneLayout layout = lone_layout_of(c);
  EXPECT_TRUE(layout.fits);
  EXPECT_GT(layout.tasks[kLoneFf2].fold_log, 0);
  EXPECT_GT(layout.tasks[kLoneFf2].groups, 1);
  EXPECT_GT(layout.key_splits, 1);
  expect_equal(c, rng);
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
  c.lone = false;
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

// More keys in a range than a block looks at at once, and several ranges a block.
TEST(EmulatedDecode, LoneSequenceOfManyKeys) {
  for (const int multiprocessors : {1, 2, 3}) {
    SCOPED_TRACE(multiprocessors);
    std::mt19937_64 rng(static_cast<uint64_t>(41 + multiprocessors));
    Case c;
    c.shape = {.compute = DType::kBFloat16,
               .layers = 2,
               .d_model = 32,
               .heads = 2,
               .kv_heads = 1,
               .qk_dim = 136,
               .v_dim = 8,
               .ff_width = 32,
               .vocab = 20,
               .block_eps = 1e-5,
               .final_eps = 1e-6};
    c.gpu = {.multiprocessors = multiprocessors, .shared_bytes = 232448};
    c.steps = 2;
    c.prompt = 55;  // rounds of 32
    EXPECT_EQ(lone_layout_of(c).lanes, 16);
    expect_equal<__nv_bfloat16>(c, {Pattern::parse("dense"), Pattern::parse("local(40)")}, rng);
    if (HasFatalFailure()) return;
  }
}

// A word of the layer before is not taken for the new one, whenever that comes; one that nobody
// writes is awaited for ever.
TEST(EmulatedDecode, StampsAreAwaited) {
  constexpr uint32_t kStamp = 5;
  for (uint32_t seed = 0; seed < 20; ++seed) {
    for (const bool missing : {false, true}) {
      SCOPED_TRACE(seed);
      const Array<uint64_t> words(64);
      for (int i = 0; i < 64; ++i) words[i] = stamped(1000, kStamp - 1);
      const Array<uint32_t> got(64);
      const auto kernel = [&] {
        const int i = 2 * static_cast<int>(threadIdx.x);
        if (blockIdx.x == 0) {
          for (uint32_t turns = (threadIdx.x * 7 + seed) % 9; turns > 0; --turns) {
            emulation::yield();
          }
          store_word(words.data() + i, stamped(static_cast<uint32_t>(i), kStamp));
          if (missing && threadIdx.x == seed) return;
          store_word(words.data() + i + 1, stamped(static_cast<uint32_t>(i) + 1, kStamp));
        } else {
          StampedPair pair;
          pair.load(words.data() + i);
          pair.await(words.data() + i, kStamp);
          got[i] = pair.first(), got[i + 1] = pair.second();
        }
      };
      ASSERT_EQ(emulation::launch(2, 32, 16, seed, kernel, 1000), !missing);
      for (uint32_t i = 0; !missing && i < 64; ++i) EXPECT_EQ(got[i], i);
    }
  }
}

// Prompts longer than the rings of their patterns, then forks, then symbols that are taken back.
template <typename T>
void expect_prompts(DType compute, std::vector<Pattern> patterns) {
  std::mt19937_64 rng(23);
  Case c;
  c.shape = {.compute = compute,
             .layers = 3,
             .d_model = 64,
             .heads = 2,
             .kv_heads = 2,
             .qk_dim = 32,
             .v_dim = 32,
             .ff_width = 64,
             .vocab = 20,
             .block_eps = 1e-5,
             .final_eps = 1e-6};
  c.gpu = {.multiprocessors = 4, .shared_bytes = 232448};
  c.positions = 1;
  c.steps = 2;
  for (const auto& [prompt, copies, rollback] : {std::array{20, 1, 2}, {37, 3, 0}}) {
    SCOPED_TRACE(::testing::Message() << "prompt " << prompt);
    c.batch = copies == 1 ? 1 : 2;
    c.prompt = prompt;
    c.copies = copies;
    c.rollback = rollback;
    expect_equal<T>(c, patterns, rng);
  }
}

TEST(EmulatedDecode, PromptsForksAndRollback) {
  expect_prompts<__half>(DType::kFloat16,
                         {Pattern::parse("local(8) | sinks(2)"), Pattern::parse("fixed(8, 2, 2)"),
                          Pattern::parse("strided(8)")});
  expect_prompts<__nv_bfloat16>(DType::kBFloat16, {Pattern::parse("fixed(8, 2, 2)"),
                                                   Pattern::parse("local(8) | strided(8)")});
}

}  // namespace
}  // namespace lace::cuda::decode
