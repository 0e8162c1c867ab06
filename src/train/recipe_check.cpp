#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "lace/recipe.h"

#include "train/hash.h"

namespace lace {
namespace {

// Numbers that no run reaches. A product of two is compared as a double before it is computed.
constexpr int64_t kMaxSteps = int64_t{1} << 40;
constexpr int64_t kMaxBatch = int64_t{1} << 20;
constexpr int64_t kMaxKept = 1000, kMaxSamples = 1000, kMaxSampleBytes = int64_t{1} << 30;
constexpr double kMaxSpike = 1e9;
constexpr double kMaxMinutes = 1e8;         // two centuries
constexpr double kMaxRunSymbols = 0x1p62;   // of a whole run
constexpr double kMaxStepSymbols = 0x1p50;  // of an optimiser step
constexpr double kMaxBatchValues = 0x1p48;  // of the widest tensor of a batch
constexpr double kMaxRate = 1e3, kMaxClip = 1e30;
constexpr double kMinEpsilon = 1e-30;  // in float32 not 0: unused rows would be 0 / 0
constexpr size_t kMaxNameBytes = 200;

template <typename Number>
void check_range(const char* key, Number value, Number least, Number most) {
  LACE_CHECK(value >= least && value <= most, "[recipe] ", key, " must be from ", least, " to ",
             most, ", got ", value);
}

void check_fraction(const char* key, double value) {
  LACE_CHECK(value >= 0 && value < 1, "[recipe] ", key, " must be in [0, 1), got ", value);
}

void check_product(const char* what, double value, double most) {
  LACE_CHECK(value <= most, "[recipe] ", what, " must be at most ", most, ", got ", value);
}

// The length of the UTF-8 sequence that `text` begins with, if it is one of a printable character;
// else 0. C1 control characters (U+0080 to U+009F) are not.
size_t printable_length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  if (byte(0) < 0x80) return byte(0) >= 0x20 && byte(0) != 0x7f ? 1 : 0;
  const size_t length = byte(0) >= 0xf0 ? 4 : byte(0) >= 0xe0 ? 3 : 2;
  if (byte(0) < 0xc2 || byte(0) > 0xf4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xc0) != 0x80) return 0;
  return byte(0) == 0xc2 && byte(1) < 0xa0 ? 0 : length;
}

// A run's default folder is runs/NAME, and the name is printed.
void check_name(const std::string& name) {
  std::string shown;
  bool printable = true;
  for (size_t i = 0; i < name.size();) {
    const size_t length = printable_length(std::string_view(name).substr(i));
    if (length == 0) {
      printable = false;
      shown += "\\x" + train::hex64(static_cast<unsigned char>(name[i++])).substr(14);
    } else {
      shown += name.substr(i, length);
      i += length;
    }
  }
  LACE_CHECK(printable && name.find('/') == std::string::npos && name != "." && name != ".." &&
                 name.size() <= kMaxNameBytes,
             "[recipe] name must be a folder's name of printable characters, without / and of at "
             "most ",
             kMaxNameBytes, " bytes, got ", shown);
}

void check_data(const DataConfig& data, const ModelConfig& model) {
  LACE_CHECK(data.validation_fraction >= 0 && data.test_fraction >= 0 &&
                 data.validation_fraction + data.test_fraction < 1,
             "[data] validation_fraction and test_fraction must be at least 0 and leave some for "
             "train, got ",
             data.validation_fraction, " and ", data.test_fraction);
  LACE_CHECK(data.record_bytes == 0 || data.record_bytes == model.seq_len,
             "[data] record_bytes is 0 or model.seq_len (", model.seq_len, "), got ",
             data.record_bytes);
  check_range<int64_t>("data.sample_rate", data.sample_rate, 1000, 192000);
  LACE_CHECK(data.kind != DataKind::kImages ||
                 (model.image_height > 0 && model.image_width > 0 &&
                  model.seq_len % (model.image_height * model.image_width) == 0 &&
                  model.seq_len / (model.image_height * model.image_width) == model.image_channels),
             "[data] kind = \"images\" needs model.seq_len to be image_height · image_width · "
             "image_channels, got ",
             model.seq_len, " and ", model.image_height, " · ", model.image_width, " · ",
             model.image_channels);
  const DataConfig defaults;
  const auto only_of = [&](DataKind kind, const char* key, bool is_default) {
    LACE_CHECK(data.kind == kind || is_default, "[data] ", key, " is a key of kind = \"",
               name(kind), "\", got kind = \"", name(data.kind), "\"");
  };
  only_of(DataKind::kText, "record_bytes", data.record_bytes == defaults.record_bytes);
  only_of(DataKind::kText, "split", data.split == defaults.split);
  only_of(DataKind::kImages, "resize", data.resize == defaults.resize);
  only_of(DataKind::kAudio, "sample_rate", data.sample_rate == defaults.sample_rate);
}

