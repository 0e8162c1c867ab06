#include "train/adam.h"

#include <cmath>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "ops/torch_context.h"
#include "train/silent_group.h"

namespace lace::train {
namespace {

at::Tensor gradient(const at::Tensor& parameter, int64_t step, double factor = 1) {
  return factor * torch::sin(parameter.detach() * 3 + step);
}

// Parameters of several shapes and their optimiser.
struct Optimised {
  Optimised(const OptimizerConfig& config, Precision precision,
            const Ranks& ranks = Ranks(nullptr, {}))
      : arena({{"p0", {7, 5}, 1, 0}, {"p1", {5}, 1, 0}, {"p2", {300, 101}, 1, 0}},
              precision == Precision::kFloat64   ? at::kDouble
              : precision == Precision::kFloat32 ? at::kFloat
              : precision == Precision::kFloat16 ? at::kHalf
                                                 : at::kBFloat16,
              at::kCPU),
        adam(config, arena, precision, ranks) {
    const at::NoGradGuard no_grad;
    torch::manual_seed(3);
    for (const NamedParameter& p : arena.parameters()) {
      p.tensor.copy_(torch::randn(p.tensor.sizes(), at::kDouble));
    }
  }

  void set_gradients(int64_t step, double factor = 1) {
    for (size_t i = 0; i < arena.parameters().size(); ++i) {
      at(i).copy_(gradient(arena.parameter(i), step, factor));
    }
  }
  at::Tensor at(size_t i) { return arena.view(adam.gradients(), i); }

  const StepState& run(double learning_rate) {
    adam.rate().fill_(adam.next_rate(learning_rate));
    adam.run();
    adam.advance();
    return state();
  }
  const StepState& state() { return *static_cast<const StepState*>(adam.state().const_data_ptr()); }

