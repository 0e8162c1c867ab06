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

using Bytes = std::vector<uint8_t>;

void check(const SparseTransformer& model, const SampleOptions& options, int64_t count) {
  LACE_CHECK(model.config().vocab == 256, "[sample] bytes need a vocabulary of 256, got ",
             model.config().vocab);
  LACE_CHECK(options.length >= 0, "[sample] length must be at least 0, got ", options.length);
  LACE_CHECK(options.temperature >= 0, "[sample] temperature must be at least 0, got ",
             options.temperature);
  LACE_CHECK(options.top_k >= 0, "[sample] top_k must be at least 0, got ", options.top_k);
  LACE_CHECK(options.top_p > 0 && options.top_p <= 1, "[sample] top_p must be in (0, 1], got ",
             options.top_p);
  LACE_CHECK(count >= 1, "[sample] count must be at least 1, got ", count);
}

// What `count` sequences were and will be: the prompt and what each has drawn.
class Sampler {
 public:
  Sampler(const SparseTransformer& model, std::span<const uint8_t> prompt, int64_t count)
      : model_(model),
        seq_len_(static_cast<size_t>(model.config().seq_len)),
        kept_(std::max<size_t>(1, seq_len_ / 2)),
        histories_(static_cast<size_t>(count), Bytes(prompt.begin(), prompt.end())) {
    // All begin alike: one is decoded, the others are its copies.
    begin_ = prompt.size() < seq_len_ ? 0 : prompt.size() - kept_;
    state_ = model_.start_decoding(1);
    logits_ = model_.decode(*state_, last(prompt.size() - begin_, 1));
    if (count > 1) {
      state_ = state_->fork(count);
      logits_ = logits_.repeat({count, 1});
    }
  }

  // Of the next byte: float [count, 256].
  at::Tensor logits() const { return logits_.to(at::kFloat).contiguous(); }

  void append(std::span<const uint8_t> bytes) {
    for (size_t i = 0; i < histories_.size(); ++i) histories_[i].push_back(bytes[i]);
  }

  // Finds the logits behind the bytes appended.
  void advance() {
    const size_t size = histories_[0].size();
    size_t fresh = 1;
    if (size - begin_ >= seq_len_) {
      begin_ = size - kept_;
      fresh = kept_;
      state_ = model_.start_decoding(state_->batch());
    }
    logits_ = model_.decode(*state_, last(fresh, histories_.size()));
  }

 private:
  // The last `n` bytes of the first `count` sequences.
  at::Tensor last(size_t n, size_t count) const {
    const at::Tensor tokens =
        at::empty({static_cast<int64_t>(count), static_cast<int64_t>(n)}, at::kByte);
    auto* to = tokens.mutable_data_ptr<uint8_t>();
    for (size_t i = 0; i < count; ++i) {
      to = std::copy(histories_[i].end() - static_cast<std::ptrdiff_t>(n), histories_[i].end(), to);
    }
    return tokens;
  }

  const SparseTransformer& model_;
  size_t seq_len_, kept_;
  std::vector<Bytes> histories_;
  size_t begin_ = 0;  // the state holds histories_[i][begin_, …)
  std::shared_ptr<DecodeState> state_;
  at::Tensor logits_;
};

}  // namespace

std::vector<Bytes> sample_together(const SparseTransformer& model, std::span<const uint8_t> prompt,
                                   const SampleOptions& options, int64_t count,
                                   const std::function<bool(std::span<const uint8_t>)>& on_bytes) {
  check(model, options, count);
  const auto sequences = static_cast<size_t>(count);
  std::vector<Bytes> drawn(sequences);
  if (options.length == 0) return drawn;
  Sampler sampler(model, prompt, count);
  Bytes bytes(sequences);
  for (int64_t i = 0;;) {
    const at::Tensor logits = sampler.logits();
    for (size_t s = 0; s < sequences; ++s) {
      const double unit = random_unit(random_bits(options.seed, s, static_cast<uint64_t>(i)));
      bytes[s] = static_cast<uint8_t>(
          generate::draw({logits.const_data_ptr<float>() + s * 256, 256}, options, unit));
      drawn[s].push_back(bytes[s]);
    }
    if ((on_bytes && !on_bytes(bytes)) || ++i == options.length) break;
    sampler.append(bytes);
    sampler.advance();
  }
  return drawn;
}

std::vector<uint8_t> sample(const SparseTransformer& model, std::span<const uint8_t> prompt,
                            const SampleOptions& options,
                            const std::function<bool(uint8_t)>& on_byte) {
  const auto on_bytes = [&](std::span<const uint8_t> bytes) {
    return !on_byte || on_byte(bytes[0]);
  };
  return std::move(sample_together(model, prompt, options, 1, on_bytes)[0]);
}

}  // namespace lace
