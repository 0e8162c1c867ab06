#include "data/decode_audio.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <exception>
#include <memory>
#include <string_view>
#include <vector>

#include <samplerate.h>
#include <sndfile.h>

#include "lace/audio.h"

#include "core/safe_text.h"
#include "data/audio_decoder.h"

namespace lace {
namespace {

constexpr int64_t kChunk = 1 << 16;  // samples, of all channels
constexpr int64_t kMaxRatio = 256;   // of rates, which libsamplerate has too
constexpr int64_t kOggPage = 65307;  // the longest
constexpr int kMostChunks = 10'000;  // of a WAV file before its samples

// Little or, in RIFX files, big endian.
uint64_t integer(std::span<const uint8_t> bytes, bool big) {
  uint64_t value = 0;
  for (size_t i = 0; i < bytes.size(); ++i) {
    value |= uint64_t{bytes[i]} << 8 * (big ? bytes.size() - 1 - i : i);
  }
  return value;
}

// Where the samples of a WAV file end by its own account; −1 where it does not say. libsndfile
// takes what there is for all of it.
int64_t end_of_wav(const ByteSource& source, int64_t bytes) {
  std::array<uint8_t, 8> head;
  source.read(0, std::span(head).first(4));
  const bool big = begins(head, "RIFX"), wide = begins(head, "RF64");
  int64_t of_ds64 = -1, at = 12;
  for (int chunk = 0; chunk < kMostChunks && at <= bytes - 8; ++chunk) {
    source.read(at, head);
    const auto size = static_cast<int64_t>(integer(std::span(head).subspan(4), big));
    if (begins(head, "ds64") && at <= bytes - 24) {
      source.read(at + 16, head);
      of_ds64 = static_cast<int64_t>(integer(head, false));
      if (of_ds64 < 0 || of_ds64 > INT64_MAX - bytes) of_ds64 = INT64_MAX - bytes;
    } else if (begins(head, "data")) {
      // Programs that write into a pipe leave these sizes behind.
      const bool unknown = size == 0 || size >= 0xffffff00 || size == 0x7fffffff;
      if (wide && size == 0xffffffff) return of_ds64 < 0 ? -1 : at + 8 + of_ds64;
      return unknown ? -1 : at + 8 + size;
    }
    at += 8 + size + size % 2;
  }
  return -1;
}

// Where the last page of an Ogg file ends by its own account; −1 if there is none near the end.
int64_t end_of_ogg(const ByteSource& source, int64_t bytes) {
  const int64_t first = std::max<int64_t>(0, bytes - kOggPage);
  std::vector<uint8_t> tail(static_cast<size_t>(bytes - first));
  source.read(first, tail);
  const std::string_view mark = "OggS";
  const auto page = std::find_end(tail.begin(), tail.end(), mark.begin(), mark.end());
  if (page == tail.end()) return -1;
  constexpr size_t kHeader = 27;
  const std::span<const uint8_t> rest(page, tail.end());
  const size_t segments = rest.size() < kHeader ? 0 : rest[kHeader - 1];
  auto size = static_cast<int64_t>(kHeader + segments);
  for (size_t i = kHeader; i < std::min(rest.size(), kHeader + segments); ++i) size += rest[i];
  return first + (page - tail.begin()) + size;
}

// The mean of the channels, chunk by chunk, to the rate asked for.
class Resampler {
 public:
  Resampler(int64_t from, int64_t to)
      : ratio_(static_cast<double>(to) / static_cast<double>(from)) {
    if (from == to) return;
    int failure = 0;
    state_.reset(src_new(SRC_SINC_BEST_QUALITY, 1, &failure));
    LACE_CHECK(state_, "[audio] libsamplerate cannot start: ", src_strerror(failure));
  }

