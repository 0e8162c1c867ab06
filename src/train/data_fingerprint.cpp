#include "train/data_fingerprint.h"

#include <algorithm>
#include <vector>

#include "data/random.h"
#include "train/hash.h"

namespace lace::train {
namespace {

constexpr int64_t kSamples = 256, kSampleBytes = 4096;
constexpr uint64_t kSeed = 0x66696e6765727072;  // any, but always the same
constexpr const char* kSplits[] = {"train", "validation", "test"};

nlohmann::ordered_json split_fingerprint(const DataSplit& split) {
  const ByteStream& stream = split.bytes;
  const int64_t size = stream.size();
  const bool all = size <= kSamples * kSampleBytes;
  const int64_t step = all ? kSampleBytes : size / kSamples;
  const int64_t samples = all ? (size + kSampleBytes - 1) / kSampleBytes : kSamples;
  uint64_t hash = 0;
  for (int64_t i = 0; i < samples; ++i) {
    int64_t begin = i * step;
    if (!all) {
      const uint64_t bits =
          random_bits(kSeed, static_cast<uint64_t>(size), static_cast<uint64_t>(i));
      begin += random_below(bits, step - kSampleBytes + 1);
    }
    std::vector<uint8_t> bytes(static_cast<size_t>(std::min(kSampleBytes, size - begin)));
    stream.read(begin, bytes);
    hash = hash64(bytes, hash);
  }
  nlohmann::ordered_json json = {{"bytes", size}, {"xxh3", hex64(hash)}};
  if (split.pieces() > 1) {
    const auto* ends = reinterpret_cast<const uint8_t*>(split.piece_ends.data());
    json["pieces"] = split.pieces();
    json["ends"] = hex64(hash64({ends, split.piece_ends.size() * sizeof(int64_t)}, 0));
  }
  return json;
}

}  // namespace

nlohmann::ordered_json data_fingerprint(const Dataset& data) {
  return {{"files", data.files},
          {"train", split_fingerprint(data.train)},
          {"validation", split_fingerprint(data.validation)},
          {"test", split_fingerprint(data.test)}};
}

std::string fingerprint_difference(const nlohmann::json& before, const nlohmann::json& now) {
  if (before == now) return "";
  std::string text;
  const auto add = [&](const std::string& part) { text += (text.empty() ? "" : "; ") + part; };
  const auto at = [](const nlohmann::json& object, const char* key) {
    return object.is_object() ? object.value(key, nlohmann::json()) : nlohmann::json();
  };
  for (const char* split : kSplits) {
    const auto old_split = at(before, split), new_split = at(now, split);
    const auto old_bytes = at(old_split, "bytes"), new_bytes = at(new_split, "bytes");
    if (old_bytes != new_bytes) {
      add(concat(split, " has ", new_bytes.dump(), " bytes, had ", old_bytes.dump()));
    } else if (at(old_split, "ends") != at(new_split, "ends")) {
      add(concat(split, " has as many bytes, but in other pieces"));
    } else if (old_split != new_split) {
      add(concat(split, " has as many bytes, but others"));
    }
  }
  const auto old_files = at(before, "files"), new_files = at(now, "files");
  if (old_files != new_files) {
    add(concat("there are ", new_files.dump(), " files, were ", old_files.dump()));
  }
  return text;
}

}  // namespace lace::train
