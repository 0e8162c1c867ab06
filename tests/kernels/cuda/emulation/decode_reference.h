#pragma once

#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "lace/pattern.h"

#include "kernels/decode/cuda/machine.cuh"  // the emulated one, before all else
#include "kernels/decode/gpu_decode.h"
#include "kernels/elementwise/cuda/vectors.cuh"

// A model and how it is decoded by plain loops in float64 that round where the kernel does.

namespace lace::cuda::decode {

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

  // Of cache layer · kv_heads + kv_head.
  const Numbers64& key(size_t cache, int64_t position) const {
    return keys_[cache][static_cast<size_t>(position)];
  }
  const Numbers64& value(size_t cache, int64_t position) const {
    return values_[cache][static_cast<size_t>(position)];
  }
  // As a pass of the model leaves them.
  void round_keys() {
    for (std::vector<Numbers64>& keys : keys_) {
      for (Numbers64& key : keys) key = rounded_all(key);
    }
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

}  // namespace lace::cuda::decode
