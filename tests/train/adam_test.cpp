#include <cmath>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "train/adam_lists.h"
#include "train/loss_scale.h"

namespace lace::train {
namespace {

std::vector<NamedParameter> parameters(at::ScalarType type) {
  torch::manual_seed(3);
  std::vector<NamedParameter> list;
  for (const auto& shape : std::vector<std::vector<int64_t>>{{7, 5}, {5}, {300, 101}})
    list.push_back({concat("p", list.size()), torch::randn(shape, type).requires_grad_()});
  return list;
}

void set_gradients(const std::vector<NamedParameter>& list, int64_t step, double factor = 1) {
  for (const NamedParameter& p : list)
    p.tensor.mutable_grad() = factor * torch::sin(p.tensor.detach() * 3 + step);
}

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
  const auto ours = parameters(at::kDouble), theirs = parameters(at::kDouble);
  Adam adam(config, ours);
  std::vector<at::Tensor> tensors;
  for (const auto& p : theirs) tensors.push_back(p.tensor);
  torch::optim::Adam peer(tensors, torch::optim::AdamOptions(1e-2).eps(0));
  for (int64_t step = 0; step < 8; ++step) {
    set_gradients(ours, step);
    set_gradients(theirs, step);
    apply_gradients(adam, nullptr, 1e-2);
    peer.step();
  }
  for (size_t i = 0; i < ours.size(); ++i)
    EXPECT_LT((ours[i].tensor - theirs[i].tensor).abs().max().item<double>(), 1e-13);
}

TEST(Adam, FollowsTheFormulaWithClippingDecayAndMean) {
  OptimizerConfig config;
  config.epsilon = 1e-3;
  config.weight_decay = 0.1;
  config.clip_norm = 2;
  config.ema = 0.9;
  const auto list = parameters(at::kDouble);
  Adam adam(config, list);
  std::vector<at::Tensor> p, m, v, mean;
  for (const auto& entry : list) {
    p.push_back(entry.tensor.detach().clone());
    m.push_back(torch::zeros_like(p.back()));
    v.push_back(torch::zeros_like(p.back()));
    mean.push_back(p.back().clone());
  }
  for (int64_t t = 1; t <= 5; ++t) {
    set_gradients(list, t);
    double squares = 0;
    std::vector<at::Tensor> g;
    for (const auto& entry : list) {
      g.push_back(entry.tensor.grad().clone());
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
    EXPECT_NEAR(apply_gradients(adam, nullptr, 0.01), norm, 1e-9);
  }
  for (size_t i = 0; i < p.size(); ++i) {
    EXPECT_LT((list[i].tensor - p[i]).abs().max().item<double>(), 1e-13);
    EXPECT_LT((adam.ema()[i] - mean[i]).abs().max().item<double>(), 1e-13);
    EXPECT_FALSE(list[i].tensor.grad().defined());
  }
  EXPECT_EQ(adam.steps(), 5);
  EXPECT_EQ(adam.state().size(), 9u);
}

TEST(Adam, ThreadsDoNotMatterAndVersionsGrow) {
  const int threads = at::get_num_threads();
  std::vector<std::vector<NamedParameter>> results;
  for (const int count : {1, 2}) {
    at::set_num_threads(count);
    results.push_back(parameters(at::kFloat));
    const auto& list = results.back();
    Adam adam(OptimizerConfig(), list);
    for (int64_t step = 0; step < 3; ++step) {
      const uint32_t version = list[0].tensor._version();
      set_gradients(list, step);
      apply_gradients(adam, nullptr, 1e-2);
      EXPECT_GT(list[0].tensor._version(), version);
    }
  }
  at::set_num_threads(threads);
  for (size_t i = 0; i < results[0].size(); ++i)
    EXPECT_TRUE(torch::equal(results[0][i].tensor, results[1][i].tensor));
}

TEST(Adam, NamesAParameterWithoutGradient) {
  const auto list = parameters(at::kFloat);
  const Adam adam(OptimizerConfig(), list);
  set_gradients(list, 0);
  list[1].tensor.mutable_grad().reset();
  try {
    adam.gradient_norm();
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("p1"), std::string::npos);
  }
}

TEST(Adam, RefusesGradientsThatAreNotFinite) {
  const auto list = parameters(at::kFloat);
  Adam adam(OptimizerConfig(), list);
  set_gradients(list, 0);
  list[1].tensor.mutable_grad()[2] = std::nanf("");
  const at::Tensor before = list[0].tensor.detach().clone();
  EXPECT_THROW(apply_gradients(adam, nullptr, 1e-2), Error);
  EXPECT_TRUE(torch::equal(list[0].tensor, before));
  EXPECT_EQ(adam.steps(), 0);
}

TEST(Adam, ListsOfTensorsGiveTheSame) {  // what a GPU runs
  OptimizerConfig config;
  config.weight_decay = 0.1;
  config.clip_norm = 0;
  config.ema = 0.9;
  const auto list = parameters(at::kDouble), other = parameters(at::kDouble);
  Adam adam(config, list);
  AdamLists lists;
  for (const auto& p : other) {
    lists.parameters.push_back(p.tensor);
    lists.m.push_back(torch::zeros_like(p.tensor));
    lists.v.push_back(torch::zeros_like(p.tensor));
    lists.ema.push_back(p.tensor.detach().clone());
  }
  for (int64_t t = 1; t <= 5; ++t) {
    set_gradients(list, t, 8);
    set_gradients(other, t, 8);
    lists.gradients.clear();
    for (const auto& p : other) lists.gradients.push_back(p.tensor.grad());
    adam.step(1e-2, adam.gradient_norm(8), 8);
    const auto steps = static_cast<double>(t);
    const double rate =
        1e-2 * std::sqrt(1 - std::pow(config.beta2, steps)) / (1 - std::pow(config.beta1, steps));
    update_lists(lists, config, rate, 1.0 / 8);
  }
  const std::vector<at::Tensor>& ema = adam.ema();
  for (size_t i = 0; i < list.size(); ++i) {
    EXPECT_LT((list[i].tensor - other[i].tensor).abs().max().item<double>(), 1e-14);
    EXPECT_LT((ema[i] - lists.ema[i]).abs().max().item<double>(), 1e-14);
  }
}

TEST(LossScale, InjectedOverflowsCountAsZero) {
  OptimizerConfig config = plain();
  const auto scaled = parameters(at::kFloat), reference = parameters(at::kFloat);
  Adam adam(config, scaled), plain_adam(config, reference);
  LossScale scale;
  for (int64_t step = 0; step < 6; ++step) {
    const bool overflow = step == 2 || step == 4;
    const double before = scale.value;
    set_gradients(scaled, step, scale.value);
    set_gradients(reference, step);
    if (overflow) {
      scaled[2].tensor.mutable_grad()[17][3] =
          step == 2 ? std::numeric_limits<float>::infinity() : std::nanf("");
      reference[2].tensor.mutable_grad()[17][3] = 0;
    }
    const double norm = apply_gradients(adam, &scale, 1e-2);
    EXPECT_DOUBLE_EQ(scale.value, overflow ? before / 2 : before * LossScale::kGrowth);
    EXPECT_FALSE(scaled[0].tensor.grad().defined());
    EXPECT_NEAR(apply_gradients(plain_adam, nullptr, 1e-2), norm, 1e-4 * norm);
  }
  EXPECT_EQ(adam.steps(), 6);
  for (size_t i = 0; i < scaled.size(); ++i)
    EXPECT_LT((scaled[i].tensor - reference[i].tensor).abs().max().item<double>(), 1e-5);
  for (int i = 0; i < 100; ++i) scale.halve();
  EXPECT_EQ(scale.value, LossScale::kFloor);
}

}  // namespace
}  // namespace lace::train
