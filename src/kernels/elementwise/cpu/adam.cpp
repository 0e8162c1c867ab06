#include "kernels/elementwise/cpu/adam.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/instruction_set.h"
#include "kernels/elementwise/cpu/elements.h"

namespace lace::cpu {

namespace {

constexpr int64_t kChunk = 1 << 14;
constexpr int kLanes = 16;  // partial sums, so that the sum's order is fixed and it vectorises

int64_t chunk_count(const AdamArgs& args) { return (args.count + kChunk - 1) / kChunk; }

[[gnu::always_inline]] inline bool is_finite(double x) {
  return std::fabs(x) <= std::numeric_limits<double>::max();
}

// Σ g² of a chunk; with `finite`, of its finite elements.
template <typename Scalar>
[[gnu::always_inline]] inline double sum_of_squares(const Scalar* g, int64_t count, bool finite) {
  double lanes[kLanes] = {};
  const auto square = [=](int64_t i) {
    const auto x = static_cast<double>(g[i]);
    return finite && !is_finite(x) ? 0.0 : x * x;
  };
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int k = 0; k < kLanes; ++k) lanes[k] += square(i + k);
  }
  for (; i < count; ++i) lanes[i % kLanes] += square(i);
  double sum = 0;
  for (double lane : lanes) sum += lane;
  return sum;
}

struct Factors {
  double gradient, beta1, beta2, rate, epsilon, decay, ema;
  bool finite;  // gradients that are not count as 0
};

template <typename Scalar>
[[gnu::always_inline]] inline void update_elements(Scalar* __restrict p, const Scalar* __restrict g,
                                                   Scalar* __restrict m, Scalar* __restrict v,
                                                   int64_t count, const Factors& f) {
  const auto factor = static_cast<Scalar>(f.gradient);
  const auto beta1 = static_cast<Scalar>(f.beta1), one1 = static_cast<Scalar>(1 - f.beta1);
  const auto beta2 = static_cast<Scalar>(f.beta2), one2 = static_cast<Scalar>(1 - f.beta2);
  const auto rate = static_cast<Scalar>(f.rate);
  const auto epsilon = static_cast<Scalar>(f.epsilon), decay = static_cast<Scalar>(f.decay);
  for (int64_t i = 0; i < count; ++i) {
    const Scalar given = f.finite && !is_finite(g[i]) ? 0 : g[i];
    const Scalar gradient = given * factor;
    const Scalar mean = beta1 * m[i] + one1 * gradient;
    const Scalar square = beta2 * v[i] + one2 * gradient * gradient;
    m[i] = mean;
    v[i] = square;
    p[i] -= rate * (mean / (std::sqrt(square) + epsilon) + decay * p[i]);
  }
}

template <typename Scalar>
[[gnu::always_inline]] inline void update_ema(Scalar* __restrict ema, const Scalar* __restrict p,
                                              int64_t count, const Factors& f) {
  const auto keep = static_cast<Scalar>(f.ema), take = static_cast<Scalar>(1 - f.ema);
  for (int64_t i = 0; i < count; ++i) ema[i] = keep * ema[i] + take * p[i];
}

template <typename Scalar, typename T>
[[gnu::always_inline]] inline void copy_elements(T* __restrict to, const Scalar* __restrict p,
                                                 int64_t count) {
  for (int64_t i = 0; i < count; ++i) set(to + i, static_cast<float>(p[i]));
}

template <typename Scalar>
Scalar* at(void* array, int64_t i) {
  return static_cast<Scalar*>(array) + i;
}

template <typename Scalar>
void update_range(const AdamArgs& args, int64_t begin, int64_t end, const Factors& factors) {
  const int64_t count = end - begin;
  Scalar* p = at<Scalar>(args.values, begin);
  run_with_best<update_elements<Scalar>>(p, static_cast<const Scalar*>(args.gradients) + begin,
                                         at<Scalar>(args.m, begin), at<Scalar>(args.v, begin),
                                         count, factors);
  if (args.ema != nullptr) {
    run_with_best<update_ema<Scalar>>(at<Scalar>(args.ema, begin), p, count, factors);
  }
  if (args.copies == nullptr) return;
  if (args.compute == DType::kBFloat16) {
    run_with_best<copy_elements<Scalar, BFloat16>>(at<BFloat16>(args.copies, begin), p, count);
  } else {
    run_with_best<copy_elements<Scalar, Float16>>(at<Float16>(args.copies, begin), p, count);
  }
}

double sum_of_squares(const Context& context, const AdamArgs& args, bool finite) {
  std::vector<double> sums(static_cast<size_t>(chunk_count(args)));
  run_tasks(*context.executor, chunk_count(args), [&](int64_t chunk, int) {
    const int64_t begin = chunk * kChunk, count = std::min(kChunk, args.count - begin);
    double& sum = sums[static_cast<size_t>(chunk)];
    if (args.wide == DType::kFloat64) {
      const auto* g = static_cast<const double*>(args.gradients) + begin;
      sum = run_with_best<sum_of_squares<double>>(g, count, finite);
    } else {
      const auto* g = static_cast<const float*>(args.gradients) + begin;
      sum = run_with_best<sum_of_squares<float>>(g, count, finite);
    }
  });
  double sum = 0;
  for (const double part : sums) sum += part;
  return sum;
}

}  // namespace

void adam_norm(const Context& context, const AdamArgs& args) {
  StepState& state = *args.state;
  const double scale = state.loss_scale;
  double squares = sum_of_squares(context, args, false);
  state.overflowed = !std::isfinite(squares);
  if (state.overflowed != 0 && args.scaling.on) squares = sum_of_squares(context, args, true);
  state.norm = std::sqrt(squares) / scale;
  const bool clipped = args.clip_norm > 0 && state.norm > args.clip_norm;
  state.factor = (clipped ? args.clip_norm / state.norm : 1.0) / scale;
  if (!args.scaling.on) {
    if (state.overflowed != 0) state.failed = 1;
    return;
  }
  state.loss_scale =
      state.overflowed != 0 ? std::max(args.scaling.floor, scale / 2) : scale * args.scaling.growth;
}

void adam_step(const Context& context, const AdamArgs& args) {
  const StepState& state = *args.state;
  if (state.failed != 0) return;
  const Factors decayed{state.factor, args.beta1,        args.beta2,     *args.rate,
                        args.epsilon, args.weight_decay, args.ema_decay, args.scaling.on};
  Factors others = decayed;
  others.decay = 0;
  run_tasks(*context.executor, chunk_count(args), [&](int64_t chunk, int) {
    const int64_t begin = chunk * kChunk, end = std::min(args.count, begin + kChunk);
    const int64_t border = std::clamp(args.decayed, begin, end);
    const auto update = args.wide == DType::kFloat64 ? update_range<double> : update_range<float>;
    if (begin < border) update(args, begin, border, decayed);
    if (border < end) update(args, border, end, others);
  });
}

}  // namespace lace::cpu
