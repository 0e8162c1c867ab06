#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "lace/data.h"
#include "lace/model.h"

namespace lace {

// The names of all fields are a recipe's keys. A field's comment is its documentation.

// [data]
struct DataConfig {
  DataKind kind = DataKind::kText;  // "text" (any bytes), "images" or "audio"
  std::vector<std::string> paths;   // files and folders
  // If given, these splits are all of these files, and no part of paths.
  std::vector<std::string> validation_paths, test_paths;
  // Of the bytes, the images or the samples; of text by file every 20th file (0: none).
  double validation_fraction = 0.05;
  double test_fraction = 0.05;
  // Of text: "bytes", "files", or by their number "auto" (by file from 21 on).
  SplitBy split = SplitBy::kAuto;
  // Of text: 0, or the size of records (clips, raw images): windows and splits fall on multiples of
  // it in each file, and what is left over at a file's end is left out.
  int64_t record_bytes = 0;
  // Of images whose size is not the model's: "stretch" or "crop"; "none": an error.
  ImageResize resize = ImageResize::kNone;
  int64_t sample_rate = 12000;  // of audio: Hz that it is resampled to
  std::string cache;  // folder for what files unpack or decode to; "": .lace-cache beside the run

  // Puts change(p) for each path p of this machine: those of files and folders, and the cache.
  void change_places(const std::function<std::string(const std::string&)>& change);
  // Clears all of them.
  void forget_places();
};

// [optimizer]: Adam with decoupled weight decay on tensors of rank 2 and more.
struct OptimizerConfig {
  double learning_rate = 3e-4;
  int64_t warmup_steps = 100;  // linear; then a cosine that ends with the run
  double final_share = 0;      // of learning_rate, where the cosine ends; 1: constant after warm-up
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.01;
  double clip_norm = 1.0;  // of all gradients together; 0: no clipping
  double ema = 0;          // decay of a running mean of the weights, kept beside them; 0: none
};

// [train]
struct TrainConfig {
  int64_t batch = 8;              // sequences of a micro-batch
  int64_t accumulate = 1;         // micro-batches of a step
  int64_t steps = 1000;           // 0: as many as max_minutes allow
  double max_minutes = 0;         // 0: no limit. Else the run and its cosine end then at the latest
  int64_t validate_every = 200;   // steps; 0: at the end only
  int64_t validate_windows = 64;  // at most, evenly spread over the validation bytes
  bool graphs = true;  // on a GPU, record a step's work once and replay it: faster, bit for bit
                       // the same where the model is deterministic
  bool shard_optimizer = false;    // of several ranks each keeps its share of the optimiser's state
                                   // alone: less memory, bit for bit the same (ZeRO-1,
                                   // docs/distributed.md); a run may change it when it goes on
  int64_t checkpoint_every = 500;  // steps; 0: at the end only
  int64_t keep_checkpoints = 0;    // that are older than the last two, as step-N.safetensors
  int64_t early_stop = 0;    // validations in a row without a new best that end the run; 0: none do
  double spike = 2;          // a loss above so many times the mean of those before it is told of
                             // with its place in the data (docs/runs.md); 0: none is
  int64_t sample_every = 0;  // steps after which samples are drawn; 0: none are
  int64_t sample_bytes = 512;  // of a sample; 0: model.seq_len
  int64_t sample_count = 1;    // samples at a time
  uint64_t seed = 1;           // of the order of the data
};

// [eval]
struct EvalConfig {
  int64_t min_context = 0;  // every byte but the first ones is scored with at least so many before
                            // it: windows advance by seq_len − min_context
  int64_t batch = 8;        // windows at a time
};

struct Recipe {
  std::string name;  // of the run's folder below runs/; "": that of the recipe's file
  ModelConfig model;
  DataConfig data;
  OptimizerConfig optimizer;
  TrainConfig train;
  EvalConfig eval;

  // Every number has a range, and so have the products that sizes follow from (parameters, symbols
  // of a step and of the run, values of a micro-batch): what passes overflows nowhere.
  // Throws lace::Error on the first field that is wrong: `[model] rule, got value`, or
  // `[recipe] section.field rule, got value`.
  void check() const;
};

// Reads a recipe from TOML. `source` names the text in errors. `base = "other.toml"` at its top
// names a recipe, relative to the folder of `source`, whose keys are read first, all but its name;
// up to 4 may build on one another. `overrides` are `section.key=value`, the value as in TOML,
// quotes may be left out. Keys that no text names keep their defaults. A group \xNN in a string
// (two hexadecimal digits; in TOML's double quotes \\xNN) stands for that byte, so that paths of
// any bytes can be named, as path_text() shows them. Throws lace::Error: a syntax error with its
// line; an unknown section or key with its line and the nearest known one; a value of the wrong
// type; what Recipe::check finds. load_recipe: also if there is no such file, it is a folder, or it
// cannot be read.
Recipe parse_recipe(std::string_view text, const std::string& source,
                    const std::vector<std::string>& overrides = {});
Recipe load_recipe(const std::string& path, const std::vector<std::string>& overrides = {});

// All fields as TOML, in UTF-8 whatever bytes its strings hold: parse_recipe(to_toml(recipe)) gives
// the same recipe.
std::string to_toml(const Recipe& recipe);

}  // namespace lace
