#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "lace/model.h"

namespace lace {

namespace {

template <typename Enum, size_t kCount>
Enum parse_name(const char* key, std::string_view text, const std::array<Enum, kCount>& values) {
  std::string known;
  for (const Enum value : values) {
    if (name(value) == text) return value;
    known += (known.empty() ? "" : ", ") + std::string(name(value));
  }
  throw Error(concat("[model] ", key, " must be one of ", known, ", got ", text));
}

// The largest of each number. Sums and products of a few of them fit into 64 bits; the number of
// parameters, a product of more, has a limit of its own.
constexpr int64_t kMaxVocab = int64_t{1} << 24;
constexpr int64_t kMaxSeqLen = (int64_t{1} << 31) - 1;
constexpr int64_t kMaxLayers = int64_t{1} << 16;
constexpr int64_t kMaxWidth = int64_t{1} << 20;
constexpr int64_t kMaxHeads = int64_t{1} << 16;
constexpr int64_t kMaxHeadDim = 512;  // of the kernels of CPUs; those of GPUs take less
constexpr int64_t kMaxMultiple = 1024;
constexpr double kMaxParameters = 0x1p40;
constexpr double kMinEps = 1e-30,
                 kMaxGain = 1e6;  // float32 holds the one and layers bear the other
constexpr double kMaxRotaryBase = 1e12, kMaxRotaryFactor = 1e6, kMaxTurns = 1e6;

template <typename Number>
void check_range(const char* key, Number value, Number least, Number most) {
  LACE_CHECK(value >= least && value <= most, "[model] ", key, " must be from ", least, " to ",
             most, ", got ", value);
}

// The number of parameters where the fields are in their ranges but their product may overflow.
double approximate_parameters(const ModelConfig& c) {
  const auto d = static_cast<double>(c.d_model);
  double rows = static_cast<double>(c.vocab) * (c.tied ? 1 : 2);
  for (const int64_t count : c.position_rows()) rows += static_cast<double>(count);
  const auto widths = static_cast<double>(c.qkv_width() + c.v_dim_or_default()) +
                      2 * static_cast<double>(c.ff_width());
  return rows * d + static_cast<double>(c.layers) * widths * d;
}

void check_rotary(const ModelConfig& c) {
  LACE_CHECK(c.positions != PositionKind::kRotary || c.qk_head_dim() % 2 == 0,
             "[model] qk_dim / heads must be even where positions are rotary, got ",
             c.qk_dim_or_default(), " / ", c.heads);
  check_range("rotary_base", c.rotary_base, 1.0, kMaxRotaryBase);
  check_range("rotary_factor", c.rotary_factor, 1.0, kMaxRotaryFactor);
  check_range<int64_t>("rotary_original_length", c.rotary_original_length, 0, kMaxSeqLen);
  check_range("rotary_beta_slow", c.rotary_beta_slow, 0.0, kMaxTurns);
  check_range("rotary_beta_fast", c.rotary_beta_fast, 0.0, kMaxTurns);
  LACE_CHECK(c.rotary_beta_fast > c.rotary_beta_slow,
             "[model] rotary_beta_fast must be above rotary_beta_slow (", c.rotary_beta_slow,
             "), got ", c.rotary_beta_fast);
  const bool scaled = c.rotary_scaling != RotaryScaling::kNone;
  LACE_CHECK(!scaled || c.positions == PositionKind::kRotary,
             "[model] rotary_scaling must be none where positions are ", name(c.positions),
             ", got ", name(c.rotary_scaling));
  LACE_CHECK(scaled || c.rotary_factor == 1,
             "[model] rotary_factor must be 1 without a rotary_scaling, got ", c.rotary_factor);
}

int64_t product(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

constexpr double kGpt2Std = 0.02;

// `shape` [out, in] of a linear layer, with its bias; `factor` multiplies the start values.
void add_linear(std::vector<ParameterInfo>& infos, const ModelConfig& config,
                const std::string& layer, int64_t out, int64_t in, double factor) {
  const double d_in = static_cast<double>(in);
  const double std = config.init == LinearInit::kGpt2       ? kGpt2Std
                     : config.init == LinearInit::kVariance ? std::sqrt(0.125 / d_in)
                                                            : 0.125 / std::sqrt(d_in);
  infos.push_back({layer + ".weight", {out, in}, std * factor * config.linear_gain, 0});
  infos.push_back({layer + ".bias", {out}, 0, 0});
}

void add_norm(std::vector<ParameterInfo>& infos, const std::string& layer, int64_t d_model) {
  infos.push_back({layer + ".weight", {d_model}, 0, 1});
  infos.push_back({layer + ".bias", {d_model}, 0, 0});
}

}  // namespace

std::string_view name(Precision precision) {
  switch (precision) {
    case Precision::kFloat32:
      return "fp32";
    case Precision::kBFloat16:
      return "bf16";
    case Precision::kFloat16:
      return "fp16";
    case Precision::kFloat64:
      return "fp64";
  }
  return "";
}

std::string_view name(ResidualType type) {
  return type == ResidualType::kWide ? "wide" : "compute";
}

std::string_view name(PositionKind kind) {
  switch (kind) {
    case PositionKind::kText:
      return "text";
    case PositionKind::kImage:
      return "image";
    case PositionKind::kRotary:
      return "rotary";
  }
  return "";
}

std::string_view name(RotaryScaling scaling) {
  switch (scaling) {
    case RotaryScaling::kNone:
      return "none";
    case RotaryScaling::kLinear:
      return "linear";
    case RotaryScaling::kYarn:
      return "yarn";
  }
  return "";
}

std::string_view name(LinearInit init) {
  switch (init) {
    case LinearInit::kVariance:
      return "variance";
    case LinearInit::kStd:
      return "std";
    case LinearInit::kGpt2:
      return "gpt2";
  }
  return "";
}

Precision parse_precision(std::string_view text) {
  return parse_name("precision", text,
                    std::array{Precision::kFloat32, Precision::kBFloat16, Precision::kFloat16,
                               Precision::kFloat64});
}

ResidualType parse_residual_type(std::string_view text) {
  return parse_name("residual", text, std::array{ResidualType::kWide, ResidualType::kCompute});
}

PositionKind parse_position_kind(std::string_view text) {
  return parse_name("positions", text,
                    std::array{PositionKind::kText, PositionKind::kImage, PositionKind::kRotary});
}

RotaryScaling parse_rotary_scaling(std::string_view text) {
  return parse_name("rotary_scaling", text,
                    std::array{RotaryScaling::kNone, RotaryScaling::kLinear, RotaryScaling::kYarn});
}

LinearInit parse_linear_init(std::string_view text) {
  return parse_name("init", text,
                    std::array{LinearInit::kVariance, LinearInit::kStd, LinearInit::kGpt2});
}

int64_t ModelConfig::position_stride_or_default() const {
  if (position_stride) return position_stride;
  auto root = static_cast<int64_t>(std::sqrt(static_cast<double>(seq_len)));
  while (root * root > seq_len) --root;
  return root;
}

int64_t ModelConfig::rotary_original_length_or_default() const {
  if (rotary_original_length) return rotary_original_length;
  return std::max<int64_t>(1, std::llround(static_cast<double>(seq_len) / rotary_factor));
}

std::vector<int64_t> ModelConfig::position_rows() const {
  if (positions == PositionKind::kRotary) return {};
  if (positions == PositionKind::kImage) return {image_height, image_width, image_channels};
  const int64_t stride = position_stride_or_default();
  return {(seq_len + stride - 1) / stride, stride};
}

void ModelConfig::check() const {
  check_range<int64_t>("vocab", vocab, 1, kMaxVocab);
  check_range<int64_t>("seq_len", seq_len, 1, kMaxSeqLen);
  check_range<int64_t>("layers", layers, 1, kMaxLayers);
  check_range<int64_t>("d_model", d_model, 1, kMaxWidth);
  check_range<int64_t>("heads", heads, 1, kMaxHeads);
  check_range<int64_t>("ff_multiple", ff_multiple, 1, kMaxMultiple);
  check_range<int64_t>("qk_dim", qk_dim, 0, kMaxWidth);
  check_range<int64_t>("v_dim", v_dim, 0, kMaxWidth);
  LACE_CHECK(kv_heads >= 0 && heads % kv_heads_or_default() == 0,
             "[model] kv_heads must divide heads (", heads, "), got ", kv_heads);
  for (const auto& [key, width] :
       {std::pair{"qk_dim", qk_dim_or_default()}, std::pair{"v_dim", v_dim_or_default()}}) {
    LACE_CHECK(width > 0 && width % heads == 0, "[model] ", key, " must be a multiple of heads (",
               heads, "), got ", width);
    LACE_CHECK(width / heads <= kMaxHeadDim, "[model] ", key, " / heads must be at most ",
               kMaxHeadDim, ", got ", width, " / ", heads);
  }
  const bool image = positions == PositionKind::kImage;
  for (const auto& [key, size] :
       {std::pair{"image_height", image_height}, std::pair{"image_width", image_width},
        std::pair{"image_channels", image_channels}}) {
    check_range<int64_t>(key, size, image ? 1 : 0, kMaxSeqLen);
  }
  // The first product fits into 64 bits, and what it leaves of seq_len can be compared.
  LACE_CHECK(!image || (seq_len % (image_height * image_width) == 0 &&
                        seq_len / (image_height * image_width) == image_channels),
             "[model] image_height · image_width · image_channels must be seq_len (", seq_len,
             "), got ", image_height, " · ", image_width, " · ", image_channels);
  LACE_CHECK(position_stride >= 0 && position_stride <= seq_len,
             "[model] position_stride must be from 0 to seq_len (", seq_len, "), got ",
             position_stride);
  check_rotary(*this);
  LACE_CHECK(dropout >= 0 && dropout < 1, "[model] dropout must be in [0, 1), got ", dropout);
  check_range("embedding_gain", embedding_gain, 1 / kMaxGain, kMaxGain);
  check_range("linear_gain", linear_gain, 1 / kMaxGain, kMaxGain);
  check_range("block_norm_eps", block_norm_eps, kMinEps, 1.0);
  check_range("final_norm_eps", final_norm_eps, kMinEps, 1.0);
  LACE_CHECK(seed >> 63 == 0, "[model] seed must be below 2^63, got ", seed);
  LACE_CHECK(approximate_parameters(*this) <= kMaxParameters,
             "[model] there must be at most 2^40 parameters, got about ",
             approximate_parameters(*this), " from layers = ", layers, ", d_model = ", d_model,
             ", ff_multiple = ", ff_multiple, ", vocab = ", vocab, " and the positions");
  LACE_CHECK(!patterns.empty(), "[model] patterns must hold at least one pattern, got none");
  for (const std::string& text : patterns) {
    const Pattern pattern = Pattern::parse(text);
    LACE_CHECK(pattern.causal(), "[model] patterns must be causal, got ", text);
    pattern.bind(heads, seq_len, seq_len);
  }
}

std::vector<ParameterInfo> parameter_infos(const ModelConfig& config) {
  const int64_t d = config.d_model;
  const double width = static_cast<double>(d);
  const auto rows = config.position_rows();
  const bool gpt2 = config.init == LinearInit::kGpt2;
  const double token_std = config.embedding_gain * (gpt2 ? kGpt2Std : 0.125 / std::sqrt(width));
  const double branch_factor = 1 / std::sqrt(2.0 * static_cast<double>(config.layers));

  std::vector<ParameterInfo> infos;
  infos.push_back({"tok", {config.vocab, d}, token_std, 0});
  infos.push_back({"sos", {d}, token_std, 0});
  for (size_t part = 0; part < rows.size(); ++part) {
    const double position_std = token_std / std::sqrt(static_cast<double>(rows.size()));
    infos.push_back({"pos." + std::to_string(part), {rows[part], d}, position_std, 0});
  }
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const std::string block = "blocks." + std::to_string(layer) + ".";
    add_norm(infos, block + "ln1", d);
    add_linear(infos, config, block + "qkv", config.qkv_width(), d, 1);
    add_linear(infos, config, block + "proj", d, config.v_dim_or_default(), branch_factor);
    add_norm(infos, block + "ln2", d);
    add_linear(infos, config, block + "ff1", config.ff_width(), d, 1);
    add_linear(infos, config, block + "ff2", d, config.ff_width(), branch_factor);
  }
  add_norm(infos, "ln_f", d);
  const double output_std = gpt2 ? kGpt2Std * config.linear_gain : 0;
  if (!config.tied) infos.push_back({"out.weight", {config.vocab, d}, output_std, 0});
  return infos;
}

int64_t parameter_count(const ModelConfig& config) {
  int64_t count = 0;
  for (const ParameterInfo& info : parameter_infos(config)) count += product(info.shape);
  return count;
}

}  // namespace lace
