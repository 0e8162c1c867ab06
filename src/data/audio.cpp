#include "lace/audio.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <thread>
#include <utility>

#include "lace/data.h"

#include "core/work_pool.h"
#include "data/cache.h"
#include "data/decode_audio.h"
#include "data/find_files.h"
#include "data/split_tracks.h"

namespace lace {
namespace {

namespace fs = std::filesystem;

// The files that are audio; another one that is named itself is an error, one in a folder is not.
std::vector<FoundFile> find_tracks(const AudioOptions& options, OpenFiles& open_files,
                                   LeftOut& left_out) {
  std::vector<FoundFile> tracks;
  for (FoundFile& file : find_files(options.paths, left_out)) {
    std::array<uint8_t, kAudioBeginning> buffer;
    const auto beginning =
        std::span(buffer).first(static_cast<size_t>(std::min(kAudioBeginning, file.bytes)));
    open_files.get(file)->read(file, 0, beginning);
    if (is_audio(beginning)) {
      tracks.push_back(std::move(file));
      continue;
    }
    const bool named =
        std::find(options.paths.begin(), options.paths.end(), file.path) != options.paths.end();
    LACE_CHECK(!named, "[audio] ", path_text(file.path), " is no WAV, FLAC, Ogg or MP3 file");
    left_out.add(LeftOut::kNoAudio, file.path);
  }
  return tracks;
}

// The file of a track's codes.
FoundFile codes_of(const FoundFile& track, const std::shared_ptr<OpenFiles>& open_files,
                   const AudioOptions& options) {
  const std::string shown = path_text(track.path);
  return cached_file(options.cache,
                     cache_name(fs::path(track.path).filename().native(),
                                concat("mu-law ", options.sample_rate, " Hz"), {&track, 1}),
                     shown + " must be decoded", [&](const WriteBytes& write) {
                       decode_audio(FileSource(track, open_files), track.bytes, shown,
                                    options.sample_rate, write);
                     });
}

// On all cores: the best filter takes a second for each minute or so.
std::vector<FoundFile> decode_all(const std::vector<FoundFile>& tracks,
                                  const std::shared_ptr<OpenFiles>& open_files,
                                  const AudioOptions& options) {
  std::vector<FoundFile> codes(tracks.size());
  const auto cores = std::max<size_t>(1, std::thread::hardware_concurrency());
  const WorkPool pool(static_cast<int>(std::clamp<size_t>(tracks.size(), 1, cores)));
  run_tasks(pool, static_cast<int64_t>(tracks.size()), [&](int64_t task, int) {
    const auto i = static_cast<size_t>(task);
    codes[i] = codes_of(tracks[i], open_files, options);
  });
  return codes;
}

DataSplit& part(Dataset& data, Split split) {
  return split == Split::kTrain        ? data.train
         : split == Split::kValidation ? data.validation
                                       : data.test;
}

// Each track in three parts: too few of them for one a split.
void split_by_time(const std::vector<ByteStream>& streams, const std::vector<Track>& tracks,
                   const SplitFractions& fractions, Dataset& data) {
  for (size_t i = 0; i < streams.size(); ++i) {
    const ByteStream& track = streams[i];
    const auto share = [&](double fraction) {
      return static_cast<int64_t>(fraction * static_cast<double>(track.size()));
    };
    const int64_t test = track.size() - share(fractions.test);
    const int64_t validation = test - share(fractions.validation);
    data.train.append_piece(track.slice(0, validation), tracks[i].name);
    data.validation.append_piece(track.slice(validation, test), tracks[i].name);
    data.test.append_piece(track.slice(test, track.size()), tracks[i].name);
  }
  data.remarks.push_back(concat(tracks.size(), tracks.size() == 1 ? " track is" : " tracks are",
                                " too few for ", fractions.splits(),
                                " splits and cut by time: train, then validation, then test"));
}

// A file that is in memory.
class BytesSource : public ByteSource {
 public:
  explicit BytesSource(std::span<const uint8_t> bytes) : bytes_(bytes) {}
  void read(int64_t offset, std::span<uint8_t> out) const override {
    const auto part = bytes_.subspan(static_cast<size_t>(offset), out.size());
    std::copy(part.begin(), part.end(), out.begin());
  }

 private:
  std::span<const uint8_t> bytes_;
};

}  // namespace

bool is_audio_file(std::span<const uint8_t> file) { return is_audio(file); }

std::vector<uint8_t> mu_law_of_file(std::span<const uint8_t> file, const std::string& name,
                                    int64_t sample_rate) {
  std::vector<uint8_t> codes;
  decode_audio(
      BytesSource(file), static_cast<int64_t>(file.size()), name, sample_rate,
      [&](std::span<const uint8_t> part) { codes.insert(codes.end(), part.begin(), part.end()); });
  return codes;
}

Dataset load_audio(const AudioOptions& options) {
  const SplitFractions fractions{options.validation_fraction, options.test_fraction};
  LACE_CHECK(
      fractions.validation >= 0 && fractions.test >= 0 && fractions.validation + fractions.test < 1,
      "[audio] the fractions for validation and test must be at least 0 and leave some for "
      "train, got ",
      fractions.validation, " and ", fractions.test);
  LACE_CHECK(options.sample_rate >= 1, "[audio] sample_rate must be at least 1 Hz, got ",
             options.sample_rate);
  const auto open_files = std::make_shared<OpenFiles>();
  LeftOut left_out;
  const std::vector<FoundFile> files = find_tracks(options, *open_files, left_out);
  Dataset data;
  data.kind = DataKind::kAudio;
  data.files = static_cast<int64_t>(files.size());
  data.notes = left_out.notes();
  std::string reasons;
  for (const std::string& note : data.notes) reasons += "; left out as " + note;
  LACE_CHECK(!files.empty(), "[audio] no audio in ", path_text(options.paths.front()),
             options.paths.size() > 1 ? " and the others" : "", reasons);

  const std::vector<FoundFile> codes = decode_all(files, open_files, options);
  std::vector<ByteStream> streams;
  std::vector<Track> tracks;
  for (size_t i = 0; i < files.size(); ++i) {
    ByteStream stream;
    stream.append(std::make_shared<FileSource>(codes[i], open_files), 0, codes[i].bytes);
    streams.push_back(std::move(stream));
    tracks.push_back({fs::path(files[i].path).filename().native(), codes[i].bytes});
  }
  if (options.whole) {
    for (size_t i = 0; i < streams.size(); ++i) data.train.append_piece(streams[i], tracks[i].name);
  } else if (tracks.size() < fractions.splits()) {
    split_by_time(streams, tracks, fractions, data);
  } else {
    const std::vector<Split> splits = split_tracks(tracks, fractions);
    for (size_t i = 0; i < streams.size(); ++i)
      part(data, splits[i]).append_piece(streams[i], tracks[i].name);
  }
  return data;
}

}  // namespace lace