void check_optimizer(const OptimizerConfig& optimizer) {
  check_range("optimizer.learning_rate", optimizer.learning_rate, 0.0, kMaxRate);
  check_range<int64_t>("optimizer.warmup_steps", optimizer.warmup_steps, 0, kMaxSteps);
  check_range("optimizer.final_share", optimizer.final_share, 0.0, 1.0);
  check_fraction("optimizer.beta1", optimizer.beta1);
  check_fraction("optimizer.beta2", optimizer.beta2);
  check_range("optimizer.epsilon", optimizer.epsilon, kMinEpsilon, 1.0);
  check_range("optimizer.weight_decay", optimizer.weight_decay, 0.0, kMaxRate);
  check_range("optimizer.clip_norm", optimizer.clip_norm, 0.0, kMaxClip);
  check_fraction("optimizer.ema", optimizer.ema);
}

void check_train(const TrainConfig& train) {
  check_range<int64_t>("train.batch", train.batch, 1, kMaxBatch);
  check_range<int64_t>("train.accumulate", train.accumulate, 1, kMaxBatch);
  check_range<int64_t>("train.steps", train.steps, 0, kMaxSteps);
  check_range("train.max_minutes", train.max_minutes, 0.0, kMaxMinutes);
  LACE_CHECK(train.steps > 0 || train.max_minutes > 0,
             "[recipe] train.steps or train.max_minutes must end the run, both are 0");
  check_range<int64_t>("train.validate_every", train.validate_every, 0, kMaxSteps);
  check_range<int64_t>("train.validate_windows", train.validate_windows, 1, kMaxBatch);
  check_range<int64_t>("train.checkpoint_every", train.checkpoint_every, 0, kMaxSteps);
  check_range<int64_t>("train.keep_checkpoints", train.keep_checkpoints, 0, kMaxKept);
  check_range<int64_t>("train.early_stop", train.early_stop, 0, kMaxSteps);
  LACE_CHECK(train.spike == 0 || (train.spike >= 1 && train.spike <= kMaxSpike),
             "[recipe] train.spike must be 0 or from 1 to ", kMaxSpike, ", got ", train.spike);
  check_range<int64_t>("train.sample_every", train.sample_every, 0, kMaxSteps);
  check_range<int64_t>("train.sample_bytes", train.sample_bytes, 0, kMaxSampleBytes);
  check_range<int64_t>("train.sample_count", train.sample_count, 1, kMaxSamples);
  LACE_CHECK(train.seed >> 63 == 0, "[recipe] train.seed must be below 2^63, got ", train.seed);
}

// All sizes that follow from several sections.
void check_products(const Recipe& recipe) {
  const ModelConfig& model = recipe.model;
  const auto seq_len = static_cast<double>(model.seq_len);
  const auto batch = static_cast<double>(recipe.train.batch);
  const auto widest = static_cast<double>(
      std::max({model.vocab, model.d_model, model.ff_width(), model.qkv_width()}));
  check_product("train.batch · model.seq_len · the widest layer or model.vocab",
                batch * seq_len * widest, kMaxBatchValues);
  check_product("eval.batch · model.seq_len · the widest layer or model.vocab",
                static_cast<double>(recipe.eval.batch) * seq_len * widest, kMaxBatchValues);
  const double step = batch * static_cast<double>(recipe.train.accumulate) * seq_len;
  check_product("train.batch · train.accumulate · model.seq_len", step, kMaxStepSymbols);
  check_product("train.steps · train.batch · train.accumulate · model.seq_len",
                step * static_cast<double>(recipe.train.steps), kMaxRunSymbols);
}

}  // namespace

void DataConfig::change_places(const std::function<std::string(const std::string&)>& change) {
  for (std::vector<std::string>* list : {&paths, &validation_paths, &test_paths})
    for (std::string& path : *list) path = change(path);
  cache = change(cache);
}

void DataConfig::forget_places() {
  for (std::vector<std::string>* list : {&paths, &validation_paths, &test_paths}) list->clear();
  cache.clear();
}

void Recipe::check() const {
  check_name(name);
  model.check();
  LACE_CHECK(model.vocab == 256 || data.paths.empty(),
             "[recipe] bytes need model.vocab = 256, got ", model.vocab);
  check_data(data, model);
  check_optimizer(optimizer);
  check_train(train);
  check_range<int64_t>("eval.batch", eval.batch, 1, kMaxBatch);
  LACE_CHECK(eval.min_context >= 0 && eval.min_context < model.seq_len,
             "[recipe] eval.min_context must be in [0, model.seq_len), got ", eval.min_context);
  check_products(*this);
}

}  // namespace lace
