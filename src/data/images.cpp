#include <algorithm>
#include <array>
#include <exception>
#include <filesystem>
#include <set>
#include <thread>
#include <utility>

#include "core/work_pool.h"
#include "data/cache.h"
#include "data/decode_image.h"
#include "data/find_files.h"
#include "data/shuffle.h"
#include "data/unpacked_file.h"

namespace lace {
namespace {

constexpr uint64_t kDealSeed = 11172018;  // that of the authors' later code, for another generator
constexpr int64_t kCifarSide = 32, kCifarChannels = 3, kCifarClasses = 10;
constexpr int64_t kCifarRecord = 1 + kCifarSide * kCifarSide * kCifarChannels;
constexpr int64_t kMaxFile = int64_t{1} << 29;  // 2^26 pixels of four channels in 16 bits
constexpr int64_t kTaskRecords = 256;           // of CIFAR, at once
constexpr size_t kTasksInMemory = 256;

enum class Format { kCoded, kCifar, kRaw, kNone };

struct Item {
  FoundFile file;
  Format format;
  int64_t images;
  bool is_test;
};

std::string file_name(const std::string& path) {
  return std::filesystem::path(path).filename().native();
}

bool is_cifar(const std::string& name) {
  const std::string_view text = name;
  return text == "test_batch.bin" ||
         (text.starts_with("data_batch_") && text.ends_with(".bin") && text.size() <= 20);
}

bool is_raw(std::string_view name) {
  for (const std::string_view packed : {".gz", ".xz", ".zst"})
    if (name.ends_with(packed)) name.remove_suffix(packed.size());
  return name.ends_with(".hwc") || name.ends_with(".raw") || name.ends_with(".bin");
}

Format format_of(const FoundFile& file, bool is_named) {
  const std::string name = file_name(file.path);
  std::array<uint8_t, kImageMagicBytes> buffer;
  const auto beginning =
      std::span(buffer).first(static_cast<size_t>(std::min(kImageMagicBytes, file.bytes)));
  OpenFiles().get(file)->read(file, 0, beginning);
  if (is_png(beginning) || is_jpeg(beginning)) return Format::kCoded;
  if (is_cifar(name)) return Format::kCifar;
  return is_named || is_raw(name) ? Format::kRaw : Format::kNone;
}

// Images of the files, found and decoded, in the order of their files.
class ImageFiles {
 public:
  explicit ImageFiles(const ImageOptions& options) : options_(options) {
    const std::set<std::string> named(options.paths.begin(), options.paths.end());
    for (const FoundFile& file : find_files(options.paths, left_out_))
      add(file, format_of(file, named.contains(file.path)));
    place_decoded();
  }

  const std::vector<Item>& items() const { return items_; }
  std::vector<std::string> notes() const { return left_out_.notes(); }

  // The records of item `i`.
  ByteStream stream(size_t i) const {
    const Item& item = items_[i];
    ByteStream stream;
    if (item.format == Format::kRaw) {
      stream.append(std::make_shared<FileSource>(item.file, open_files_), 0, item.file.bytes);
    } else {
      stream.append(decoded_, decoded_begin_[i], decoded_begin_[i] + item.images * record());
    }
    return stream;
  }

 private:
  // Some images of one item.
  struct Task {
    size_t item;
    int64_t first, count;
  };

  int64_t record() const { return options_.height * options_.width * options_.channels; }

