#include "model/transformer.h"

#include <cstring>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "lace/attention.h"

#include "model/pass.h"
#include "model/scalar_type.h"
#include "ops/torch_context.h"

namespace lace {

namespace model {

at::ScalarType scalar_type(Precision precision) {
  switch (precision) {
    case Precision::kFloat32:
      return at::kFloat;
    case Precision::kBFloat16:
      return at::kBFloat16;
    case Precision::kFloat16:
      return at::kHalf;
    case Precision::kFloat64:
      return at::kDouble;
  }
  return at::kFloat;
}

}  // namespace model

namespace {

using model::scalar_type;

// Drawn on the CPU, so that it is the same on every device.
void set_initial_value(const ParameterInfo& info, const at::Tensor& parameter,
                       at::Generator& random) {
  const auto options = at::TensorOptions().dtype(at::kFloat);
  if (info.init_std > 0) {
    parameter.copy_(at::normal(0, info.init_std, info.shape, random, options));
  } else {
    parameter.fill_(info.init_value);
  }
}

// The row of each position table for each position: int64 [parts, seq_len].
at::Tensor make_position_indices(const ModelConfig& config) {
  const at::Tensor i = at::arange(config.seq_len, at::TensorOptions().dtype(at::kLong));
  if (config.positions == PositionKind::kImage) {
    const int64_t channels = config.image_channels, width = config.image_width;
    return at::stack({i.floor_divide(width * channels), i.floor_divide(channels).remainder(width),
                      i.remainder(channels)});
  }
  if (config.positions == PositionKind::kRotary) return i.new_empty({0, config.seq_len});
  const int64_t stride = config.position_stride_or_default();
  return at::stack({i.floor_divide(stride), i.remainder(stride)});
}

// Throws with what the device's kernels take unless one of them computes the model's attention.
void check_attention(const ModelConfig& config, at::Device device) {
  const auto options = at::TensorOptions(device).dtype(scalar_type(config.precision));
  const auto rows = [&](int64_t heads, int64_t head_dim) {
    return at::empty({1, heads, 1, head_dim}, options);
  };
  attention_kernel(rows(config.heads, config.qk_head_dim()),
                   rows(config.kv_heads_or_default(), config.qk_head_dim()),
                   rows(config.kv_heads_or_default(), config.v_head_dim()));
}

// Throws unless a model of this config runs on this device.
const ModelConfig& checked(const ModelConfig& config, at::Device device) {
  config.check();
  LACE_CHECK(device.is_cpu() || config.precision == Precision::kBFloat16 ||
                 config.precision == Precision::kFloat16,
             "[model] precision must be bf16 or fp16 on a GPU, got ", name(config.precision));
  if (!device.is_cpu()) check_attention(config, device);
  return config;
}

}  // namespace

SparseTransformer::Impl::Impl(const ModelConfig& model_config, at::Device device)
    : config(checked(model_config, device)),
      arena(parameter_infos(config), scalar_type(config.precision), device) {
  const at::NoGradGuard no_grad;
  auto random = at::make_generator<at::CPUGeneratorImpl>(config.seed);
  const std::vector<ParameterInfo> infos = parameter_infos(config);
  for (size_t i = 0; i < infos.size(); ++i) {
    set_initial_value(infos[i], arena.parameter(i), random);
  }
  for (const std::string& text : config.patterns) patterns.push_back(Pattern::parse(text));
  position_indices = make_position_indices(config).to(device);
  rotary = model::make_rotary(config, arena.values().options());
  first_block = 2 + config.position_rows().size();
}

at::ScalarType SparseTransformer::Impl::compute() const { return scalar_type(config.precision); }

at::ScalarType SparseTransformer::Impl::residual() const {
  return config.residual == ResidualType::kWide ? model::wide_type(compute()) : compute();
}

size_t SparseTransformer::Impl::block_parameter(int64_t layer, model::BlockTensor tensor) const {
  return first_block + static_cast<size_t>(layer) * model::kBlockTensors +
         static_cast<size_t>(tensor);
}

size_t SparseTransformer::Impl::final_norm() const {
  return block_parameter(config.layers, model::BlockTensor{});
}

size_t SparseTransformer::Impl::output_weight() const { return config.tied ? 0 : final_norm() + 2; }

std::vector<at::Tensor> SparseTransformer::Impl::embedding_tables() const {
  std::vector<at::Tensor> tables;
  for (size_t i = 0; i < first_block; ++i) tables.push_back(arena.parameter(i).detach());
  return tables;
}

at::Tensor SparseTransformer::Impl::indices(int64_t n) const {
  return position_indices.narrow(1, 0, n).contiguous();
}

at::Tensor SparseTransformer::Impl::dropout_keys(const PassMode& mode) const {
  if (!mode.training || config.dropout == 0) return {};
  const std::vector<uint64_t> keys =
      model::dropout_keys(config.seed, mode.step, mode.micro_batch, config.layers);
  at::Tensor tensor = at::empty({config.layers, model::kDropoutBranches}, at::kLong);
  std::memcpy(tensor.mutable_data_ptr(), keys.data(), tensor.nbytes());
  return tensor;
}

Dropout SparseTransformer::Impl::dropout(int64_t layer, model::DropoutBranch branch,
                                         const at::Tensor& keys) const {
  if (!keys.defined()) return {};
  const auto* key = static_cast<const uint64_t*>(keys.const_data_ptr());
  return model::make_dropout(config.dropout, key + layer * model::kDropoutBranches + branch);
}

model::BlockCall SparseTransformer::Impl::block_call(int64_t layer, int64_t batch, int64_t n,
                                                     const at::Tensor& keys) const {
  model::BlockShape shape;
  shape.batch = batch;
  shape.n = n;
  shape.heads = config.heads;
  shape.kv_heads = config.kv_heads_or_default();
  shape.qk_head_dim = config.qk_head_dim();
  shape.v_head_dim = config.v_head_dim();
  shape.eps = config.block_norm_eps;
  shape.deterministic = config.deterministic;
  shape.rotary = rotary;
  model::BlockCall call{shape,
                        patterns[static_cast<size_t>(layer) % patterns.size()],
                        dropout(layer, model::kAttentionBranch, keys),
                        dropout(layer, model::kFeedForwardBranch, keys),
                        {}};
  for (int i = 0; i < model::kBlockTensors; ++i) {
    const auto tensor = static_cast<model::BlockTensor>(i);
    const bool norm = tensor == model::kNorm1Weight || tensor == model::kNorm1Bias ||
                      tensor == model::kNorm2Weight || tensor == model::kNorm2Bias;
    const size_t index = block_parameter(layer, tensor);
    call.weights[static_cast<size_t>(i)] =
        norm ? arena.parameter(index).detach() : arena.copy(index);
  }
  return call;
}

at::Tensor SparseTransformer::Impl::logits(const at::Tensor& x) const {
  const at::Tensor y = at::layer_norm(
      x.to(model::wide_type(compute())), {x.size(1)}, arena.parameter(final_norm()).detach(),
      arena.parameter(final_norm() + 1).detach(), config.final_norm_eps);
  return model::linear_forward(y, arena.parameter(output_weight()).detach(), {});
}

at::Tensor SparseTransformer::Impl::check_tokens(const at::Tensor& tokens, bool from_host) const {
  LACE_CHECK(tokens.dim() == 2, "[model] tokens must have the shape [batch, n], got ", tokens.dim(),
             " dimensions");
  LACE_CHECK(tokens.scalar_type() == at::kByte || tokens.scalar_type() == at::kLong,
             "[model] tokens must be uint8 or int64, got ", c10::toString(tokens.scalar_type()));
  LACE_CHECK(tokens.device() == position_indices.device() || (from_host && tokens.is_cpu()),
             "[model] tokens must be on ", position_indices.device(), ", got ", tokens.device());
  LACE_CHECK(tokens.size(1) <= config.seq_len, "[model] tokens may have up to seq_len (",
             config.seq_len, ") symbols, got ", tokens.size(1));
  const at::Tensor wide = tokens.to(at::kLong, /*non_blocking=*/false, /*copy=*/true).contiguous();
  if (wide.numel() > 0 && (tokens.scalar_type() == at::kLong || config.vocab < 256)) {
    const auto low = wide.min().item<int64_t>(), high = wide.max().item<int64_t>();
    LACE_CHECK(low >= 0 && high < config.vocab, "[model] tokens must be in [0, ", config.vocab,
               "), got ", low < 0 ? low : high);
  }
  return wide;
}

SparseTransformer::SparseTransformer(const ModelConfig& config, at::Device device)
    : impl_(std::make_shared<Impl>(config, device)) {}

SparseTransformer::~SparseTransformer() = default;

const ModelConfig& SparseTransformer::config() const { return impl_->config; }

at::Device SparseTransformer::device() const { return impl_->device(); }

const std::vector<NamedParameter>& SparseTransformer::parameters() const {
  return impl_->arena.parameters();
}

namespace {

at::Tensor keys_on_device(const SparseTransformer::Impl& impl, const PassMode& mode) {
  const at::Tensor keys = impl.dropout_keys(mode);
  return keys.defined() ? keys.to(impl.device()) : keys;
}

// A GPU's table has 16-bit logits only.
at::Tensor wide_nats(const at::Tensor& logits, const at::Tensor& targets) {
  if (logits.is_cpu()) return model::cross_entropy(logits, targets).nats;
  return at::cross_entropy_loss(logits, targets, {}, at::Reduction::None);
}

void check_not_empty(const at::Tensor& tokens) {
  LACE_CHECK(tokens.numel() > 0, "[model] tokens must hold at least one symbol, got none");
}

}  // namespace

at::Tensor SparseTransformer::forward(const at::Tensor& tokens, const PassMode& mode) const {
  const ops::OwnThreads threads;
  const at::Tensor checked = impl_->check_tokens(tokens);
  check_not_empty(checked);
  const at::Tensor keys = keys_on_device(*impl_, mode);
  const at::Tensor logits = at::GradMode::is_enabled()
                                ? model::logits_node(impl_, checked, keys)
                                : impl_->logits(model::Pass(impl_, checked, keys, false).hidden());
  return logits.view({checked.size(0), checked.size(1), config().vocab});
}

at::Tensor SparseTransformer::loss(const at::Tensor& tokens, const PassMode& mode) const {
  const ops::OwnThreads threads;
  const at::Tensor checked = impl_->check_tokens(tokens);
  check_not_empty(checked);
  const at::Tensor keys = keys_on_device(*impl_, mode);
  if (at::GradMode::is_enabled()) return model::loss_node(impl_, checked, keys);
  return model::Pass(impl_, checked, keys, false).nats().mean();
}

at::Tensor SparseTransformer::nats(const at::Tensor& tokens) const {
  const ops::OwnThreads threads;
  c10::NoGradGuard no_grad;
  const at::Tensor checked = impl_->check_tokens(tokens);
  check_not_empty(checked);
  const at::Tensor logits = impl_->logits(model::Pass(impl_, checked, {}, false).hidden());
  return wide_nats(logits, checked.view(-1)).view(checked.sizes());
}

}  // namespace lace
