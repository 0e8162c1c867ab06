// Decoding with a cache of each layer's keys and values: a new symbol costs one row of every
// product, and attention of one query over the keys so far.

#include <algorithm>
#include <optional>

#include <ATen/ATen.h>

#include "lace/attention.h"

#include "model/layers.h"
#include "model/transformer.h"
#include "ops/torch_context.h"

namespace lace {

struct DecodeState {
  int64_t batch = 0;
  int64_t slots = 0;                     // in the caches
  std::vector<at::Tensor> keys, values;  // by layer [batch, seq_len, kv_heads, head_dim], rotated
  std::vector<Pattern> patterns;         // of the layers, a cycle, bound to seq_len
  model::Unchanged parameters{{}};       // that the caches come from
};

namespace {

// `global` names positions of the whole sequence, of which decoding has only a part: its patterns
// are bound to seq_len once, and what lies beyond the keys so far is left out at each call.

bool names_tokens(const Expr& expr) {
  if (expr.op == Expr::Op::kAtom) return expr.atom.kind == AtomKind::kGlobal;
  return std::any_of(expr.operands.begin(), expr.operands.end(), names_tokens);
}

bool names_tokens(const Pattern& pattern) {
  const auto& entries = pattern.entries();
  return std::any_of(entries.begin(), entries.end(),
                     [](const auto& entry) { return names_tokens(entry.expr); });
}

// `pattern` with its tokens counted from the start.
Pattern resolve_tokens(const Pattern& pattern, int64_t heads, int64_t seq_len) {
  if (!names_tokens(pattern)) return pattern;
  const BoundPattern bound = pattern.bind(heads, seq_len, seq_len);
  std::vector<Pattern::HeadEntry> entries;
  for (int64_t head = 0; head < heads; ++head) entries.push_back({1, bound.expr(head)});
  return Pattern(std::move(entries), true);
}

// `expr` without tokens at or after `keys`; nothing if that leaves the empty set.
std::optional<Expr> clip_tokens(const Expr& expr, int64_t keys) {
  Expr clipped = expr;
  if (expr.op == Expr::Op::kAtom) {
    if (expr.atom.kind != AtomKind::kGlobal) return expr;
    auto& tokens = clipped.atom.tokens;
    std::erase_if(tokens, [keys](const TokenRange& range) { return range.first >= keys; });
    for (TokenRange& range : tokens) range.last = std::min(range.last, keys - 1);
    return tokens.empty() ? std::nullopt : std::optional(clipped);
  }
  clipped.operands.clear();
  for (const Expr& operand : expr.operands) {
    const std::optional<Expr> kept = clip_tokens(operand, keys);
    if (kept) clipped.operands.push_back(*kept);
    if (!kept && expr.op == Expr::Op::kIntersection) return std::nullopt;
  }
  if (clipped.operands.empty()) return std::nullopt;
  return clipped.operands.size() == 1 ? clipped.operands[0] : clipped;
}

Pattern clip_tokens(const Pattern& pattern, int64_t keys) {
  if (!names_tokens(pattern)) return pattern;
  // No key is in two different columns of its block.
  static const Expr never = (summary(2, 1, 0) & summary(2, 1, 1)).entries()[0].expr;
  std::vector<Pattern::HeadEntry> entries = pattern.entries();
  for (auto& entry : entries) entry.expr = clip_tokens(entry.expr, keys).value_or(never);
  return Pattern(std::move(entries), true);
}

}  // namespace

std::shared_ptr<DecodeState> SparseTransformer::start_decoding(int64_t batch) const {
  LACE_CHECK(batch > 0, "[model] the batch to decode must be positive, got ", batch);
  const ModelConfig& config = impl_->config;
  auto state = std::make_shared<DecodeState>();
  state->batch = batch;
  const auto options =
      impl_->arena.parameter(0).options().dtype(impl_->compute()).requires_grad(false);
  const int64_t kv_heads = config.kv_heads_or_default();
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    state->keys.push_back(
        at::empty({batch, config.seq_len, kv_heads, config.qk_head_dim()}, options));
    state->values.push_back(
        at::empty({batch, config.seq_len, kv_heads, config.v_head_dim()}, options));
  }
  state->parameters = model::Unchanged(impl_->arena.parameters());
  for (const Pattern& pattern : impl_->patterns) {
    state->patterns.push_back(resolve_tokens(pattern, config.heads, config.seq_len));
  }
  return state;
}

