#include "model/transformer.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "ops/torch_context.h"
namespace lace {

namespace {

// Drawn on the CPU, so that it is the same on every device.
at::Tensor initial_value(const ParameterInfo& info, at::ScalarType wide, at::Device device,
                         at::Generator& random) {
  const auto options = at::TensorOptions().dtype(at::kFloat);
  at::Tensor value = info.init_std > 0 ? at::normal(0, info.init_std, info.shape, random, options)
                                       : at::full(info.shape, info.init_value, options);
  return value.to(device, wide).requires_grad_();
}

// A copy in another dtype, made by all threads of a CPU.
at::Tensor cast(const at::Tensor& x, at::ScalarType type) {
  if (!x.is_cpu()) return x.to(type);
  const at::Tensor copy = at::empty(x.sizes(), x.options().dtype(type));
  const at::Tensor from = x.view({-1}), to = copy.view({-1});
  constexpr int64_t kPart = 1 << 16;
  const int64_t parts = (from.size(0) + kPart - 1) / kPart;
  run_tasks(ops::current_executor(), parts, [&](int64_t part, int) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const int64_t begin = part * kPart, count = std::min(kPart, from.size(0) - begin);
    to.narrow(0, begin, count).copy_(from.narrow(0, begin, count));
  });
  return copy;
}

// The row of each position table for each position: int64 [parts, seq_len].
at::Tensor make_position_indices(const ModelConfig& config) {
  const at::Tensor i = at::arange(config.seq_len, at::TensorOptions().dtype(at::kLong));
  if (config.positions == PositionKind::kImage) {
    const int64_t channels = config.image_channels, width = config.image_width;
    return at::stack({i.floor_divide(width * channels), i.floor_divide(channels).remainder(width),
                      i.remainder(channels)});
  }
  const int64_t stride = config.position_stride_or_default();
  return at::stack({i.floor_divide(stride), i.remainder(stride)});
}

}  // namespace

SparseTransformer::Impl::Impl(const ModelConfig& model_config, at::Device device)
    : config(model_config) {
  config.check();
  LACE_CHECK(device.is_cpu() || compute() == at::kBFloat16 || compute() == at::kHalf,
             "[model] precision must be bf16 or fp16 on a GPU, got ", name(config.precision));
  auto random = at::make_generator<at::CPUGeneratorImpl>(config.seed);
  for (const ParameterInfo& info : parameter_infos(config)) {
    parameters.push_back({info.name, initial_value(info, wide(), device, random)});
  }
  for (const std::string& text : config.patterns) patterns.push_back(Pattern::parse(text));
  position_indices = make_position_indices(config).to(device);
  first_block = 2 + config.position_rows().size();
  copies.resize(parameters.size());
}

