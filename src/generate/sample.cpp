#include <algorithm>
#include <cmath>
#include <numeric>

#include <ATen/ATen.h>

#include "lace/generate.h"

#include "data/random.h"
#include "generate/draw.h"

namespace lace {
namespace generate {

int64_t draw(std::span<const float> logits, const SampleOptions& options, double unit) {
  std::vector<int64_t> order(logits.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  const auto logit = [&](int64_t i) { return static_cast<double>(logits[static_cast<size_t>(i)]); };
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return logit(a) > logit(b); });
  if (options.temperature == 0) return order.front();
  if (options.top_k > 0 && options.top_k < static_cast<int64_t>(order.size()))
    order.resize(static_cast<size_t>(options.top_k));
  std::vector<double> weights;
  for (const int64_t i : order)
    weights.push_back(std::exp((logit(i) - logit(order.front())) / options.temperature));
  double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  double kept = 0;
  size_t count = 0;
  while (count < weights.size() && (count == 0 || kept < options.top_p * total))
    kept += weights[count++];
  double target = unit * kept;
  for (size_t i = 0; i < count; ++i) {
    target -= weights[i];
    if (target < 0) return order[i];
  }
  return order[count - 1];
}

}  // namespace generate

namespace {

at::Tensor as_tensor(std::span<const uint8_t> bytes, at::Device device) {
  at::Tensor tensor = at::empty({1, static_cast<int64_t>(bytes.size())}, at::kByte);
  std::copy(bytes.begin(), bytes.end(), tensor.data_ptr<uint8_t>());
  return tensor.to(device);
}

}  // namespace

std::vector<uint8_t> sample(const SparseTransformer& model, std::span<const uint8_t> prompt,
                            const SampleOptions& options,
                            const std::function<bool(uint8_t)>& on_byte) {
  LACE_CHECK(model.config().vocab == 256, "[sample] bytes need a vocabulary of 256, got ",
             model.config().vocab);
  LACE_CHECK(options.length >= 0, "[sample] length must be at least 0, got ", options.length);
  LACE_CHECK(options.temperature >= 0, "[sample] temperature must be at least 0, got ",
             options.temperature);
  LACE_CHECK(options.top_k >= 0, "[sample] top_k must be at least 0, got ", options.top_k);
  LACE_CHECK(options.top_p > 0 && options.top_p <= 1, "[sample] top_p must be in (0, 1], got ",
             options.top_p);
  const at::Device device = model.device();
  const auto seq_len = static_cast<size_t>(model.config().seq_len);
  const size_t kept = std::max<size_t>(1, seq_len / 2);
  std::vector<uint8_t> history(prompt.begin(), prompt.end());
  // The cache holds history[begin, history.size()).
  size_t begin = history.size() < seq_len ? 0 : history.size() - kept;
  auto state = model.start_decoding(1);
  at::Tensor logits = model.decode(*state, as_tensor(std::span(history).subspan(begin), device));
  std::vector<uint8_t> drawn;
  for (int64_t i = 0; i < options.length; ++i) {
    const at::Tensor row = logits.cpu().to(at::kFloat).contiguous();
    const double unit = random_unit(random_bits(options.seed, 0, static_cast<uint64_t>(i)));
    const auto byte = static_cast<uint8_t>(generate::draw(
        {row.const_data_ptr<float>(), static_cast<size_t>(row.numel())}, options, unit));
    drawn.push_back(byte);
    history.push_back(byte);
    if ((on_byte && !on_byte(byte)) || i + 1 == options.length) break;
    if (history.size() - begin < seq_len) {
      logits = model.decode(*state, as_tensor(std::span(history).last(1), device));
    } else {
      begin = history.size() - kept;
      state = model.start_decoding(1);
      logits = model.decode(*state, as_tensor(std::span(history).subspan(begin), device));
    }
  }
  return drawn;
}

}  // namespace lace
