#include <algorithm>
#include <utility>

#include "lace/data.h"

#include "data/find_files.h"

namespace lace {
namespace {

constexpr int64_t kSmallFile = 1 << 18;
constexpr int64_t kHeldBytes = 1 << 27;  // of small files, together
constexpr int64_t kSplitPeriod = 20;

int64_t record_of(const TextOptions& options) { return std::max<int64_t>(1, options.record_bytes); }

// The files as streams of whole records; those too short for one are dropped.
std::vector<ByteStream> open_files(std::vector<FoundFile> files, int64_t record_bytes,
                                   LeftOut& left_out) {
  const auto shared = std::make_shared<OpenFiles>();
  std::vector<ByteStream> streams;
  int64_t held = 0;
  for (FoundFile& file : files) {
    const int64_t torn = file.bytes % record_bytes;
    if (torn > 0) left_out.add(LeftOut::kTorn, file.path, concat(torn, " bytes"));
    const int64_t whole = file.bytes - torn;
    if (whole == 0) continue;
    ByteStream stream;
    if (whole < kSmallFile && held + whole <= kHeldBytes) {
      std::vector<uint8_t> bytes(static_cast<size_t>(whole));
      shared->get(file)->read(file, 0, bytes);
      held += whole;
      stream = ByteStream(std::move(bytes));
    } else {
      stream.append(std::make_shared<FileSource>(std::move(file), shared), 0, whole);
    }
    streams.push_back(std::move(stream));
  }
  return streams;
}

void split_by_file(const std::vector<ByteStream>& files, const TextOptions& options,
                   Dataset& data) {
  for (size_t i = 0; i < files.size(); ++i) {
    const bool test = i % kSplitPeriod == kSplitPeriod - 1 && options.test_fraction > 0;
    const bool validation = i > 0 && i % kSplitPeriod == 0 && options.validation_fraction > 0;
    (test ? data.test : validation ? data.validation : data.train).bytes.append(files[i]);
  }
}

void split_by_bytes(const std::vector<ByteStream>& files, const TextOptions& options,
                    Dataset& data) {
  const int64_t record = record_of(options);
  ByteStream all;
  for (const ByteStream& file : files) all.append(file);
  const auto share = [&](double fraction) {
    const auto bytes = static_cast<int64_t>(static_cast<double>(all.size()) * fraction);
    return bytes / record * record;
  };
  const int64_t test = share(options.test_fraction);
  const int64_t validation = share(options.validation_fraction);
  const int64_t train = all.size() - test - validation;
  data.train = all.slice(0, train);
  data.validation = all.slice(train, train + validation);
  data.test = all.slice(train + validation, all.size());
}

}  // namespace

Dataset load_text(const TextOptions& options) {
  LACE_CHECK(options.validation_fraction >= 0 && options.test_fraction >= 0 &&
                 options.validation_fraction + options.test_fraction < 1,
             "[text] the fractions for validation and test must be at least 0 and leave some for "
             "train, got ",
             options.validation_fraction, " and ", options.test_fraction);
  LACE_CHECK(options.record_bytes >= 0, "[text] record_bytes must be at least 0, got ",
             options.record_bytes);
  LeftOut left_out;
  std::vector<FoundFile> found = find_files(options.paths, left_out);
  const std::vector<ByteStream> files = open_files(std::move(found), record_of(options), left_out);
  Dataset data;
  data.record_bytes = options.record_bytes;
  data.files = static_cast<int64_t>(files.size());
  data.notes = left_out.notes();
  if (options.whole) {
    for (const ByteStream& file : files) data.train.bytes.append(file);
  } else if (options.split == SplitBy::kFiles ||
             (options.split == SplitBy::kAuto && data.files > kSplitPeriod)) {
    split_by_file(files, options, data);
  } else {
    split_by_bytes(files, options, data);
  }
  std::string reasons;
  for (const std::string& note : data.notes) reasons += "; left out as " + note;
  LACE_CHECK(data.train.size() > 0, "[text] no bytes in ", path_text(options.paths.front()),
             options.paths.size() > 1 ? " and the others" : "", reasons);
  return data;
}

}  // namespace lace