  void add(const FoundFile& file, Format format) {
    const std::string shown = path_text(file.path);
    switch (format) {
      case Format::kNone:
        return left_out_.add(LeftOut::kNoImage, file.path);
      case Format::kCoded:
        LACE_CHECK(file.bytes <= kMaxFile, "[images] a PNG or JPEG file has at most ", kMaxFile,
                   " bytes, ", shown, " has ", file.bytes);
        return items_.push_back({file, format, 1, false});
      case Format::kCifar:
        LACE_CHECK(file.bytes % kCifarRecord == 0, "[images] a file of CIFAR-10 has records of ",
                   kCifarRecord, " bytes, ", shown, " has ", file.bytes, " bytes");
        return items_.push_back(
            {file, format, file.bytes / kCifarRecord, file_name(file.path) == "test_batch.bin"});
      case Format::kRaw:
        break;
    }
    FoundFile raw = unpacked_file(file, options_.cache);
    LACE_CHECK(raw.bytes % record() == 0, "[images] ", shown, " is neither PNG nor JPEG, and its ",
               raw.bytes, " bytes are no images of ", options_.height, " x ", options_.width, " x ",
               options_.channels, " bytes");
    if (raw.bytes == 0) return left_out_.add(LeftOut::kEmpty, file.path);
    const int64_t images = raw.bytes / record();
    items_.push_back({std::move(raw), format, images, false});
  }

  // Sees to it that the cache has what must be decoded.
  void place_decoded() {
    std::vector<FoundFile> files;
    std::vector<Task> tasks;
    int64_t bytes = 0;
    for (size_t i = 0; i < items_.size(); ++i) {
      decoded_begin_.push_back(bytes);
      if (items_[i].format == Format::kRaw) continue;
      files.push_back(items_[i].file);
      bytes += items_[i].images * record();
      for (int64_t first = 0; first < items_[i].images; first += kTaskRecords)
        tasks.push_back({i, first, std::min(kTaskRecords, items_[i].images - first)});
    }
    if (files.empty()) return;
    const std::string how = concat("images ", options_.height, " ", options_.width, " ",
                                   options_.channels, " ", name(options_.resize));
    FoundFile cached =
        cached_file(options_.cache, cache_name(file_name(options_.paths.front()), how, files),
                    concat(path_text(files.front().path), " must be decoded"),
                    [&](const WriteBytes& write) { decode(tasks, write); });
    LACE_CHECK(cached.bytes == bytes, "[images] ", path_text(cached.path), " has ", cached.bytes,
               " bytes, expected ", bytes, ": remove it");
    decoded_ = std::make_shared<FileSource>(std::move(cached), open_files_);
  }

  void decode(const std::vector<Task>& tasks, const WriteBytes& write) const {
    const WorkPool pool(static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 64u)));
    for (size_t begin = 0; begin < tasks.size(); begin += kTasksInMemory) {
      const size_t count = std::min(kTasksInMemory, tasks.size() - begin);
      std::vector<std::vector<uint8_t>> done(count);
      std::vector<std::exception_ptr> errors(count);
      run_tasks(pool, static_cast<int64_t>(count), [&](int64_t task, int) {
        const auto i = static_cast<size_t>(task);
        try {
          done[i] = decode(tasks[begin + i]);
        } catch (...) {
          errors[i] = std::current_exception();
        }
      });
      for (size_t i = 0; i < count; ++i) {
        if (errors[i]) std::rethrow_exception(errors[i]);
        write(done[i]);
      }
    }
  }

  std::vector<uint8_t> decode(const Task& task) const {
    const Item& item = items_[task.item];
    const std::string shown = path_text(item.file.path);
    const bool cifar = item.format == Format::kCifar;
    const int64_t begin = cifar ? task.first * kCifarRecord : 0;
    std::vector<uint8_t> file(
        static_cast<size_t>(cifar ? task.count * kCifarRecord : item.file.bytes));
    OpenFiles().get(item.file)->read(item.file, begin, file);
    if (!cifar) return fit(decode_image(file, shown), shown);
    std::vector<uint8_t> records;
    for (int64_t i = 0; i < task.count; ++i) {
      const auto one = std::span<const uint8_t>(file).subspan(static_cast<size_t>(i * kCifarRecord),
                                                              static_cast<size_t>(kCifarRecord));
      LACE_CHECK(one[0] < kCifarClasses, "[images] ", shown, " is no file of CIFAR-10: image ",
                 task.first + i, " has label ", static_cast<int>(one[0]));
      const std::vector<uint8_t> record = fit(interleaved(one.subspan(1)), shown);
      records.insert(records.end(), record.begin(), record.end());
    }
    return records;
  }

