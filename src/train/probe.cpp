#include "lace/probe.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numbers>

#include <ATen/ATen.h>

#include "lace/model.h"

#include "data/random.h"
#include "train/batch.h"
#include "train/interval.h"

namespace lace {
namespace {

enum Stream : uint64_t { kFiller = 0x6669, kRepeated = 0x7265, kOther = 0x6f74 };  // + trial << 32

void check(const ProbeOptions& options, int64_t seq_len) {
  LACE_CHECK(seq_len >= 2, "[probe] seq_len must be at least 2, got ", seq_len);
  for (const int64_t length : options.lengths)
    LACE_CHECK(1 <= length && length <= seq_len / 2, "[probe] lengths must be in [1, ", seq_len / 2,
               "], half of seq_len, got ", length);
  LACE_CHECK(!options.depths.empty(), "[probe] depths must be one at least, got none");
  for (const double depth : options.depths)
    LACE_CHECK(0 <= depth && depth <= 1, "[probe] depths must be in [0, 1], got ", depth);
  LACE_CHECK(options.trials >= 1, "[probe] trials must be at least 1, got ", options.trials);
  LACE_CHECK(options.windows >= 0, "[probe] windows must be at least 0, got ", options.windows);
  LACE_CHECK(options.batch >= 1, "[probe] batch must be at least 1, got ", options.batch);
}

bool has_window(const DataSplit& split, int64_t window) {
  for (int64_t i = 0; i < split.pieces(); ++i)
    if (split.piece_end(i) - split.piece_begin(i) >= window) return true;
  return false;
}

// What the windows of trials are made of, the same whenever it is asked for.
class Source {
 public:
  Source(const DataSplit& split, const ProbeOptions& options, int64_t seq_len, int64_t vocab)
      : split_(split), seed_(options.seed), seq_len_(seq_len), vocab_(vocab) {
    if (has_window(split, seq_len)) sampler_.emplace(split, seq_len, options.seed, options.aligned);
  }
  bool random() const { return !sampler_; }

  std::vector<uint8_t> filler(int64_t trial) const {
    if (!sampler_) return symbols(kFiller, trial, seq_len_);
    std::vector<uint8_t> bytes(static_cast<size_t>(seq_len_));
    split_.bytes.read(sampler_->begin(trial), bytes);
    return bytes;
  }

  // A random string: each byte from any place of the split.
  std::vector<uint8_t> string(Stream kind, int64_t trial, int64_t length) const {
    if (!sampler_) return symbols(kind, trial, length);
    std::vector<uint8_t> bytes(static_cast<size_t>(length));
    for (size_t i = 0; i < bytes.size(); ++i)
      split_.bytes.read(random_below(bits(kind, trial, length, i), split_.size()), {&bytes[i], 1});
    return bytes;
  }

 private:
  uint64_t bits(Stream kind, int64_t trial, int64_t length, size_t i) const {
    return random_bits(seed_, kind + (static_cast<uint64_t>(trial) << 32),
                       (static_cast<uint64_t>(length) << 32) + i);
  }
  std::vector<uint8_t> symbols(Stream kind, int64_t trial, int64_t length) const {
    std::vector<uint8_t> bytes(static_cast<size_t>(length));
    for (size_t i = 0; i < bytes.size(); ++i)
      bytes[i] = static_cast<uint8_t>(random_below(bits(kind, trial, length, i), vocab_));
    return bytes;
  }