  // Hands all that follows from `in` so far to `take`.
  template <typename Take>
  void add(std::span<const float> in, bool last, const Take& take) {
    if (!state_) {
      take(in);
      return;
    }
    const float nothing = 0;
    for (;;) {
      SRC_DATA data{};
      data.data_in = in.empty() ? &nothing : in.data();  // without an address it keeps its tail
      data.input_frames = static_cast<long>(in.size());
      data.data_out = out_.data();
      data.output_frames = static_cast<long>(out_.size());
      data.end_of_input = last ? 1 : 0;
      data.src_ratio = ratio_;
      const int failure = src_process(state_.get(), &data);
      LACE_CHECK(failure == 0, "[audio] libsamplerate failed: ", src_strerror(failure));
      LACE_CHECK(in.empty() || data.input_frames_used + data.output_frames_gen > 0,
                 "[audio] libsamplerate takes no more samples");
      in = in.subspan(static_cast<size_t>(data.input_frames_used));
      take(std::span<const float>(out_).first(static_cast<size_t>(data.output_frames_gen)));
      if (in.empty() && data.output_frames_gen < static_cast<long>(out_.size())) return;
    }
  }

 private:
  double ratio_;
  std::unique_ptr<SRC_STATE, SRC_STATE* (*)(SRC_STATE*)> state_{nullptr, src_delete};
  std::vector<float> out_ = std::vector<float>(kChunk);
};

// All but MP3.
class SndFileDecoder : public AudioDecoder {
 public:
  SndFileDecoder(AudioInput& input, const std::string& shown) : input_(input), shown_(shown) {
    SF_VIRTUAL_IO io{length, seek_input, read_input, write, tell};
    SF_INFO info{};
    file_.reset(sf_open_virtual(&io, SFM_READ, &info, &input));
    input.rethrow();
    LACE_CHECK(file_, "[audio] ", shown, " is damaged: ", why_not_opened());
    sample_rate = info.samplerate;
    channels = info.channels;
    // In an Ogg file the place of its last page, which may count frames that no page holds.
    if ((info.format & SF_FORMAT_TYPEMASK) != SF_FORMAT_OGG) frames = info.frames;
  }

  int64_t read(std::span<float> samples) override {
    const sf_count_t got = sf_readf_float(file_.get(), samples.data(),
                                          static_cast<sf_count_t>(samples.size()) / channels);
    input_.rethrow();
    LACE_CHECK(sf_error(file_.get()) == SF_ERR_NO_ERROR, "[audio] ", shown_,
               " is damaged: ", printable(sf_strerror(file_.get())));
    return got;
  }

 private:
  static sf_count_t length(void* self) { return static_cast<AudioInput*>(self)->bytes; }
  static sf_count_t tell(void* self) { return static_cast<AudioInput*>(self)->at; }
  static sf_count_t write(const void*, sf_count_t, void*) { return 0; }
  static sf_count_t seek_input(sf_count_t offset, int whence, void* self) {
    return static_cast<AudioInput*>(self)->seek(offset, whence);
  }
  static sf_count_t read_input(void* to, sf_count_t count, void* self) {
    return static_cast<AudioInput*>(self)->read(to, count);
  }

  static std::string why_not_opened() {
    const std::string text = printable(sf_strerror(nullptr));
    const bool of_path = text.starts_with("File does not exist");  // it knows no better
    return of_path ? "nothing in it can be decoded" : text;
  }

