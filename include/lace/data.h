#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "lace/error.h"

namespace lace {

// An immutable stream of bytes, joined from pieces in memory or mapped from files. Copies share
// the pieces. Safe to read from several threads.
class ByteStream {
 public:
  ByteStream() = default;

  // A stream that owns `bytes`.
  explicit ByteStream(std::vector<uint8_t> bytes);

  // Adds a piece at the end; `owner` keeps its memory alive.
  void append(std::span<const uint8_t> bytes, std::shared_ptr<const void> owner);

  int64_t size() const { return size_; }

  // Copies bytes [offset, offset + out.size()). Throws lace::Error if they pass an end.
  void read(int64_t offset, std::span<uint8_t> out) const;

  // The bytes [begin, end) as a stream of their own, sharing memory with this one.
  ByteStream slice(int64_t begin, int64_t end) const;

  const std::vector<std::span<const uint8_t>>& pieces() const { return pieces_; }

 private:
  std::vector<std::span<const uint8_t>> pieces_;
  std::vector<int64_t> starts_;  // of each piece in the stream
  std::vector<std::shared_ptr<const void>> owners_;
  int64_t size_ = 0;
};

// Text, that is any bytes, from files and folders.
//   files: every regular file named by `paths` or below a folder in it, sorted by path as bytes;
//     hidden entries (".git") and symbolic links below a folder are left out.
//   splits: with 21 files or more, by file: every 20th is test, the one after it validation, the
//     rest train. With fewer, the joined bytes are cut: train first, then the given fractions for
//     validation and test at the end.
struct TextOptions {
  std::vector<std::string> paths;
  double validation_fraction = 0.05;
  double test_fraction = 0.05;
  int64_t record_bytes = 1;  // cuts fall on multiples of it (of an image's bytes, for instance)
  bool whole = false;        // no splits, whatever the fractions: all bytes are train
};

struct TextData {
  ByteStream train, validation, test;
  int64_t files = 0;
};

// Maps the files (small ones are read). Throws lace::Error naming the path that cannot be read, or
// if there are no bytes at all.
TextData load_text(const TextOptions& options);

// Which windows of a stream a training run sees, in which order. For each epoch a random offset in
// [0, window), from it windows that do not overlap, shuffled; the remainder is dropped. `aligned`:
// the offset is 0, so that each window is one record.
// A pure function of (size, window, seed): window `index` is the same whatever was asked before.
class WindowSampler {
 public:
  // Throws lace::Error if the stream is shorter than one window.
  WindowSampler(int64_t stream_size, int64_t window, uint64_t seed, bool aligned = false);

  // The same number in every epoch.
  int64_t windows_per_epoch() const { return windows_; }

  // First byte of window `index`, counted from the start of the run over all epochs.
  int64_t begin(int64_t index);

 private:
  void shuffle_epoch(int64_t epoch);

  int64_t size_, window_, windows_;
  uint64_t seed_;
  bool aligned_;
  int64_t epoch_ = -1;  // the one that order_ holds
  int64_t offset_ = 0;
  std::vector<int64_t> order_;
};

// Bits a byte of Markov models of order 0 … max_order (at most 3), counted on one stream, on the
// bytes of another, with Witten–Bell interpolation:
//   p_k(c | h) = (count(h c) + types(h) · p_{k−1}(c | h')) / (count(h) + types(h)),
// h the k bytes before c, h' the last k − 1 of them, types(h) the number of distinct bytes seen
// after h, p_{−1} = 1/256; an unseen h leaves p_{k−1}. (Bell, Cleary, Witten 1990, section 6.3.)
std::vector<double> markov_bits_per_byte(const ByteStream& counted, const ByteStream& scored,
                                         int max_order = 3);

}  // namespace lace
