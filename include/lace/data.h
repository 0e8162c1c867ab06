#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lace/error.h"

namespace lace {

// Bytes that can be read from any place, in memory or elsewhere. Safe to read from several threads.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // Copies the bytes [offset, offset + out.size()), all of which the source said it has. Throws
  // lace::Error if it has them no longer.
  virtual void read(int64_t offset, std::span<uint8_t> out) const = 0;
};

// An immutable stream of bytes, joined from parts of sources. Copies share the sources. Safe to
// read from several threads.
class ByteStream {
 public:
  ByteStream() = default;

  // A stream that owns `bytes`.
  explicit ByteStream(std::vector<uint8_t> bytes);

  // Adds the bytes [begin, end) of a source at the end.
  void append(std::shared_ptr<const ByteSource> source, int64_t begin, int64_t end);

  // Adds another stream at the end.
  void append(const ByteStream& more);

  int64_t size() const { return size_; }

  // Copies bytes [offset, offset + out.size()). Throws lace::Error if they pass an end, or as the
  // source does.
  void read(int64_t offset, std::span<uint8_t> out) const;

  // Hands all bytes to `take` in order, at most kChunk at a time.
  void each_chunk(const std::function<void(std::span<const uint8_t>)>& take) const;
  static constexpr int64_t kChunk = 1 << 20;

  // The bytes [begin, end) as a stream of their own, sharing sources with this one.
  ByteStream slice(int64_t begin, int64_t end) const;

 private:
  struct Piece {
    std::shared_ptr<const ByteSource> source;
    int64_t begin;  // in the source
    int64_t start;  // in the stream
  };
  int64_t piece_end(size_t piece) const {
    return piece + 1 < pieces_.size() ? pieces_[piece + 1].start : size_;
  }

  std::vector<Piece> pieces_;  // none is empty
  int64_t size_ = 0;
};

// Text, that is any bytes, from files and folders.
//   files: every file named by `paths` or below a folder in it, once each whatever it is called,
//     sorted by path as bytes. Links to files and folders are followed. Below a folder are left out
//     hidden entries (".git"), pipes, sockets and devices, links that lead nowhere, what cannot be
//     read, and empty files: `notes` counts them.
//   records: each file is cut to whole records; what is left over at its end belongs to no split,
//     and `notes` names the file.
//   splits: with 21 files or more, by file: every 20th is test, the one after it validation, the
//     rest train. With fewer, the joined bytes are cut at records: train first, then the given
//     fractions for validation and test at the end. A split whose fraction is 0 gets nothing, in
//     either case.
// Paths are bytes, of any encoding; errors and notes show them as path_text() does.
struct TextOptions {
  std::vector<std::string> paths;
  double validation_fraction = 0.05;
  double test_fraction = 0.05;
  int64_t record_bytes = 1;  // of an image, for instance
  bool whole = false;        // no splits, whatever the fractions: all bytes are train
};

struct TextData {
  ByteStream train, validation, test;
  int64_t files = 0;  // that have bytes in a split
  std::vector<std::string>
      notes;  // a line for each kind of what was left out: "hidden: 2 (a/.b, …)"
};

// Small files are read at once, as long as they are 128 MiB together at most; of the others only
// what is asked for, when it is asked for, with at most 64 of them open at a time. A file that has
// been shortened or replaced by then is an error of that read, which names it.
// Throws lace::Error naming the path that cannot be read or is no file or folder, or if there are
// no bytes at all.
TextData load_text(const TextOptions& options);

// A path as valid UTF-8 on one line, to be shown, and to be kept in JSON and recipes: bytes that
// are no UTF-8 and control characters become \xNN (two hexadecimal digits), and so does a backslash
// that would read as the beginning of such a group. Other paths stay as they are.
std::string path_text(std::string_view path);

// The path that path_text() wrote: path_bytes(path_text(p)) == p for every p.
std::string path_bytes(std::string_view text);

// Which windows of a stream a training run sees, in which order. For each epoch a random offset in
// [0, window), from it windows that do not overlap, shuffled; the remainder is dropped. `aligned`:
// the offset is 0, so that each window is one record.
// A pure function of (size, window, seed) that needs no memory: window `index` is the same whatever
// was asked before.
class WindowSampler {
 public:
  // Throws lace::Error if the stream is shorter than one window.
  WindowSampler(int64_t stream_size, int64_t window, uint64_t seed, bool aligned = false);

  // The same number in every epoch.
  int64_t windows_per_epoch() const { return windows_; }

  // First byte of window `index`, counted from the start of the run over all epochs.
  int64_t begin(int64_t index) const;

 private:
  int64_t size_, window_, windows_;
  uint64_t seed_;
  bool aligned_;
};

// Bits a byte of Markov models of order 0 … max_order (at most 3), counted on one stream, on the
// bytes of another, with Witten–Bell interpolation:
//   p_k(c | h) = (count(h c) + types(h) · p_{k−1}(c | h')) / (count(h) + types(h)),
// h the k bytes before c, h' the last k − 1 of them, types(h) the number of distinct bytes seen
// after h, p_{−1} = 1/256; an unseen h leaves p_{k−1}. (Bell, Cleary, Witten 1990, section 6.3.)
std::vector<double> markov_bits_per_byte(const ByteStream& counted, const ByteStream& scored,
                                         int max_order = 3);

}  // namespace lace
