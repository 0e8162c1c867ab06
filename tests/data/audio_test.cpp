#include <chrono>
#include <filesystem>
#include <thread>

#include "lace/data.h"

#include "data/audio_files.h"
#include "data/temp_folder.h"

namespace lace {
namespace {

namespace fs = std::filesystem;

class AudioTest : public TempFolderTest {
 protected:
  // A track of `samples` samples at 12 kHz, all of one amplitude, and so of one code.
  std::string track(const std::string& name, int64_t samples, double level) const {
    const std::string file = write(name, "");
    write_audio(file, kWavFloat, 12000, 1, samples, [=](int64_t, int) { return level; });
    return file;
  }
  AudioOptions options(std::vector<std::string> paths) const {
    return {.paths = std::move(paths), .cache = path("cache")};
  }
  std::string error_of(const AudioOptions& options) const {
    try {
      load_audio(options);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  size_t cached() const {
    return static_cast<size_t>(
        std::distance(fs::directory_iterator(path("cache")), fs::directory_iterator()));
  }
};

std::string repeated(int64_t count, double level) {
  return std::string(static_cast<size_t>(count),
                     static_cast<char>(encode_mu_law(static_cast<float>(level))));
}

TEST_F(AudioTest, TracksArePiecesOfTheirSplits) {
  const std::vector<int64_t> lengths = {900, 50, 700, 60, 800};
  for (size_t i = 0; i < lengths.size(); ++i) {
    track("music/" + std::to_string(i) + ".wav", lengths[i], 0.1 * static_cast<double>(i + 1));
  }
  AudioOptions all = options({path("music")});
  all.validation_fraction = all.test_fraction = 0.03;  // 75 samples: one of the short ones each
  const Dataset data = load_audio(all);
  EXPECT_EQ(data.kind, DataKind::kAudio);
  EXPECT_EQ(data.files, 5);
  EXPECT_TRUE(data.notes.empty() && data.remarks.empty());
  EXPECT_EQ(data.train.piece_ends, (std::vector<int64_t>{900, 1600, 2400}));
  EXPECT_EQ(text(data.train), repeated(900, 0.1) + repeated(700, 0.3) + repeated(800, 0.5));
  EXPECT_EQ(data.train.piece_name(1), "2.wav");
  EXPECT_EQ(data.train.piece_names, (std::vector<std::string>{"0.wav", "2.wav", "4.wav"}));
  EXPECT_EQ(data.validation.pieces(), 1);
  EXPECT_EQ(data.test.pieces(), 1);
  EXPECT_EQ(data.validation.size() + data.test.size(), 110);
  const std::string rest = text(data.validation) + text(data.test);
  EXPECT_TRUE(rest == repeated(50, 0.2) + repeated(60, 0.4) ||
              rest == repeated(60, 0.4) + repeated(50, 0.2));
  // A window stays inside its track.
  const WindowSampler sampler(data.train, 100, 3);
  for (int64_t i = 0; i < 2 * sampler.windows_per_epoch(); ++i) {
    std::vector<uint8_t> window(100);
    data.train.bytes.read(sampler.begin(i), window);
    EXPECT_EQ(std::count(window.begin(), window.end(), window[0]), 100);
  }
  all.whole = true;
  EXPECT_EQ(load_audio(all).train.piece_ends, (std::vector<int64_t>{900, 950, 1650, 1710, 2510}));
  all.validation_fraction = all.test_fraction = 0;
  all.whole = false;
  EXPECT_EQ(load_audio(all).train.piece_ends, (std::vector<int64_t>{900, 950, 1650, 1710, 2510}));
}

TEST_F(AudioTest, TooFewTracksAreCutByTimeAndItIsSaid) {
  const std::string one = track("one.wav", 1000, 0.5), two = track("two.wav", 200, -0.5);
  Dataset data = load_audio(options({one}));
  EXPECT_EQ(data.remarks, (std::vector<std::string>{"1 track is too few for 3 splits and cut by "
                                                    "time: train, then validation, then test"}));
  EXPECT_EQ(data.train.size(), 900);
  EXPECT_EQ(data.validation.size(), 50);
  EXPECT_EQ(data.test.size(), 50);
  data = load_audio(options({one, two}));
  EXPECT_EQ(data.remarks, (std::vector<std::string>{"2 tracks are too few for 3 splits and cut by "
                                                    "time: train, then validation, then test"}));
  EXPECT_EQ(data.train.piece_ends, (std::vector<int64_t>{900, 1080}));
  EXPECT_EQ(data.validation.piece_ends, (std::vector<int64_t>{50, 60}));
  EXPECT_EQ(text(data.test), repeated(50, 0.5) + repeated(10, -0.5));
}

TEST_F(AudioTest, IsDecodedOnceForEachRateAndContent) {
  const std::string file = track("a.wav", 1000, 0.5);
  AudioOptions at = options({file});
  load_audio(at);
  EXPECT_EQ(cached(), 1u);
  const auto made = fs::last_write_time(fs::directory_iterator(path("cache"))->path());
  EXPECT_EQ(load_audio(at).train.size(), 900);
  EXPECT_EQ(cached(), 1u);
  EXPECT_EQ(fs::last_write_time(fs::directory_iterator(path("cache"))->path()), made);
  at.sample_rate = 6000;
  EXPECT_NEAR(static_cast<double>(load_audio(at).train.size()), 450, 1);
  EXPECT_EQ(cached(), 2u);
  track("a.wav", 3000, 0.25);
  EXPECT_EQ(text(load_audio(options({file})).train), repeated(2700, 0.25));
  EXPECT_EQ(cached(), 3u);
}

TEST_F(AudioTest, FoldersMayHoldOtherThings) {
  write("album/cover.jpg", "\xff\xd8\xff\xe0 and so on");
  write("album/list.m3u", "a.wav\n");
  write("album/empty.wav", "");
  track("album/a.wav", 1000, 0.5);
  const Dataset data = load_audio(options({path("album")}));
  EXPECT_EQ(data.files, 1);
  ASSERT_EQ(data.notes.size(), 2u);
  EXPECT_EQ(data.notes[0], "empty: 1 (" + path("album/empty.wav") + ")");
  EXPECT_EQ(data.notes[1],
            "no audio: 2 (" + path("album/cover.jpg") + ", " + path("album/list.m3u") + ")");
  fs::remove(path("album/a.wav"));
  const std::string error = error_of(options({path("album")}));
  EXPECT_TRUE(error.starts_with("[audio] no audio in " + path("album") + "; left out as empty: 1"))
      << error;
}

TEST_F(AudioTest, ErrorsNameTheFile) {
  const std::string good = track("good.wav", 1000, 0.5), text = write("notes.txt", "no audio");
  EXPECT_EQ(error_of(options({good, text})),
            "[audio] " + text + " is no WAV, FLAC, Ogg or MP3 file");
  fs::resize_file(good, 3000);
  const std::string cut = error_of(options({good}));
  EXPECT_TRUE(cut.starts_with("[audio] " + good + " is cut off")) << cut;
  EXPECT_EQ(cached(), 0u);
  AudioOptions nowhere = options({track("b.wav", 10, 0)});
  nowhere.cache = "";
  EXPECT_NE(error_of(nowhere).find("b.wav must be decoded"), std::string::npos);
  AudioOptions wrong = options({good});
  wrong.validation_fraction = 0.6, wrong.test_fraction = 0.4;
  EXPECT_NE(error_of(wrong).find("fractions"), std::string::npos);
  wrong = options({good});
  wrong.sample_rate = 0;
  EXPECT_EQ(error_of(wrong), "[audio] sample_rate must be at least 1 Hz, got 0");
}

TEST_F(AudioTest, ManyTracksAreDecodedTogether) {
  for (int i = 0; i < 40; ++i) track("m/" + std::to_string(i) + ".wav", 100 + i, 0.02 * i);
  AudioOptions all = options({path("m")});
  all.whole = true;
  const Dataset data = load_audio(all);
  EXPECT_EQ(data.train.pieces(), 40);
  EXPECT_EQ(cached(), 40u);
  for (int64_t i = 0; i < 40; ++i) {
    const int64_t begin = data.train.piece_begin(i), size = data.train.piece_end(i) - begin;
    EXPECT_EQ(text(data.train.bytes.slice(begin, begin + size)),
              repeated(size, 0.02 * static_cast<double>(size - 100)));
  }
}

}  // namespace
}  // namespace lace
