#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
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
  size_t piece_at(int64_t offset) const;  // of a byte that there is
  int64_t piece_end(size_t piece) const {
    return piece + 1 < pieces_.size() ? pieces_[piece + 1].start : size_;
  }

  std::vector<Piece> pieces_;  // none is empty
  int64_t size_ = 0;
};

enum class DataKind { kText, kImages, kAudio };
std::string_view name(DataKind kind);  // "text", "images", "audio"
DataKind parse_data_kind(std::string_view text);

// One split of a data set: its bytes, and where the pieces end that no window may cross. A track of
// audio is a piece; all of text is one, and so are images, whose windows are records.
struct DataSplit {
  DataSplit() = default;
  DataSplit(ByteStream all) : bytes(std::move(all)) {}  // one piece

  int64_t size() const { return bytes.size(); }
  // How many pieces there are: none in an empty split.
  int64_t pieces() const;
  // The first byte of piece `i`, and the one past its last.
  int64_t piece_begin(int64_t i) const;
  int64_t piece_end(int64_t i) const;
  // Of audio the name of the track's file, without its folder; "" where pieces have none.
  std::string piece_name(int64_t i) const;
  // Adds bytes as a piece of their own.
  void append_piece(const ByteStream& piece, const std::string& name = "");

  ByteStream bytes;
  std::vector<int64_t> piece_ends;       // ascending, the last is size(); empty: one piece
  std::vector<std::string> piece_names;  // of each of piece_ends
};

// What a model is trained, validated and tested on.
struct Dataset {
  DataKind kind = DataKind::kText;
  DataSplit train, validation, test;
  int64_t record_bytes = 0;  // windows are records of this size (images); 0: there are none
  int64_t files = 0;         // that have bytes in a split
  // A line for each kind of what was left out: "hidden: 2 (a/.b, …)".
  std::vector<std::string> notes;
  std::vector<std::string> remarks;  // what else there is to say of the splits
};

// Which files a split is made of.
enum class SplitBy { kAuto, kBytes, kFiles };
std::string_view name(SplitBy by);  // "auto", "bytes", "files"
SplitBy parse_split_by(std::string_view text);

// Text, that is any bytes, from files and folders.
//   files: every file named by `paths` or below a folder in it, once each whatever it is called,
//     sorted by path as bytes. Links to files and folders are followed. Below a folder are left out
//     hidden entries (".git"), pipes, sockets and devices, links that lead nowhere, what cannot be
//     read, and empty files: `notes` counts them.
//   packed files: what gzip, xz or zstd have made, by the first bytes, counts as what it unpacks
//     to; that is kept in `cache`, under a name made of the file's path, size and time, so that the
//     next load finds it there. Damaged files are an error that names the file and the byte.
//   records: each file is cut to whole records; what is left over at its end belongs to no split,
//     and `notes` names the file.
//   splits: kFiles: every 20th file is test, the one after it validation, the rest train. kBytes:
//     the joined bytes are cut at records: train first, then the given fractions for validation and
//     test at the end. kAuto: by file with 21 files or more, else by bytes. A split whose fraction
//     is 0 gets nothing, in either case.
// Paths are bytes, of any encoding; errors and notes show them as path_text() does.
struct TextOptions {
  std::vector<std::string> paths;
  double validation_fraction = 0.05;
  double test_fraction = 0.05;
  SplitBy split = SplitBy::kAuto;
  int64_t record_bytes = 0;  // 0: none, any byte may be a window's first
  bool whole = false;        // no splits, whatever the fractions: all bytes are train
  std::string cache = {};    // folder for what files unpack to
};

// Small files are read at once, as long as they are 128 MiB together at most; of the others only
// what is asked for, when it is asked for, with at most 64 of them open at a time. A file that has
// been shortened or replaced by then is an error of that read, which names it.
// Throws lace::Error naming the path that cannot be read or is no file or folder, or if there are
// no bytes at all.
Dataset load_text(const TextOptions& options);

// How an image of another size comes to that of a record.
enum class ImageResize {
  kNone,     // it is an error
  kStretch,  // by area, sides on their own
  kCrop,     // what has the record's shape in the middle, by area
};
std::string_view name(ImageResize resize);  // "none", "stretch", "crop"
ImageResize parse_image_resize(std::string_view text);