  AudioInput& input_;
  std::string shown_;
  std::unique_ptr<SNDFILE, int (*)(SNDFILE*)> file_{nullptr, sf_close};
};

// The frames' means.
void mix(std::span<const float> samples, size_t channels, std::vector<float>& mono) {
  mono.resize(samples.size() / channels);
  for (size_t frame = 0; frame < mono.size(); ++frame) {
    double sum = 0;
    for (size_t c = 0; c < channels; ++c) sum += samples[frame * channels + c];
    mono[frame] = static_cast<float>(sum / static_cast<double>(channels));
  }
}

}  // namespace

bool is_audio(std::span<const uint8_t> beginning) {
  for (const std::string_view riff : {"RIFF", "RIFX", "RF64"}) {
    if (begins(beginning, riff))
      return beginning.size() >= 12 && begins(beginning.subspan(8), "WAVE");
  }
  for (const std::string_view mark : {"fLaC", "OggS", "ID3"}) {
    if (begins(beginning, mark)) return true;
  }
  // The head of an MP3 frame: 11 bits of 1, layer 3, a rate that there is.
  return beginning.size() >= 3 && beginning[0] == 0xff && (beginning[1] & 0xe6) == 0xe2 &&
         (beginning[2] & 0xf0) != 0xf0 && (beginning[2] & 0x0c) != 0x0c;
}

void decode_audio(const ByteSource& source, int64_t bytes, const std::string& shown,
                  int64_t sample_rate, const std::function<void(std::span<const uint8_t>)>& write) {
  std::array<uint8_t, kAudioBeginning> buffer{};
  const auto beginning =
      std::span(buffer).first(static_cast<size_t>(std::min(kAudioBeginning, bytes)));
  source.read(0, beginning);
  LACE_CHECK(is_audio(beginning), "[audio] ", shown, " is no WAV, FLAC, Ogg or MP3 file");
  const bool mp3 = buffer[0] == 0xff || begins(beginning, "ID3");
  const int64_t end = buffer[0] == 'R'            ? end_of_wav(source, bytes)
                      : begins(beginning, "OggS") ? end_of_ogg(source, bytes)
                      : mp3                       ? end_of_mp3(source, bytes)
                                                  : -1;
  LACE_CHECK(end <= bytes, "[audio] ", shown, " is cut off: by its own account it goes on to byte ",
             end, ", it has ", bytes);

  AudioInput input{source, bytes};
  const std::unique_ptr<AudioDecoder> decoder =
      mp3 ? open_mp3(input, shown) : std::make_unique<SndFileDecoder>(input, shown);
  LACE_CHECK(decoder->channels >= 1 && decoder->sample_rate >= 1 &&
                 decoder->sample_rate <= kMaxRatio * sample_rate &&
                 sample_rate <= kMaxRatio * decoder->sample_rate,
             "[audio] ", shown, " has samples to be brought to ", sample_rate,
             " Hz, of a rate at most ", kMaxRatio, " times as high or low, got ",
             decoder->sample_rate, " Hz");

  const auto channels = static_cast<size_t>(decoder->channels);
  std::vector<float> samples(std::max<size_t>(1, kChunk / channels) * channels), mono;
  std::vector<uint8_t> codes;
  int64_t written = 0;
  const auto take = [&](std::span<const float> resampled) {
    if (resampled.empty()) return;
    codes.resize(resampled.size());
    std::transform(resampled.begin(), resampled.end(), codes.begin(), encode_mu_law);
    write(codes);
    written += static_cast<int64_t>(codes.size());
  };
  Resampler resampler(decoder->sample_rate, sample_rate);
  int64_t frames = 0;
  for (;;) {
    const int64_t got = decoder->read(samples);
    if (got <= 0) break;
    mix(std::span(samples).first(static_cast<size_t>(got) * channels), channels, mono);
    const auto wrong =
        std::find_if(mono.begin(), mono.end(), [](float x) { return !std::isfinite(x); });
    LACE_CHECK(wrong == mono.end(), "[audio] samples of ", shown, " are finite, got ",
               std::isnan(*wrong) ? "NaN" : "infinity", " in frame ",
               frames + (wrong - mono.begin()));
    frames += got;
    resampler.add(mono, false, take);
  }
  LACE_CHECK(frames > 0, "[audio] ", shown, " holds no samples");
  LACE_CHECK(frames >= decoder->frames, "[audio] ", shown, " is cut off or damaged: it has ",
             decoder->frames, " frames by its own account, ", frames, " can be read");
  resampler.add({}, true, take);
  LACE_CHECK(written > 0, "[audio] ", shown, " is shorter than one sample at ", sample_rate, " Hz");
}

}  // namespace lace