at::ScalarType SparseTransformer::Impl::compute() const {
  switch (config.precision) {
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

at::ScalarType SparseTransformer::Impl::wide() const { return model::wide_type(compute()); }

std::vector<NamedParameter> SparseTransformer::Impl::embedding_tables() const {
  const auto begin = parameters.begin();
  return {begin, begin + static_cast<std::ptrdiff_t>(first_block)};
}

std::vector<NamedParameter> SparseTransformer::Impl::block_parameters(int64_t layer) const {
  const auto begin =
      parameters.begin() +
      static_cast<std::ptrdiff_t>(first_block + static_cast<size_t>(layer) * model::kBlockTensors);
  return {begin, begin + model::kBlockTensors};
}

at::Tensor SparseTransformer::Impl::compute_copy(size_t index) const {
  const at::Tensor& master = parameter(index);
  if (master.scalar_type() == compute()) return master.detach();
  Copy& copy = copies[index];
  const int64_t version = master._version();
  if (copy.version != version) {
    copy = {cast(master.detach(), compute()), version};
  }
  return copy.tensor;
}

model::BlockCall SparseTransformer::Impl::block_call(int64_t layer, int64_t batch, int64_t n,
                                                     const PassMode& mode) const {
  model::BlockShape shape;
  shape.batch = batch;
  shape.n = n;
  shape.heads = config.heads;
  shape.kv_heads = config.kv_heads_or_default();
  shape.qk_head_dim = config.qk_head_dim();
  shape.v_head_dim = config.v_head_dim();
  shape.eps = config.block_norm_eps;
  shape.deterministic = config.deterministic;
  const auto dropout = [&](int64_t branch) {
    return model::make_dropout(mode.training ? config.dropout : 0, config.seed, mode.step,
                               mode.micro_batch, layer, branch);
  };
  model::BlockCall call{
      shape, patterns[static_cast<size_t>(layer) % patterns.size()], dropout(0), dropout(1), {}};
  const size_t first = first_block + static_cast<size_t>(layer) * model::kBlockTensors;
  for (size_t i = 0; i < model::kBlockTensors; ++i) {
    const bool norm = i == model::kNorm1Weight || i == model::kNorm1Bias ||
                      i == model::kNorm2Weight || i == model::kNorm2Bias;
    call.weights[i] = norm ? parameter(first + i).detach() : compute_copy(first + i);
  }
  return call;
}

model::Head SparseTransformer::Impl::head() const {
  const size_t norm = first_block + static_cast<size_t>(config.layers) * model::kBlockTensors;
  const size_t weight = config.tied ? 0 : norm + 2;
  return {parameters[norm], parameters[norm + 1], parameters[weight], compute_copy(weight),
          config.final_norm_eps};
}

at::Tensor SparseTransformer::Impl::check_tokens(const at::Tensor& tokens) const {
  LACE_CHECK(tokens.dim() == 2, "[model] tokens must have the shape [batch, n], got ", tokens.dim(),
             " dimensions");
  LACE_CHECK(tokens.scalar_type() == at::kByte || tokens.scalar_type() == at::kLong,
             "[model] tokens must be uint8 or int64, got ", c10::toString(tokens.scalar_type()));
  LACE_CHECK(tokens.device() == position_indices.device(), "[model] tokens must be on ",
             position_indices.device(), ", got ", tokens.device());
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

at::Tensor SparseTransformer::Impl::hidden(const at::Tensor& tokens, const PassMode& mode) const {
  const int64_t batch = tokens.size(0), n = tokens.size(1);
  at::Tensor h =
      model::embedding(tokens, position_indices.narrow(1, 0, n).contiguous(), embedding_tables());
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    h = model::block(h, block_parameters(layer), block_call(layer, batch, n, mode),
                     config.recompute);
  }
  return h;
}

SparseTransformer::SparseTransformer(const ModelConfig& config, at::Device device)
    : impl_(std::make_unique<Impl>(config, device)) {}

SparseTransformer::~SparseTransformer() = default;

const ModelConfig& SparseTransformer::config() const { return impl_->config; }

at::Device SparseTransformer::device() const { return impl_->position_indices.device(); }

const std::vector<NamedParameter>& SparseTransformer::parameters() const {
  return impl_->parameters;
}

namespace {

void check_not_empty(const at::Tensor& tokens) {
  LACE_CHECK(tokens.numel() > 0, "[model] tokens must hold at least one symbol, got none");
}

}  // namespace

at::Tensor SparseTransformer::forward(const at::Tensor& tokens, const PassMode& mode) const {
  const ops::OwnThreads threads;
  const at::Tensor checked = impl_->check_tokens(tokens);
  check_not_empty(checked);
  return model::head_logits(impl_->hidden(checked, mode), impl_->head())
      .view({checked.size(0), checked.size(1), config().vocab});
}

at::Tensor SparseTransformer::loss(const at::Tensor& tokens, const PassMode& mode) const {
  const ops::OwnThreads threads;
  const at::Tensor checked = impl_->check_tokens(tokens);
  check_not_empty(checked);
  return model::head_loss(impl_->hidden(checked, mode), checked.view(-1), impl_->head());
}

at::Tensor SparseTransformer::nats(const at::Tensor& tokens) const {
  const ops::OwnThreads threads;
  c10::NoGradGuard no_grad;
  const at::Tensor checked = impl_->check_tokens(tokens);
  check_not_empty(checked);
  const at::Tensor logits = model::head_logits(impl_->hidden(checked, {}), impl_->head());
  return model::cross_entropy(logits, checked.view(-1)).nats.view(checked.sizes());
}

}  // namespace lace