namespace {

// Block `layer` over `count` new slots of each sequence: x residual [batch · count, d_model].
at::Tensor decode_block(DecodeState& state, int64_t layer, const model::BlockCall& call,
                        const at::Tensor& x) {
  const int64_t count = call.shape.n, end = state.slots + count;
  const model::Qkv qkv =
      model::split_qkv(call.shape, model::block_qkv(call, model::block_norm(call, x)));
  const auto cached = [&](const at::Tensor& cache, const at::Tensor& fresh) {
    const at::Tensor by_head = cache.transpose(1, 2);
    by_head.narrow(2, state.slots, count).copy_(fresh);
    return by_head.narrow(2, 0, end);
  };
  const auto at_layer = static_cast<size_t>(layer);
  const at::Tensor k = cached(state.keys[at_layer], qkv.k),
                   v = cached(state.values[at_layer], qkv.v);
  const at::Tensor out =
      attention(qkv.q, k, v, clip_tokens(state.patterns[at_layer % state.patterns.size()], end))
          .transpose(1, 2)
          .reshape({x.size(0), call.shape.heads * call.shape.v_head_dim});
  return model::block_rest(call, x, out);
}

}  // namespace

at::Tensor SparseTransformer::decode(DecodeState& state, const at::Tensor& tokens) const {
  const ops::OwnThreads threads;
  c10::NoGradGuard no_grad;
  state.parameters.check("while a sequence is decoded");
  const at::Tensor fresh = impl_->check_tokens(tokens);
  const bool first = state.slots == 0;
  const int64_t count = fresh.size(1) + (first ? 1 : 0);
  LACE_CHECK(fresh.size(0) == state.batch, "[model] tokens must be of ", state.batch,
             " sequences, got ", fresh.size(0));
  LACE_CHECK(count > 0, "[model] tokens must hold at least one symbol after the first call, got ",
             "none");
  LACE_CHECK(state.slots + count <= impl_->config.seq_len,
             "[model] decoding ends before symbol seq_len (", impl_->config.seq_len, "), got ",
             state.slots + count - 1, " symbols");

  // embed() puts slot 0 at the start of what it is given: one slot is put before the new ones, and
  // of a later call cut off again.
  const int64_t lead = first ? 0 : 1;
  const at::Tensor unused = at::zeros({state.batch, 1}, fresh.options());
  const at::Tensor shifted = at::cat({fresh, unused}, 1);
  const int64_t n = shifted.size(1);
  const int64_t position = first ? 0 : state.slots - 1;
  const at::Tensor indices = impl_->position_indices.narrow(1, position, n).contiguous();
  at::Tensor x = model::embed(shifted, indices, impl_->embedding_tables(), impl_->residual())
                     .view({state.batch, n, impl_->config.d_model})
                     .narrow(1, lead, count)
                     .contiguous()
                     .view({state.batch * count, impl_->config.d_model});

  for (int64_t layer = 0; layer < impl_->config.layers; ++layer) {
    model::BlockCall call = impl_->block_call(layer, state.batch, count, {});
    call.shape.first_position = state.slots;
    x = decode_block(state, layer, call, x);
  }
  state.slots += count;
  const at::Tensor last = x.view({state.batch, count, -1}).select(1, count - 1).contiguous();
  return impl_->logits(last);
}

}  // namespace lace
