#include "kernels/problem.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "lace/error.h"

#include "kernels/reference/element.h"

namespace lace::test {
namespace {

constexpr int kPoison = 0xff;  // as bytes: NaN in every dtype

class HostMachine final : public Machine {
 public:
  Context context(const Executor& executor) override {
    Context context = make_host_context(executor);
    context.allocate = [allocate = context.allocate](size_t bytes) {
      Workspace workspace = allocate(bytes);
      std::memset(workspace.get(), kPoison, bytes);
      return workspace;
    };
    return context;
  }
  Tensor4 enter(const Tensor& tensor) override { return tensor.view(); }
  void leave() override {}
};

DType lse_dtype(DType dtype) {
  return dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

std::shared_ptr<std::vector<std::byte>> poisoned_buffer(int64_t elements, DType dtype) {
  return std::make_shared<std::vector<std::byte>>(static_cast<size_t>(elements * size_bytes(dtype)),
                                                  std::byte{kPoison});
}

Tensor contiguous(DType dtype, int64_t batch, int64_t heads, int64_t rows, int64_t dim) {
  return Tensor(dtype, {batch, heads, rows, dim},
                poisoned_buffer(batch * heads * rows * dim, dtype), 0,
                {nullptr, heads * rows * dim, rows * dim, dim});
}

void set_all(Tensor& tensor, double value) {
  for (int64_t b = 0; b < tensor.size(0); ++b) {
    for (int64_t h = 0; h < tensor.size(1); ++h) {
      for (int64_t r = 0; r < tensor.size(2); ++r) {
        for (int64_t d = 0; d < tensor.size(3); ++d) tensor.set(b, h, r, d, value);
      }
    }
  }
}

}  // namespace

Machine& host_machine() {
  static HostMachine machine;
  return machine;
}

Tensor::Tensor(DType dtype, std::vector<int64_t> sizes,
               std::shared_ptr<std::vector<std::byte>> buffer, int64_t offset, Tensor4 strides)
    : dtype_(dtype), sizes_(std::move(sizes)), buffer_(std::move(buffer)), view_(strides) {
  view_.data = buffer_->data() + offset * size_bytes(dtype);
}

std::byte* Tensor::at(int64_t batch, int64_t head, int64_t row, int64_t d) const {
  return static_cast<std::byte*>(view_.data) +
         (batch * view_.batch_stride + head * view_.head_stride + row * view_.row_stride + d) *
             size_bytes(dtype_);
}

double Tensor::get(int64_t batch, int64_t head, int64_t row, int64_t d) const {
  double value = 0;
  reference::dispatch_element(dtype_, [&]<typename Element>() {
    typename Element::Type bits;
    std::memcpy(&bits, at(batch, head, row, d), sizeof bits);
    value = Element::load(bits);
  });
  return value;
}

void Tensor::set(int64_t batch, int64_t head, int64_t row, int64_t d, double value) {
  reference::dispatch_element(dtype_, [&]<typename Element>() {
    const typename Element::Type bits = Element::store(value);
    std::memcpy(at(batch, head, row, d), &bits, sizeof bits);
  });
}

std::vector<double> Tensor::values() const {
  std::vector<double> all;
  for (int64_t b = 0; b < size(0); ++b) {
    for (int64_t h = 0; h < size(1); ++h) {
      for (int64_t r = 0; r < size(2); ++r) {
        for (int64_t d = 0; d < size(3); ++d) all.push_back(get(b, h, r, d));
      }
    }
  }
  return all;
}

Problem::Problem(const Case& shape, uint64_t seed)
    : Problem(shape, seed, {shape.tile, shape.tile}) {}

Problem::Problem(const Case& shape, uint64_t seed, const KernelTiles& tiles) : case_(shape) {
  const bool has_sequences = !case_.sequences.empty();
  const Pattern pattern = Pattern::parse(case_.pattern);
  const auto bind = [&](const Pattern& p) {
    return p.bind(case_.heads, has_sequences ? case_.plan_len : case_.q_len,
                  has_sequences ? case_.plan_len : case_.k_len);
  };
  plan_ = compile(bind(pattern), tiles.forward, false);
  transposed_ = compile(bind(pattern), tiles.transposed, true);
  if (case_.blocks.size != 0) {
    const BoundPattern whole = bind(within(pattern, draw_blocks(seed + 5)));
    whole_plan_ = compile(whole, tiles.forward, false);
    whole_transposed_ = compile(whole, tiles.transposed, true);
  }
  Three inputs = make_qkv(true);
  q_ = inputs.q;
  k_ = inputs.k;
  v_ = inputs.v;
  dout_ = make_out(true);
  fill(q_, seed, case_.magnitude);
  fill(k_, seed + 1, case_.magnitude);
  fill(v_, seed + 2, 1);
  fill(dout_, seed + 3, 1);
  dlse_ = contiguous(lse_dtype(case_.dtype), tensors(), case_.heads, case_.q_len, 1);
  fill(dlse_, seed + 4, 1);
  if (has_sequences) {
    const size_t bytes = case_.sequences.size() * sizeof(Sequence);
    sequences_ = contiguous(DType::kFloat32, 1, 1, 1, static_cast<int64_t>(bytes / sizeof(float)));
    std::memcpy(sequences_.buffer().data(), case_.sequences.data(), bytes);
    for (Tensor* tensor : {&q_, &dout_, &dlse_}) poison_padding(*tensor, false);
    for (Tensor* tensor : {&k_, &v_}) poison_padding(*tensor, true);
  }
  const double q_norm = std::sqrt(static_cast<double>(case_.qk_dim)) * case_.magnitude;
  max_logit_ = 3 * case_.magnitude * q_norm * std::fabs(scale());
  // The tangent is exact to some roundings of its own size.
  if (case_.softcap != 0) max_logit_ = 4 * std::min(max_logit_, case_.softcap);
}

AttentionShape Problem::shape() const {
  AttentionShape shape{Device::kCpu, case_.dtype, case_.batch,  case_.heads, case_.kv_heads,
                       case_.q_len,  case_.k_len, case_.qk_dim, case_.v_dim};
  for (const Tensor* tensor : {&q_, &k_, &v_}) {
    shape.aligned = shape.aligned && is_aligned(tensor->view(), case_.dtype, tensor->size(0),
                                                tensor->size(1), tensor->size(2));
  }
  shape.positive_scale = is_positive(scale());
  shape.sequences = !case_.sequences.empty();
  shape.packed = case_.packed;
  shape.softcap = case_.softcap != 0;
  shape.live_blocks = case_.blocks.size != 0;
  shape.block_size = case_.blocks.size;
  shape.mask_heads = shape.live_blocks ? case_.blocks.heads : 0;
  return shape;
}

double Problem::scale() const {
  return case_.scale.value_or(1 / std::sqrt(static_cast<double>(case_.qk_dim)));
}

void Problem::poison_padding(Tensor& tensor, bool of_keys) const {
  const auto is_live = [&](int64_t batch, int64_t row) {
    for (size_t s = 0; s < case_.sequences.size(); ++s) {
      if (!case_.packed && static_cast<int64_t>(s) != batch) continue;
      const Extent& extent = of_keys ? case_.sequences[s].k : case_.sequences[s].q;
      if (extent.begin <= row - extent.row && row - extent.row < extent.end) return true;
    }
    return false;
  };
  for (int64_t b = 0; b < tensor.size(0); ++b) {
    for (int64_t r = 0; r < tensor.size(2); ++r) {
      if (is_live(b, r)) continue;
      for (int64_t h = 0; h < tensor.size(1); ++h) {
        for (int64_t d = 0; d < tensor.size(3); ++d) tensor.set(b, h, r, d, NAN);
      }
    }
  }
}

// Uniform, of variance 1.
void Problem::fill(Tensor& tensor, uint64_t seed, double magnitude) const {
  std::mt19937_64 generator(seed);
  std::uniform_real_distribution<double> uniform(-std::sqrt(3.0), std::sqrt(3.0));
  for (int64_t b = 0; b < tensor.size(0); ++b) {
    for (int64_t h = 0; h < tensor.size(1); ++h) {
      for (int64_t r = 0; r < tensor.size(2); ++r) {
        for (int64_t d = 0; d < tensor.size(3); ++d) {
          tensor.set(b, h, r, d, magnitude * uniform(generator));
        }
      }
    }
  }
}

Tensor Problem::make(int64_t heads, int64_t rows, int64_t dim, bool input) const {
  const int64_t batch = tensors();
  const std::vector<int64_t> sizes = {batch, heads, rows, dim};
  const auto place = [&](int64_t elements, int64_t offset, Tensor4 strides) {
    return Tensor(case_.dtype, sizes, poisoned_buffer(elements, case_.dtype), offset, strides);
  };
  const int64_t all = batch * heads * rows * dim;
  switch (case_.layout) {
    case Layout::kRowsFirst:
    case Layout::kFused:
      return place(all, 0, {nullptr, rows * heads * dim, dim, heads * dim});
    case Layout::kUnaligned: {
      const int64_t stride = dim + 3;
      return place(batch * heads * rows * stride + 1, 1,
                   {nullptr, heads * rows * stride, rows * stride, stride});
    }
    case Layout::kReversed:
      if (!input) break;
      return place(all, (rows - 1) * dim, {nullptr, heads * rows * dim, rows * dim, -dim});
    case Layout::kShared:
      if (!input) break;
      return place(heads * rows * dim, 0, {nullptr, 0, rows * dim, dim});
    case Layout::kContiguous:
      break;
  }
  return place(all, 0, {nullptr, heads * rows * dim, rows * dim, dim});
}

Tensor Problem::make_out(bool input) const {
  return make(case_.heads, case_.q_len, case_.v_dim, input);
}

Problem::Three Problem::make_qkv(bool inputs) const {
  const Case& c = case_;
  if (c.layout != Layout::kFused) {
    return {make(c.heads, c.q_len, c.qk_dim, inputs), make(c.kv_heads, c.k_len, c.qk_dim, inputs),
            make(c.kv_heads, c.k_len, c.v_dim, inputs)};
  }
  LACE_CHECK(c.q_len == c.k_len, "[cases] fused tensors need q_len = k_len");
  const int64_t q_width = c.heads * c.qk_dim, k_width = c.kv_heads * c.qk_dim;
  const int64_t width = q_width + k_width + c.kv_heads * c.v_dim;
  const auto buffer = poisoned_buffer(c.batch * c.k_len * width, c.dtype);
  const auto part = [&](int64_t heads, int64_t dim, int64_t offset) {
    return Tensor(c.dtype, {c.batch, heads, c.k_len, dim}, buffer, offset,
                  {nullptr, c.k_len * width, dim, width});
  };
  return {part(c.heads, c.qk_dim, 0), part(c.kv_heads, c.qk_dim, q_width),
          part(c.kv_heads, c.v_dim, q_width + k_width)};
}

Tensor4 Problem::enter(Machine& machine, const Tensor& tensor) const {
  Tensor4 entered = machine.enter(tensor);
  if (case_.packed) entered.batch_stride = 0;
  return entered;
}

std::shared_ptr<const BlockMask> Problem::draw_blocks(uint64_t seed) {
  const CaseBlocks& drawn = case_.blocks;
  const int64_t length = case_.sequences.empty() ? case_.k_len : case_.plan_len;
  blocks_ = (length + drawn.size - 1) / drawn.size - drawn.missing;
  const int64_t bytes = drawn.heads * blocks_ * blocks_;
  std::vector<uint8_t> live;
  std::mt19937_64 generator(seed);
  std::bernoulli_distribution is_live(drawn.share);
  for (int64_t i = 0; i < bytes; ++i) live.push_back(is_live(generator) ? 1 : 0);
  live_ = contiguous(DType::kFloat32, 1, 1, 1, (bytes + 3) / 4);
  std::memcpy(live_.buffer().data(), live.data(), live.size());
  return block_mask(drawn.heads, blocks_, drawn.size, live);
}

LiveBlocks Problem::enter_blocks(const Kernel& kernel, Machine& machine) const {
  if (!shape_for(kernel).live_blocks) return {};
  const int64_t first = case_.sequences.empty() ? case_.k_len - case_.q_len : 0;
  return {static_cast<const bool*>(machine.enter(live_).data),
          static_cast<int32_t>(case_.blocks.heads), static_cast<int32_t>(blocks_),
          static_cast<int32_t>(case_.blocks.size), static_cast<int32_t>(first)};
}

// Kernels of a GPU are given the mask, others a plan with it.
AttentionShape Problem::shape_for(const Kernel& kernel) const {
  AttentionShape shape = this->shape();
  shape.live_blocks &= kernel.device == Device::kCuda;
  return shape;
}

bool Problem::has_whole_plan(const Kernel& kernel) const {
  return case_.blocks.size != 0 && !shape_for(kernel).live_blocks;
}

const Sequence* Problem::enter_sequences(Machine& machine) const {
  if (case_.sequences.empty()) return nullptr;
  return static_cast<const Sequence*>(machine.enter(sequences_).data);
}

Forward Problem::forward(const Kernel& kernel, const Executor& executor, Machine& machine) const {
  const Context context = machine.context(executor);
  Tensor out = make_out(false);
  Tensor lse = contiguous(lse_dtype(case_.dtype), tensors(), case_.heads, case_.q_len, 1);
  if (!case_.sequences.empty()) {
    set_all(out, 0);
    set_all(lse, -std::numeric_limits<double>::infinity());
  }
  ForwardArgs args;
  args.shape = shape_for(kernel);
  args.blocks = enter_blocks(kernel, machine);
  args.sequences = enter_sequences(machine);
  args.scale = scale();
  args.softcap = case_.softcap;
  args.q = enter(machine, q_);
  args.k = enter(machine, k_);
  args.v = enter(machine, v_);
  args.out = enter(machine, out);
  args.lse = machine.enter(lse).data;
  kernel.forward(context, has_whole_plan(kernel) ? whole_plan_ : plan_, args);
  machine.leave();
  return {out.values(), lse.values()};
}

Backward Problem::backward(const Kernel& kernel, const Executor& executor, const Forward& saved,
                           Machine& machine) const {
  const Context context = machine.context(executor);
  Tensor out = make_out(false);
  Tensor lse = contiguous(lse_dtype(case_.dtype), tensors(), case_.heads, case_.q_len, 1);
  size_t row = 0;
  for (int64_t b = 0; b < tensors(); ++b) {
    for (int64_t h = 0; h < case_.heads; ++h) {
      for (int64_t r = 0; r < case_.q_len; ++r, ++row) {
        lse.set(b, h, r, 0, saved.lse[row]);
        for (int64_t d = 0; d < case_.v_dim; ++d) {
          out.set(b, h, r, d,
                  saved.out[row * static_cast<size_t>(case_.v_dim) + static_cast<size_t>(d)]);
        }
      }
    }
  }
  Three gradients = make_qkv(false);
  if (!case_.sequences.empty()) {
    for (Tensor* gradient : {&gradients.q, &gradients.k, &gradients.v}) set_all(*gradient, 0);
  }
  BackwardArgs args;
  args.shape = shape_for(kernel);
  args.blocks = enter_blocks(kernel, machine);
  args.scale = scale();
  args.softcap = case_.softcap;
  args.sequences = enter_sequences(machine);
  args.q = enter(machine, q_);
  args.k = enter(machine, k_);
  args.v = enter(machine, v_);
  args.out = enter(machine, out);
  args.dout = enter(machine, dout_);
  args.dq = enter(machine, gradients.q);
  args.dk = enter(machine, gradients.k);
  args.dv = enter(machine, gradients.v);
  args.lse = machine.enter(lse).data;
  if (case_.dlse) args.dlse = machine.enter(dlse_).data;
  if (has_whole_plan(kernel)) {
    kernel.backward(context, whole_plan_, whole_transposed_, args);
  } else {
    kernel.backward(context, plan_, transposed_, args);
  }
  machine.leave();
  return {gradients.q.values(), gradients.k.values(), gradients.v.values()};
}

}  // namespace lace::test
