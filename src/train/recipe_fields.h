#pragma once

#include "lace/recipe.h"

namespace lace::train {

// Calls visit(key, field) for each field of a section: the one list of a recipe's keys.
template <typename Visit>
void visit_fields(ModelConfig& c, Visit&& visit) {
  visit("vocab", c.vocab);
  visit("seq_len", c.seq_len);
  visit("layers", c.layers);
  visit("d_model", c.d_model);
  visit("heads", c.heads);
  visit("kv_heads", c.kv_heads);
  visit("qk_dim", c.qk_dim);
  visit("v_dim", c.v_dim);
  visit("ff_multiple", c.ff_multiple);
  visit("patterns", c.patterns);
  visit("positions", c.positions);
  visit("position_stride", c.position_stride);
  visit("image_height", c.image_height);
  visit("image_width", c.image_width);
  visit("image_channels", c.image_channels);
  visit("rotary_base", c.rotary_base);
  visit("rotary_scaling", c.rotary_scaling);
  visit("rotary_factor", c.rotary_factor);
  visit("rotary_original_length", c.rotary_original_length);
  visit("rotary_beta_fast", c.rotary_beta_fast);
  visit("rotary_beta_slow", c.rotary_beta_slow);
  visit("dropout", c.dropout);
  visit("init", c.init);
  visit("embedding_gain", c.embedding_gain);
  visit("linear_gain", c.linear_gain);
  visit("tied", c.tied);
  visit("block_norm_eps", c.block_norm_eps);
  visit("final_norm_eps", c.final_norm_eps);
  visit("precision", c.precision);
  visit("residual", c.residual);
  visit("recompute", c.recompute);
  visit("deterministic", c.deterministic);
  visit("seed", c.seed);
}

template <typename Visit>
void visit_fields(DataConfig& c, Visit&& visit) {
  visit("kind", c.kind);
  visit("paths", c.paths);
  visit("validation_paths", c.validation_paths);
  visit("test_paths", c.test_paths);
  visit("validation_fraction", c.validation_fraction);
  visit("test_fraction", c.test_fraction);
  visit("split", c.split);
  visit("record_bytes", c.record_bytes);
  visit("resize", c.resize);
  visit("sample_rate", c.sample_rate);
  visit("cache", c.cache);
}

template <typename Visit>
void visit_fields(OptimizerConfig& c, Visit&& visit) {
  visit("learning_rate", c.learning_rate);
  visit("warmup_steps", c.warmup_steps);
  visit("final_share", c.final_share);
  visit("beta1", c.beta1);
  visit("beta2", c.beta2);
  visit("epsilon", c.epsilon);
  visit("weight_decay", c.weight_decay);
  visit("clip_norm", c.clip_norm);
  visit("ema", c.ema);
}

template <typename Visit>
void visit_fields(TrainConfig& c, Visit&& visit) {
  visit("batch", c.batch);
  visit("accumulate", c.accumulate);
  visit("steps", c.steps);
  visit("max_minutes", c.max_minutes);
  visit("validate_every", c.validate_every);
  visit("validate_windows", c.validate_windows);
  visit("graphs", c.graphs);
  visit("shard_optimizer", c.shard_optimizer);
  visit("checkpoint_every", c.checkpoint_every);
  visit("keep_checkpoints", c.keep_checkpoints);
  visit("early_stop", c.early_stop);
  visit("spike", c.spike);
  visit("sample_every", c.sample_every);
  visit("sample_bytes", c.sample_bytes);
  visit("sample_count", c.sample_count);
  visit("seed", c.seed);
}

template <typename Visit>
void visit_fields(EvalConfig& c, Visit&& visit) {
  visit("min_context", c.min_context);
  visit("batch", c.batch);
}

template <typename Visit>
void visit_sections(Recipe& recipe, Visit&& visit) {
  visit("model", recipe.model);
  visit("data", recipe.data);
  visit("optimizer", recipe.optimizer);
  visit("train", recipe.train);
  visit("eval", recipe.eval);
}

}  // namespace lace::train