  // CIFAR-10 has one channel after the other.
  static Image interleaved(std::span<const uint8_t> planes) {
    Image image{kCifarSide, kCifarSide, kCifarChannels, {}};
    const size_t plane = planes.size() / kCifarChannels;
    for (size_t i = 0; i < plane; ++i)
      image.pixels.insert(image.pixels.end(),
                          {planes[i], planes[plane + i], planes[2 * plane + i]});
    return image;
  }

  std::vector<uint8_t> fit(Image image, const std::string& shown) const {
    image = with_channels(std::move(image), options_.channels, shown);
    return resized(std::move(image), options_.height, options_.width, options_.resize, shown)
        .pixels;
  }

  const ImageOptions& options_;
  LeftOut left_out_;
  std::vector<Item> items_;
  std::vector<int64_t> decoded_begin_;  // by item: where its records begin in decoded_
  std::shared_ptr<OpenFiles> open_files_ = std::make_shared<OpenFiles>();
  std::shared_ptr<const ByteSource> decoded_;
};

// Deals records to the splits, each of which keeps their order.
void deal(const ByteStream& all, const ImageOptions& options, int64_t record, Dataset& data) {
  const int64_t records = all.size() / record;
  if (records == 0) return;
  const auto share = [&](double fraction) {
    return static_cast<int64_t>(static_cast<double>(records) * fraction);
  };
  const int64_t test = share(options.test_fraction),
                validation = share(options.validation_fraction);
  // At place j of the random order stands record shuffle(j).
  const Shuffle shuffle(records, kDealSeed);
  std::vector<DataSplit*> split_of(static_cast<size_t>(records), &data.train);
  for (int64_t j = records - test - validation; j < records; ++j)
    split_of[static_cast<size_t>(shuffle(j))] = j < records - test ? &data.validation : &data.test;
  for (size_t begin = 0; begin < split_of.size();) {
    DataSplit* split = split_of[begin];
    size_t end = begin + 1;
    while (end < split_of.size() && split_of[end] == split) ++end;
    split->bytes.append(
        all.slice(static_cast<int64_t>(begin) * record, static_cast<int64_t>(end) * record));
    begin = end;
  }
}

void check(const ImageOptions& options) {
  LACE_CHECK(options.height > 0 && options.width > 0 && options.channels > 0 &&
                 options.height <= kMaxImageSide && options.width <= kMaxImageSide &&
                 options.channels <= kMaxImageSide,
             "[images] height, width and channels must be from 1 to ", kMaxImageSide, ", got ",
             options.height, ", ", options.width, " and ", options.channels);
  LACE_CHECK(options.validation_fraction >= 0 && options.test_fraction >= 0 &&
                 options.validation_fraction + options.test_fraction < 1,
             "[images] the fractions for validation and test must be at least 0 and leave some "
             "for train, got ",
             options.validation_fraction, " and ", options.test_fraction);
}

}  // namespace

Dataset load_images(const ImageOptions& options) {
  check(options);
  const ImageFiles files(options);
  Dataset data;
  data.kind = DataKind::kImages;
  data.record_bytes = options.height * options.width * options.channels;
  data.files = static_cast<int64_t>(files.items().size());
  data.notes = files.notes();
  ByteStream dealt, test;
  for (size_t i = 0; i < files.items().size(); ++i)
    (files.items()[i].is_test && !options.whole ? test : dealt).append(files.stream(i));
  if (options.whole) {
    data.train.bytes = std::move(dealt);
  } else {
    deal(dealt, options, data.record_bytes, data);
    data.test.bytes.append(test);
  }
  std::string reasons;
  for (const std::string& note : data.notes) reasons += "; left out as " + note;
  LACE_CHECK(data.train.size() > 0, "[images] no images to train on in ",
             path_text(options.paths.front()), options.paths.size() > 1 ? " and the others" : "",
             reasons);
  return data;
}

}  // namespace lace