  const DataSplit& split_;
  uint64_t seed_;
  int64_t seq_len_, vocab_;
  std::optional<WindowSampler> sampler_;
};

// Bits of each symbol of windows, float64 [windows, n].
at::Tensor window_bits(const SparseTransformer& model, const at::Tensor& tokens) {
  return model.nats(tokens.to(model.device())).cpu().to(at::kDouble) / std::numbers::ln2;
}

void put(const std::vector<uint8_t>& bytes, uint8_t* row, int64_t at) {
  std::copy(bytes.begin(), bytes.end(), row + at);
}

// Means over the trials of one cell. The two kinds of windows are scored in batches of one shape,
// a trial's at the same place in both: a model then computes what is equal in both alike, to the
// bit.
CopyCell copy_cell(const SparseTransformer& model, const Source& source,
                   const ProbeOptions& options, int64_t length, double depth,
                   const std::function<void(int64_t)>& on_windows) {
  const int64_t seq_len = model.config().seq_len;
  const auto place = std::llround(depth * static_cast<double>(seq_len - 2 * length));
  std::vector<double> copied, fresh, gain;
  for (int64_t first = 0; first < options.trials; first += options.batch) {
    const int64_t count = std::min(options.batch, options.trials - first);
    const at::Tensor same = at::empty({count, seq_len}, at::kByte);
    const at::Tensor other = at::empty_like(same);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t trial = first + i;
      const std::vector<uint8_t> filler = source.filler(trial),
                                 repeated = source.string(kRepeated, trial, length);
      uint8_t* rows[] = {same[i].data_ptr<uint8_t>(), other[i].data_ptr<uint8_t>()};
      for (uint8_t* row : rows) {
        put(filler, row, 0);
        put(repeated, row, seq_len - length);
      }
      put(repeated, rows[0], place);
      put(source.string(kOther, trial, length), rows[1], place);
    }
    const auto mean_of_repeat = [&](const at::Tensor& tokens) {
      return window_bits(model, tokens).narrow(1, seq_len - length, length).mean(1);
    };
    const at::Tensor a = mean_of_repeat(same), b = mean_of_repeat(other);
    for (int64_t i = 0; i < count; ++i) {
      copied.push_back(a[i].item<double>());
      fresh.push_back(b[i].item<double>());
      gain.push_back(fresh.back() - copied.back());
    }
    on_windows(2 * count);
  }
  return {.length = length,
          .depth = depth,
          .distance = seq_len - length - place,
          .copied = train::mean_of(copied),
          .fresh = train::mean_of(fresh),
          .gain = train::mean_of(gain)};
}

std::vector<PositionBin> position_bins(const SparseTransformer& model, const DataSplit& split,
                                       const std::vector<int64_t>& begins,
                                       const ProbeOptions& options,
                                       const std::function<void(int64_t)>& on_windows) {
  const int64_t seq_len = model.config().seq_len;
  std::vector<PositionBin> bins;
  for (int64_t begin = 0; begin < seq_len; begin = bins.back().end)
    bins.push_back({.begin = begin, .end = std::min(seq_len, std::max<int64_t>(1, 2 * begin))});
  std::vector<std::vector<double>> values(bins.size());  // of each bin, a mean a window
  for (size_t first = 0; first < begins.size();) {
    const size_t count = std::min(static_cast<size_t>(options.batch), begins.size() - first);
    const auto from = begins.begin() + static_cast<int64_t>(first);
    const at::Tensor bits = window_bits(
        model,
        train::read_windows(split.bytes, {from, from + static_cast<int64_t>(count)}, seq_len));
    for (size_t bin = 0; bin < bins.size(); ++bin) {
      const at::Tensor means =
          bits.narrow(1, bins[bin].begin, bins[bin].end - bins[bin].begin).mean(1);
      for (size_t i = 0; i < count; ++i)
        values[bin].push_back(means[static_cast<int64_t>(i)].item<double>());
    }
    first += count;
    on_windows(static_cast<int64_t>(count));
  }
  for (size_t bin = 0; bin < bins.size(); ++bin) {
    bins[bin].bytes = (bins[bin].end - bins[bin].begin) * static_cast<int64_t>(begins.size());
    bins[bin].bits_per_byte = train::mean_of(values[bin]);
  }
  return bins;
}

}  // namespace

std::vector<int64_t> probe_lengths(int64_t seq_len) {
  std::vector<int64_t> lengths;
  for (const int64_t length : {8, 32, 128})
    if (4 * length <= seq_len) lengths.push_back(length);
  if (lengths.empty()) lengths.push_back(std::max<int64_t>(1, seq_len / 4));
  return lengths;
}

ProbeResult probe(const SparseTransformer& model, const DataSplit& filler,
                  const ProbeOptions& given,
                  const std::function<void(int64_t, int64_t)>& on_window) {
  const int64_t seq_len = model.config().seq_len;
  const int64_t vocab = std::min<int64_t>(model.config().vocab, 256);  // symbols are bytes
  ProbeOptions options = given;
  if (options.lengths.empty()) options.lengths = probe_lengths(seq_len);
  check(options, seq_len);
  const auto start = std::chrono::steady_clock::now();
  const Source source(filler, options, seq_len, vocab);
  ProbeResult result{.seq_len = seq_len,
                     .random_filler = source.random(),
                     .lengths = options.lengths,
                     .depths = options.depths,
                     .trials = options.trials};
  std::vector<int64_t> begins;
  if (!source.random() && options.windows > 0)
    begins = spread_windows(filler, seq_len, options.windows);
  result.position_windows = static_cast<int64_t>(begins.size());
  const auto cells = static_cast<int64_t>(options.lengths.size() * options.depths.size());
  const int64_t total = 2 * cells * options.trials + result.position_windows;
  int64_t done = 0;
  const auto count = [&](int64_t windows) {
    done += windows;
    if (on_window) on_window(done, total);
  };
  for (const int64_t length : options.lengths)
    for (const double depth : options.depths)
      result.cells.push_back(copy_cell(model, source, options, length, depth, count));
  if (!begins.empty()) result.positions = position_bins(model, filler, begins, options, count);
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  result.elapsed_s = elapsed.count();
  return result;
}

}  // namespace lace
