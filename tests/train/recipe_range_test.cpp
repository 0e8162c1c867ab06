#include <cmath>
#include <limits>
#include <type_traits>

#include <gtest/gtest.h>

#include "model/rotary.h"
#include "train/folder_test.h"
#include "train/recipe_fields.h"

namespace lace {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
constexpr int64_t kMin = std::numeric_limits<int64_t>::min();

bool product_fits(std::initializer_list<int64_t> factors) {
  int64_t product = 1;
  for (const int64_t factor : factors)
    if (factor <= 0 || __builtin_mul_overflow(product, factor, &product)) return false;
  return true;
}

// All that a run computes from a recipe's numbers before it allocates, and that it fits.
void expect_sane(const Recipe& recipe, const std::string& what) {
  const ModelConfig& m = recipe.model;
  const TrainConfig& t = recipe.train;
  for (const int64_t size : {m.qkv_width(), m.ff_width(), m.qk_head_dim(), m.v_head_dim()})
    EXPECT_GT(size, 0) << what;
  for (const int64_t rows : m.position_rows()) {
    EXPECT_GT(rows, 0) << what;
    EXPECT_LE(rows, m.seq_len) << what;
  }
  if (m.positions == PositionKind::kText) {
    EXPECT_TRUE(product_fits({m.position_rows()[0], m.position_rows()[1]})) << what;
  }
  for (const double frequency : model::rotary_angles(m).frequencies) {
    EXPECT_TRUE(std::isfinite(frequency) && frequency >= 0 && frequency <= 1) << what;
  }
  EXPECT_GT(parameter_count(m), 0) << what;
  EXPECT_TRUE(product_fits({parameter_count(m), 8, 5})) << what;  // bytes of weights and optimiser
  EXPECT_TRUE(product_fits({t.batch, m.seq_len, std::max(m.vocab, m.ff_width()), 8})) << what;
  EXPECT_TRUE(product_fits({recipe.eval.batch, m.seq_len, m.vocab, 8})) << what;
  EXPECT_TRUE(product_fits({t.batch, t.accumulate, m.seq_len, std::max<int64_t>(1, t.steps)}))
      << what;
  for (const double value :
       {m.dropout, m.embedding_gain, m.linear_gain, m.block_norm_eps, m.final_norm_eps,
        recipe.optimizer.learning_rate, recipe.optimizer.epsilon, recipe.optimizer.weight_decay,
        recipe.optimizer.clip_norm, t.max_minutes, 60 * t.max_minutes}) {
    EXPECT_TRUE(std::isfinite(static_cast<float>(value))) << what << " " << value;
    EXPECT_GE(value, 0) << what;
  }
  for (const double value : {m.block_norm_eps, m.final_norm_eps, recipe.optimizer.epsilon})
    EXPECT_GT(static_cast<float>(value), 0) << what;
  EXPECT_EQ(to_toml(parse_recipe(to_toml(recipe), "again")), to_toml(recipe)) << what;
}

// Sets one number after the other to extremes; `each(recipe, "section.key", value)`.
template <typename Each>
void draw_extremes(const Recipe& base, const Each& each) {
  Recipe recipe = base;
  train::visit_sections(recipe, [&](const char* section, auto& fields) {
    train::visit_fields(fields, [&](const char* key, auto& field) {
      using Field = std::remove_reference_t<decltype(field)>;
      [[maybe_unused]] const auto draw = [&](auto value) {
        const Field before = field;
        field = static_cast<Field>(value);
        each(recipe, concat(section, ".", key), concat(value));
        field = before;
      };
      if constexpr (std::is_same_v<Field, int64_t>) {
        for (const int64_t value :
             {int64_t{0}, int64_t{-1}, int64_t{3}, int64_t{1} << 20, int64_t{1} << 30,
              int64_t{1} << 31, int64_t{1} << 32, int64_t{1} << 40, int64_t{1} << 62, kMax, kMin})
          draw(value);
      } else if constexpr (std::is_same_v<Field, uint64_t>) {
        for (const uint64_t value :
             {uint64_t{0}, uint64_t{1} << 62, uint64_t{1} << 63, ~uint64_t{0}})
          draw(value);
      } else if constexpr (std::is_same_v<Field, double>) {
        for (const double value :
             {0.0, -0.0, -1.0, 1.0, 1e-46, 1e-308, 1e38, 1e308, -1e308, kInf, -kInf, kNan})
          draw(value);
      }
    });
  });
}

Recipe image_recipe() {
  Recipe recipe = small_recipe();
  recipe.model.positions = PositionKind::kImage;
  recipe.model.image_height = 8;
  recipe.model.image_width = 8;
  recipe.model.image_channels = 1;
  return recipe;
}

Recipe rotary_recipe() {
  Recipe recipe = small_recipe();
  recipe.model.positions = PositionKind::kRotary;
  recipe.model.rotary_scaling = RotaryScaling::kYarn;
  recipe.model.rotary_factor = 2;
  return recipe;
}

TEST(RecipeRange, EveryExtremeIsAnErrorThatNamesItOrSane) {
  int errors = 0, passed = 0;
  for (const Recipe& base : {small_recipe(), image_recipe(), rotary_recipe()}) {
    draw_extremes(base,
                  [&](const Recipe& recipe, const std::string& key, const std::string& value) {
                    const std::string error = error_of([&] { recipe.check(); });
                    if (error.empty()) {
                      expect_sane(recipe, key + " = " + value);
                      ++passed;
                      return;
                    }
                    ++errors;
                    // The widths of the heads follow d_model.
                    const std::string field = key.substr(key.find('.') + 1);
                    if (field != "d_model" || error.find("qk_dim") == std::string::npos) {
                      EXPECT_HAS(error, field) << key << " = " << value;
                    }
                  });
  }
  EXPECT_GT(errors, 400);
  EXPECT_GT(passed, 50);
}

TEST(RecipeRange, TwoExtremesTogether) {
  int errors = 0;
  draw_extremes(small_recipe(), [&](const Recipe& one, const std::string& key, const std::string&) {
    if (!error_of([&] { one.check(); }).empty()) return;
    draw_extremes(one, [&](const Recipe& two, const std::string& other, const std::string& value) {
      if (error_of([&] { two.check(); }).empty()) {
        EXPECT_TRUE(product_fits({two.train.batch, two.train.accumulate, two.model.seq_len,
                                  std::max<int64_t>(1, two.train.steps)}))
            << key << ", " << other << " = " << value;
        EXPECT_TRUE(product_fits({parameter_count(two.model), 8, 5}))
            << key << ", " << other << " = " << value;
      } else {
        ++errors;
      }
    });
  });
  EXPECT_GT(errors, 1000);
}

TEST(RecipeRange, WhatTheIssueFound) {
  const auto set = [](const std::string& text) {
    return error_of([&] { parse_recipe("", "x", {text}); });
  };
  for (const char* text :
       {"optimizer.learning_rate=inf", "optimizer.learning_rate=nan", "optimizer.epsilon=inf",
        "optimizer.epsilon=0.0", "train.batch=4611686018427387904", "train.max_minutes=inf",
        "train.accumulate=4611686018427387904", "model.layers=4294967296",
        "model.ff_multiple=4611686018427387904", "optimizer.warmup_steps=9223372036854775807",
        "optimizer.clip_norm=nan", "model.embedding_gain=inf", "eval.batch=4611686018427387904"}) {
    const std::string key = std::string(text).substr(0, std::string(text).find('='));
    EXPECT_HAS(set(text), key.substr(key.find('.') + 1)) << text;
    EXPECT_HAS(set(text), ", got ") << text;
  }
  // Each in its range, together past any machine.
  Recipe recipe = small_recipe();
  recipe.model.layers = 65536;
  recipe.model.d_model = recipe.model.qk_dim = recipe.model.v_dim = 1 << 20;
  recipe.model.heads = 4096;
  recipe.model.patterns = {"local(8)"};
  EXPECT_HAS(error_of([&] { recipe.check(); }), "2^40 parameters");
  recipe = small_recipe();
  recipe.train.batch = recipe.train.accumulate = 1 << 20;
  recipe.train.steps = int64_t{1} << 40;
  EXPECT_HAS(error_of([&] { recipe.check(); }), "train.accumulate");
}

TEST(RecipeRange, NamesAreFolders) {
  const auto name = [](const std::string& text) {
    Recipe recipe = small_recipe();
    recipe.name = text;
    return error_of([&] { recipe.check(); });
  };
  for (const char* good : {"", "demo", "a b", "quo\"te\\", "größe", "..a", "日本", "é🙂"})
    EXPECT_EQ(name(good), "") << good;
  for (const std::string& bad :
       {std::string("../x"), std::string("a/b"), std::string("/"), std::string("."),
        std::string(".."), std::string("a\nb"), std::string("a\x1b[31m"), std::string("a\0b", 3),
        std::string("a\x7f"), std::string("a\xc2\x9b"), std::string("a\xff"), std::string("a\xc3"),
        std::string(201, 'a')})
    EXPECT_HAS(name(bad), "[recipe] name must be") << bad;
  EXPECT_HAS(name("a\x1b[31m\xff"), "got a\\x1b[31m\\xff");
  EXPECT_HAS(error_of([] { parse_recipe("name = \"../../x\"", "x.toml"); }), "got ../../x");
}

class RecipeFileTest : public FolderTest {};

TEST_F(RecipeFileTest, SaysWhyAFileCannotBeRead) {
  const auto error = [](const std::string& path) { return error_of([&] { load_recipe(path); }); };
  EXPECT_EQ(error(path("absent.toml")), "[recipe] no such file: " + path("absent.toml"));
  EXPECT_HAS(error(folder_.string()), folder_.string() + " is a folder");
  write_text(path("file"), "");
  EXPECT_EQ(error(path("file")), "");
  EXPECT_HAS(error(path("file/x.toml")), "no such file: " + path("file/x.toml"));
  EXPECT_HAS(error("/dev/zero"), "at most 1048576 bytes");
}

}  // namespace
}  // namespace lace
