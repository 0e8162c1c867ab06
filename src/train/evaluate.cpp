#include <algorithm>
#include <chrono>
#include <numbers>

#include <ATen/ATen.h>

#include "lace/train.h"

#include "train/batch.h"

namespace lace {

EvalResult evaluate(const SparseTransformer& model, const ByteStream& stream,
                    const EvalConfig& config,
                    const std::function<void(int64_t, int64_t)>& on_window) {
  const int64_t window = model.config().seq_len;
  const int64_t advance = window - config.min_context;
  LACE_CHECK(stream.size() > 0, "[evaluate] there are no bytes to score");
  LACE_CHECK(config.min_context >= 0 && advance > 0, "[evaluate] min_context must be in [0, ",
             window, "), got ", config.min_context);
  LACE_CHECK(config.batch > 0, "[evaluate] batch must be above 0, got ", config.batch);
  const auto start = std::chrono::steady_clock::now();
  const int64_t size = stream.size();
  const int64_t windows = size <= window ? 1 : 1 + (size - window + advance - 1) / advance;
  double nats = 0;
  for (int64_t first = 0; first < windows;) {
    // Windows of one batch are of one length: only the stream's last is shorter.
    const bool last_is_short = (windows - 1) * advance + window > size;
    const int64_t full = windows - (last_is_short ? 1 : 0);
    const int64_t count = first < full ? std::min(config.batch, full - first) : 1;
    std::vector<int64_t> begins;
    for (int64_t i = 0; i < count; ++i) begins.push_back((first + i) * advance);
    const int64_t length = std::min(window, size - begins.front());
    const at::Tensor scores =
        model.nats(train::read_windows(stream, begins, length, model.device()))
            .cpu()
            .to(at::kDouble);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t skip = first + i == 0 ? 0 : config.min_context;
      nats += scores[i].narrow(0, skip, length - skip).sum().item<double>();
    }
    first += count;
    if (on_window) on_window(first, windows);
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  return {nats / static_cast<double>(size) / std::numbers::ln2, size, elapsed.count()};
}

EvalResult evaluate(const SparseTransformer& model, const DataSplit& split,
                    const EvalConfig& config,
                    const std::function<void(int64_t, int64_t)>& on_window) {
  if (split.pieces() <= 1) return evaluate(model, split.bytes, config, on_window);
  EvalResult all;
  for (int64_t i = 0; i < split.pieces(); ++i) {
    const int64_t begin = split.piece_begin(i), end = split.piece_end(i);
    const EvalResult piece = evaluate(model, split.bytes.slice(begin, end), config);
    all.bits_per_byte += piece.bits_per_byte * static_cast<double>(piece.bytes);
    all.bytes += piece.bytes;
    all.elapsed_s += piece.elapsed_s;
    if (on_window) on_window(end, split.size());
  }
  all.bits_per_byte /= static_cast<double>(all.bytes);
  return all;
}

}  // namespace lace