  model::ParameterArena arena;
  Adam adam;
};

OptimizerConfig plain() {
  OptimizerConfig config;
  config.weight_decay = 0;
  config.clip_norm = 0;
  return config;
}

TEST(Adam, AgreesWithTorchWhereTheyCoincide) {
  // The two place ε differently: with ε = 0 and no decay they are the same function.
  OptimizerConfig config = plain();
  config.epsilon = 0;
  Optimised ours(config, Precision::kFloat64);
  std::vector<at::Tensor> theirs;
  for (const auto& p : ours.arena.parameters()) {
    theirs.push_back(p.tensor.detach().clone().requires_grad_());
  }
  torch::optim::Adam peer(theirs, torch::optim::AdamOptions(1e-2).eps(0));
  for (int64_t step = 0; step < 8; ++step) {
    ours.set_gradients(step);
    for (const at::Tensor& p : theirs) p.mutable_grad() = gradient(p, step);
    ours.run(1e-2);
    peer.step();
  }
  for (size_t i = 0; i < theirs.size(); ++i) {
    EXPECT_LT((ours.arena.parameter(i) - theirs[i]).abs().max().item<double>(), 1e-13);
  }
}

TEST(Adam, FollowsTheFormulaWithClippingDecayAndMean) {
  OptimizerConfig config;
  config.epsilon = 1e-3;
  config.weight_decay = 0.1;
  config.clip_norm = 2;
  config.ema = 0.9;
  Optimised ours(config, Precision::kFloat64);
  std::vector<at::Tensor> p, m, v, mean;
  for (size_t i = 0; i < 3; ++i) {
    p.push_back(ours.arena.parameter(i).detach().clone());
    m.push_back(torch::zeros_like(p.back()));
    v.push_back(torch::zeros_like(p.back()));
    mean.push_back(ours.adam.ema()[i].clone());
  }
  for (int64_t t = 1; t <= 5; ++t) {
    ours.set_gradients(t);
    double squares = 0;
    std::vector<at::Tensor> g;
    for (size_t i = 0; i < p.size(); ++i) {
      g.push_back(ours.at(i).clone());
      squares += g.back().pow(2).sum().item<double>();
    }
    const double norm = std::sqrt(squares);
    ASSERT_GT(norm, 2);
    const double rate = 0.01 * std::sqrt(1 - std::pow(0.999, t)) / (1 - std::pow(0.9, t));
    for (size_t i = 0; i < p.size(); ++i) {
      g[i] *= 2 / norm;
      m[i] = 0.9 * m[i] + 0.1 * g[i];
      v[i] = 0.999 * v[i] + 0.001 * g[i] * g[i];
      const double decay = p[i].dim() > 1 ? 0.1 : 0;
      p[i] = p[i] - rate * (m[i] / (v[i].sqrt() + 1e-3) + decay * p[i]);
      mean[i] = 0.9 * mean[i] + 0.1 * p[i];
    }
    EXPECT_NEAR(ours.run(0.01).norm, norm, 1e-9);
  }
  for (size_t i = 0; i < p.size(); ++i) {
    EXPECT_LT((ours.arena.parameter(i) - p[i]).abs().max().item<double>(), 1e-13);
    EXPECT_LT((ours.adam.ema()[i] - mean[i]).abs().max().item<double>(), 1e-13);
  }
  EXPECT_EQ(ours.adam.steps(), 5);
  EXPECT_EQ(ours.adam.saved().size(), 9u);
}

TEST(Adam, CopiesAreTheRoundedWeights) {
  for (const Precision precision : {Precision::kBFloat16, Precision::kFloat16}) {
    Optimised ours(plain(), precision);
    ours.set_gradients(1);
    ours.run(1e-2);
    for (size_t i = 0; i < 3; ++i) {
      const at::Tensor want =
          ours.arena.parameter(i).detach().to(ours.arena.copies().scalar_type());
      EXPECT_TRUE(torch::equal(ours.arena.view(ours.arena.copies(), i), want)) << i;
      EXPECT_TRUE(torch::equal(ours.arena.copy(i), want)) << i;
    }
  }
}

TEST(Adam, ThreadsDoNotMatterAndVersionsGrow) {
  const int threads = at::get_num_threads();
  std::vector<at::Tensor> results;
  for (const int count : {1, 2}) {
    at::set_num_threads(count);
    Optimised ours(OptimizerConfig(), Precision::kFloat32);
    for (int64_t step = 0; step < 3; ++step) {
      const uint32_t version = ours.arena.parameter(0)._version();
      ours.set_gradients(step);
      ours.run(1e-2);
      EXPECT_GT(ours.arena.parameter(0)._version(), version);
    }
    results.push_back(ours.arena.values().clone());
  }
  at::set_num_threads(threads);
  EXPECT_TRUE(torch::equal(results[0], results[1]));
}

TEST(Adam, GradientsThatAreNotFiniteChangeNothing) {
  OptimizerConfig config;
  config.ema = 0.9;
  Optimised ours(config, Precision::kBFloat16);
  ours.set_gradients(0);
  ours.run(1e-2);
  const at::Tensor before = ours.arena.values().clone(), mean = ours.adam.ema()[2].clone();
  ours.at(1)[2] = std::nanf("");
  EXPECT_EQ(ours.run(1e-2).failed, 1);
  EXPECT_FALSE(std::isfinite(ours.state().norm));
  ours.set_gradients(1);
  EXPECT_EQ(ours.run(1e-2).failed, 1);  // nor does what follows, until somebody has looked
  EXPECT_TRUE(torch::equal(ours.arena.values(), before));
  EXPECT_TRUE(torch::equal(ours.adam.ema()[2], mean));
  ours.adam.clear_failure();
  EXPECT_EQ(ours.run(1e-2).failed, 0);
  EXPECT_FALSE(torch::equal(ours.arena.values(), before));
}

TrainConfig dividing() {
  TrainConfig config;
  config.shard_optimizer = true;
  return config;
}

TEST(Adam, ARankThatDividesTheStateUpdatesItsShareAlone) {
  OptimizerConfig config;
  config.weight_decay = 0.1;
  config.ema = 0.9;
  for (const Precision precision : {Precision::kFloat32, Precision::kBFloat16}) {
    for (const int size : {2, 3}) {
      for (int rank = 0; rank < size; ++rank) {
        SilentGroup group(rank, size);
        Optimised whole(config, precision);
        Optimised own(config, precision, Ranks(&group, dividing()));
        at::Tensor want = own.arena.values().clone();
        const distributed::Range share = distributed::state_range(want.numel(), rank, size);
        for (int64_t step = 0; step < 4; ++step) {
          whole.set_gradients(step);
          own.adam.gradients().copy_(whole.adam.gradients());
          EXPECT_EQ(whole.run(1e-2).norm, own.run(1e-2).norm);
        }
        const auto part = [&](const at::Tensor& array) {
          return array.narrow(0, share.begin, share.end - share.begin);
        };
        EXPECT_FALSE(torch::equal(part(want), part(whole.arena.values())));
        part(want).copy_(part(whole.arena.values()));
        EXPECT_TRUE(torch::equal(own.arena.values(), want)) << rank << " of " << size;
        if (!own.arena.copies().defined()) continue;
        EXPECT_TRUE(torch::equal(own.arena.copies(), want.to(at::kBFloat16)));
      }
    }
  }
}

// Counts the bytes that this thread has libtorch allocate.
struct AllocatedBytes : public c10::MemoryReportingInfoBase {
  void reportMemoryUsage(void*, int64_t bytes, size_t, size_t, c10::Device) override {
    sum += bytes;
  }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t sum = 0;
};

TEST(Adam, RanksThatDivideTheStateKeepAPartOfIt) {
  for (const double ema : {0.0, 0.9}) {
    OptimizerConfig config;
    config.ema = ema;
    model::ParameterArena arena({{"p", {64 * 9, 100}, 1, 0}}, at::kBFloat16, at::kCPU);
    const auto bytes = [&](int size) {
      SilentGroup group(0, size);
      const auto allocated = std::make_shared<AllocatedBytes>();
      const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, allocated);
      const Adam adam(config, arena, Precision::kBFloat16, Ranks(&group, dividing()));
      return allocated->sum;
    };
    const int64_t state = (ema > 0 ? 12 : 8) * arena.size();
    EXPECT_GE(bytes(1), 4 * arena.size() + state);  // gradients too
    EXPECT_EQ(bytes(1) - bytes(2), state - state / 2);
    EXPECT_EQ(bytes(1) - bytes(3), state - state / 3);
  }
}

TEST(LossScale, InjectedOverflowsCountAsZero) {
  Optimised scaled(plain(), Precision::kFloat16), reference(plain(), Precision::kFloat32);
  double scale = kLossScaleStart;
  for (int64_t step = 0; step < 6; ++step) {
    const bool overflow = step == 2 || step == 4;
    EXPECT_DOUBLE_EQ(scaled.adam.loss_scale().item<double>(), scale);
    scaled.set_gradients(step, scale);
    reference.set_gradients(step);
    if (overflow) {
      scaled.at(2)[17][3] = step == 2 ? std::numeric_limits<float>::infinity() : std::nanf("");
      reference.at(2)[17][3] = 0;
    }
    const StepState& state = scaled.run(1e-2);
    scale = overflow ? scale / 2 : scale * 1.0003466;
    EXPECT_EQ(state.overflowed, overflow);
    EXPECT_EQ(state.failed, 0);
    EXPECT_NEAR(reference.run(1e-2).norm, state.norm, 1e-4 * state.norm);
  }
  for (size_t i = 0; i < 3; ++i) {
    const at::Tensor difference = scaled.arena.parameter(i) - reference.arena.parameter(i);
    EXPECT_LT(difference.abs().max().item<double>(), 1e-5);
  }
  for (int i = 0; i < 100; ++i) {
    scaled.at(0).fill_(std::nanf(""));
    scaled.run(1e-2);
  }
  EXPECT_EQ(scaled.state().loss_scale, 1024);
}

}  // namespace
}  // namespace lace::train
