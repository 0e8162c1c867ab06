#include <gtest/gtest.h>

#include "lace/model.h"

namespace lace {
namespace {

ModelConfig cifar10() {
  ModelConfig config;
  config.seq_len = 3072;
  config.layers = 128;
  config.d_model = 256;
  config.heads = 2;
  config.qk_dim = 128;
  config.ff_multiple = 2;
  config.patterns = {"strided(96)", "local(96)", "local(96)", "local(96)"};
  config.positions = PositionKind::kImage;
  config.image_height = config.image_width = 32;
  config.image_channels = 3;
  return config;
}

ModelConfig enwik8() {
  ModelConfig config;
  config.seq_len = 12288;
  config.layers = 30;
  config.d_model = 512;
  config.heads = 8;
  config.patterns = {"fixed(128, 32, 4)"};
  config.position_stride = 128;
  return config;
}

ModelConfig imagenet64(int64_t layers) {
  ModelConfig config;
  config.seq_len = 12288;
  config.layers = layers;
  config.d_model = 512;
  config.heads = 16;
  config.patterns = {"local(128)", "strided(128)", "local(128)", "local(128)"};
  config.positions = PositionKind::kImage;
  config.image_height = config.image_width = 64;
  config.image_channels = 3;
  return config;
}

// Millions, rounded to `digits` decimals as the paper's totals are.
std::string millions(const ModelConfig& config, int digits) {
  config.check();
  char text[32];
  std::snprintf(text, sizeof(text), "%.*f", digits,
                static_cast<double>(parameter_count(config)) / 1e6);
  return text;
}

TEST(ModelConfig, CountsThePapersParameters) {
  EXPECT_EQ(millions(cifar10(), 2), "59.20");
  EXPECT_EQ(millions(enwik8(), 2), "94.95");
  EXPECT_EQ(millions(imagenet64(48), 1), "151.6");
  EXPECT_EQ(millions(imagenet64(96), 1), "303.0");
}

TEST(ModelConfig, NamesAreUniqueAndOrdered) {
  const auto infos = parameter_infos(enwik8());
  ASSERT_EQ(infos.size(), 4u + 30u * 12u + 3u);
  EXPECT_EQ(infos.front().name, "tok");
  EXPECT_EQ(infos[4].name, "blocks.0.ln1.weight");
  EXPECT_EQ(infos[6].name, "blocks.0.qkv.weight");
  EXPECT_EQ(infos[6].shape, (std::vector<int64_t>{1536, 512}));
  EXPECT_EQ(infos.back().name, "out.weight");
  std::set<std::string> names;
  for (const auto& info : infos) names.insert(info.name);
  EXPECT_EQ(names.size(), infos.size());
}

TEST(ModelConfig, TiedHasNoOutputTable) {
  ModelConfig config = enwik8();
  const int64_t untied = parameter_count(config);
  config.tied = true;
  EXPECT_EQ(parameter_count(config), untied - 256 * 512);
}

TEST(ModelConfig, GroupedHeadsShrinkTheProjection) {
  ModelConfig config = enwik8();
  config.kv_heads = 2;
  EXPECT_EQ(config.qkv_width(), 512 + 2 * (64 + 64));
}

TEST(ModelConfig, StartValuesFollowBothReadings) {
  ModelConfig config = enwik8();
  const auto by_name = [&](const std::string& name) {
    for (const auto& info : parameter_infos(config)) {
      if (info.name == name) return info.init_std;
    }
    ADD_FAILURE() << name;
    return 0.0;
  };
  EXPECT_DOUBLE_EQ(by_name("tok"), 0.125 / std::sqrt(512.0));
  EXPECT_DOUBLE_EQ(by_name("pos.0"), 0.125 / std::sqrt(512.0 * 2));
  EXPECT_DOUBLE_EQ(by_name("blocks.0.qkv.weight"), std::sqrt(0.125 / 512));
  EXPECT_DOUBLE_EQ(by_name("blocks.0.ff2.weight"), std::sqrt(0.125 / 2048) / std::sqrt(60.0));
  EXPECT_DOUBLE_EQ(by_name("blocks.0.qkv.bias"), 0);
  EXPECT_DOUBLE_EQ(by_name("out.weight"), 0);
  config.init = LinearInit::kStd;
  EXPECT_DOUBLE_EQ(by_name("blocks.0.ff1.weight"), 0.125 / std::sqrt(512.0));
  EXPECT_DOUBLE_EQ(by_name("blocks.0.proj.weight"), 0.125 / std::sqrt(512.0) / std::sqrt(60.0));
  config.init = LinearInit::kGpt2;
  for (const char* whole :
       {"tok", "sos", "blocks.0.qkv.weight", "blocks.0.ff1.weight", "out.weight"}) {
    EXPECT_DOUBLE_EQ(by_name(whole), 0.02) << whole;
  }
  for (const char* part : {"pos.0", "pos.1"}) EXPECT_DOUBLE_EQ(by_name(part), 0.02 / std::sqrt(2));
  for (const char* last : {"blocks.0.proj.weight", "blocks.0.ff2.weight"}) {
    EXPECT_DOUBLE_EQ(by_name(last), 0.02 / std::sqrt(60.0)) << last;
  }
  config.linear_gain = 3;
  config.embedding_gain = 2;
  EXPECT_DOUBLE_EQ(by_name("out.weight"), 0.06);
  EXPECT_DOUBLE_EQ(by_name("tok"), 0.04);
}

struct BadConfig {
  std::function<void(ModelConfig&)> spoil;
  std::string message;
};

TEST(ModelConfig, NamesTheWrongField) {
  const std::vector<BadConfig> cases = {
      {[](auto& c) { c.layers = 0; }, "[model] layers must be from 1 to 65536, got 0"},
      {[](auto& c) { c.qk_dim = 100; }, "[model] qk_dim must be a multiple of heads (8), got 100"},
      {[](auto& c) { c.v_dim = 8 * 513; },
       "[model] v_dim / heads must be at most 512, got 4104 / 8"},
      {[](auto& c) {
         c.positions = PositionKind::kRotary;
         c.qk_dim = 8 * 63;
       },
       "[model] qk_dim / heads must be even where positions are rotary, got 504 / 8"},
      {[](auto& c) { c.kv_heads = 3; }, "[model] kv_heads must divide heads (8), got 3"},
      {[](auto& c) { c.dropout = 1; }, "[model] dropout must be in [0, 1), got 1"},
      {[](auto& c) { c.patterns = {}; },
       "[model] patterns must hold at least one pattern, got none"},
      {[](auto& c) { c.patterns = {"bidirectional(dense)"}; },
       "[model] patterns must be causal, got bidirectional(dense)"},
      {[](auto& c) { c.position_stride = 99999; },
       "[model] position_stride must be from 0 to seq_len (12288), got 99999"},
      {[](auto& c) {
         c.positions = PositionKind::kImage;
         c.image_height = c.image_width = 64;
         c.image_channels = 1;
       },
       "[model] image_height · image_width · image_channels must be seq_len (12288), got 64 · 64 · "
       "1"},
      {[](auto& c) { c.rotary_base = 0.5; },
       "[model] rotary_base must be from 1 to 1e+12, got 0.5"},
      {[](auto& c) { c.rotary_scaling = RotaryScaling::kYarn; },
       "[model] rotary_scaling must be none where positions are text, got yarn"},
      {[](auto& c) {
         c.positions = PositionKind::kRotary;
         c.rotary_factor = 4;
       },
       "[model] rotary_factor must be 1 without a rotary_scaling, got 4"},
      {[](auto& c) {
         c.positions = PositionKind::kRotary;
         c.rotary_beta_slow = 40;
       },
       "[model] rotary_beta_fast must be above rotary_beta_slow (40), got 32"},
  };
  for (const auto& [spoil, message] : cases) {
    ModelConfig config = enwik8();
    spoil(config);
    try {
      config.check();
      ADD_FAILURE() << "accepted: " << message;
    } catch (const Error& error) {
      EXPECT_EQ(error.what(), message);
    }
  }
}

TEST(ModelConfig, NamesParseBack) {
  for (const Precision precision :
       {Precision::kFloat32, Precision::kBFloat16, Precision::kFloat16, Precision::kFloat64}) {
    EXPECT_EQ(parse_precision(name(precision)), precision);
  }
  for (const LinearInit init : {LinearInit::kVariance, LinearInit::kStd, LinearInit::kGpt2}) {
    EXPECT_EQ(parse_linear_init(name(init)), init);
  }
  for (const PositionKind kind :
       {PositionKind::kText, PositionKind::kImage, PositionKind::kRotary}) {
    EXPECT_EQ(parse_position_kind(name(kind)), kind);
  }
  for (const RotaryScaling scaling :
       {RotaryScaling::kNone, RotaryScaling::kLinear, RotaryScaling::kYarn}) {
    EXPECT_EQ(parse_rotary_scaling(name(scaling)), scaling);
  }
  try {
    parse_precision("bfloat");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "[model] precision must be one of fp32, bf16, fp16, fp64, got bfloat");
  }
}

}  // namespace
}  // namespace lace