// Images, as records of height · width · channels bytes: row by row, the channels of a pixel side
// by side, in the order of their files, which are found as load_text() finds them. By content:
//   PNG and JPEG: one image each, as decode_image, with_channels and resized (lace/image.h) make
//   it. CIFAR-10's binary files, data_batch_N.bin and test_batch.bin: a label, which is left out,
//   and
//     three planes of 32 × 32 for each image.
//   raw: records one after the other, also packed with gzip, xz or zstd: every other file that is
//     named by `paths` itself, and below a folder those called *.hwc, *.raw and *.bin (.gz, .xz,
//     .zst). Below a folder others are left out, and `notes` counts them.
// Splits: the images of test_batch.bin are test. The others are put into a random order, always the
// same for so many images; its last ones are test, those before them validation, as the fractions
// say, rounded down, and the rest train. Within a split they stand in the order of their files.
// What must be decoded or unpacked is, once, into `cache`.
struct ImageOptions {
  std::vector<std::string> paths;
  int64_t height = 0, width = 0, channels = 0;
  double validation_fraction = 0.05;  // of the images
  double test_fraction = 0.05;
  ImageResize resize = ImageResize::kNone;
  bool whole = false;      // all images are train, in the order of their files
  std::string cache = {};  // folder for what files unpack or decode to
};

// Throws lace::Error naming the file that is damaged, cut off, of another size or kind, and what
// load_text() throws of paths.
Dataset load_images(const ImageOptions& options);

// Audio: WAV, FLAC, Ogg (Vorbis, Opus) and MP3 files, found as text is; below a folder, files that
// are none of these are left out. Every file is a track, and a piece of its split: the mean of its
// channels, resampled by libsamplerate's best sinc filter, as 8-bit µ-law codes (lace/audio.h),
// decoded once into a file of the cache.
//   splits: whole tracks, dealt by a hash of their names and lengths: validation, then test takes
//     those that fit into its fraction of all samples, at least the shortest; the rest is train.
//     With fewer tracks than splits each track is cut by time, train first, and `remarks` says so.
struct AudioOptions {
  std::vector<std::string> paths;
  double validation_fraction = 0.05;  // of the samples
  double test_fraction = 0.05;
  int64_t sample_rate = 12000;  // Hz
  bool whole = false;           // all tracks are train
  std::string cache = {};       // folder for what files decode to
};

// Throws lace::Error naming the file that is named and no audio, cut off, damaged or empty, holds a
// sample that is no finite number, or has a rate more than 256 times as high or low as sample_rate;
// as load_text of paths; if there is no audio at all; if the cache cannot be written.
Dataset load_audio(const AudioOptions& options);

// A path as valid UTF-8 on one line, to be shown, and to be kept in JSON and recipes: bytes that
// are no UTF-8 and control characters become \xNN (two hexadecimal digits), and so does a backslash
// that would read as the beginning of such a group. Other paths stay as they are.
std::string path_text(std::string_view path);

// The path that path_text() wrote: path_bytes(path_text(p)) == p for every p.
std::string path_bytes(std::string_view text);

// Which windows of a split a training run sees, in which order. For each epoch and each piece a
// random offset in [0, window), from it windows that do not overlap, all shuffled together; what
// remains of a piece is dropped, and pieces shorter than a window have none. `aligned`: the offsets
// are 0, so that each window is one record.
// A pure function of (pieces, window, seed): window `index` is the same whatever was asked before.
// Memory grows with the pieces alone.
class WindowSampler {
 public:
  // Throws lace::Error if no piece is as long as a window.
  WindowSampler(const DataSplit& split, int64_t window, uint64_t seed, bool aligned = false);
  // Of a stream of one piece.
  WindowSampler(int64_t stream_size, int64_t window, uint64_t seed, bool aligned = false);

  // The same number in every epoch.
  int64_t windows_per_epoch() const { return windows_; }

  // First byte of window `index`, counted from the start of the run over all epochs.
  int64_t begin(int64_t index) const;

 private:
  struct Piece {
    int64_t begin, size;
    int64_t first;    // window of the epoch, before the shuffle
    int64_t windows;  // at least 1
    uint64_t number;  // in the split
  };
  void add_piece(int64_t begin, int64_t size, uint64_t number);
  void check_fits(int64_t size, int64_t pieces) const;

  std::vector<Piece> pieces_;
  int64_t window_, windows_ = 0;
  uint64_t seed_;
  bool aligned_;
};

// The first bytes of at most `most` windows of a split, spread evenly over all that lie one after
// the other from the beginning of each piece; none where no piece is as long as a window.
std::vector<int64_t> spread_windows(const DataSplit& split, int64_t window, int64_t most);

// Bits a byte of Markov models of order 0 … max_order (at most 3), counted on one stream, on the
// bytes of another, with Witten–Bell interpolation:
//   p_k(c | h) = (count(h c) + types(h) · p_{k−1}(c | h')) / (count(h) + types(h)),
// h the k bytes before c, h' the last k − 1 of them, types(h) the number of distinct bytes seen
// after h, p_{−1} = 1/256; an unseen h leaves p_{k−1}. (Bell, Cleary, Witten 1990, section 6.3.)
std::vector<double> markov_bits_per_byte(const ByteStream& counted, const ByteStream& scored,
                                         int max_order = 3);

}  // namespace lace
