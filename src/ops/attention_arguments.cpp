#include "ops/attention_arguments.h"

#include <cmath>
#include <string>

#include <ATen/ATen.h>

#include "lace/error.h"

#include "ops/sequences.h"

namespace lace::ops {

namespace {

std::string dtype_name(at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return "float64";
    case at::kFloat:
      return "float32";
    case at::kBFloat16:
      return "bfloat16";
    case at::kHalf:
      return "float16";
    default:
      return c10::toString(type);
  }
}

}  // namespace

DType to_dtype(const char* op, at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return DType::kFloat64;
    case at::kFloat:
      return DType::kFloat32;
    case at::kBFloat16:
      return DType::kBFloat16;
    case at::kHalf:
      return DType::kFloat16;
    default:
      throw Error(concat("[", op, "] dtype must be float32, bfloat16, float16 or float64, got ",
                         dtype_name(type)));
  }
}

namespace {

void check_one(const char* op, const char* name, const at::Tensor& tensor, const at::Tensor& q) {
  LACE_CHECK(tensor.defined(), "[", op, "] ", name, " is an undefined tensor");
  LACE_CHECK(tensor.layout() == at::kStrided, "[", op, "] ", name, " must be a dense tensor, got ",
             tensor.layout());
  LACE_CHECK(tensor.dim() == 4, "[", op, "] ", name,
             " must have the shape [batch, heads, seq_len, head_dim], got ", tensor.sizes());
  LACE_CHECK(tensor.device() == q.device(), "[", op, "] ", name, " is on ", tensor.device(),
             ", q is on ", q.device());
  LACE_CHECK(tensor.scalar_type() == q.scalar_type(), "[", op, "] dtype of ", name, " is ",
             dtype_name(tensor.scalar_type()), ", q has ", dtype_name(q.scalar_type()));
}

// The scale that kernels take: they compute in float32 but for float64, where one that is no normal
// number changes no logit and counts as 0.
double check_scale(const char* op, double scale, DType dtype) {
  LACE_CHECK(std::isfinite(scale), "[", op, "] scale must be finite, got ", scale);
  if (dtype == DType::kFloat64) return scale;
  LACE_CHECK(std::abs(scale) < 0x1p127, "[", op, "] scale must be less than 2^127 in size, got ",
             scale);
  return std::abs(scale) < 0x1p-126 ? 0 : scale;
}

void check_block_mask(const char* op, const AttentionShape& shape,
                      const AttentionOptions& options) {
  const at::Tensor& mask = options.block_mask;
  if (!mask.defined()) return;
  const int64_t dims = mask.dim();
  LACE_CHECK(mask.scalar_type() == at::kBool && (dims == 2 || dims == 3) &&
                 mask.size(dims - 1) == mask.size(dims - 2) && mask.size(dims - 1) >= 1,
             "[", op, "] block_mask must be bool [heads or 1, blocks, blocks], got ",
             dtype_name(mask.scalar_type()), " of the shape ", mask.sizes());
  LACE_CHECK(dims == 2 || mask.size(0) == 1 || mask.size(0) == shape.heads, "[", op,
             "] block_mask must be of 1 head or ", shape.heads, ", got ", mask.size(0));
  LACE_CHECK(options.block_size >= 1, "[", op, "] block_size must be positive, got ",
             options.block_size);
}

// 0 if there is none. Of what kernels compute in float32 it is far from what a float holds.
double check_softcap(const char* op, std::optional<double> softcap, DType dtype) {
  if (!softcap) return 0;
  LACE_CHECK(std::isfinite(*softcap) && *softcap > 0, "[", op,
             "] softcap must be positive and finite, got ", *softcap);
  LACE_CHECK(dtype == DType::kFloat64 || (0x1p-64 <= *softcap && *softcap <= 0x1p64), "[", op,
             "] softcap must be from 2^-64 to 2^64, got ", *softcap);
  return *softcap;
}

void check_equal(const char* op, const char* what, const char* name, int64_t value,
                 const char* other, int64_t expected) {
  LACE_CHECK(value == expected, "[", op, "] ", what, " of ", name, " is ", value, ", ", other,
             " has ", expected);
}

void check_sinks(const char* op, const AttentionShape& shape, const at::Tensor& sinks,
                 const at::Tensor& q) {
  if (!sinks.defined()) return;
  to_dtype(op, sinks.scalar_type());
  LACE_CHECK(sinks.sizes() == at::IntArrayRef({shape.heads}), "[", op,
             "] sinks must have the shape [heads] = [", shape.heads, "], got ", sinks.sizes());
  LACE_CHECK(sinks.device() == q.device(), "[", op, "] sinks are on ", sinks.device(), ", q is on ",
             q.device());
}

}  // namespace

bool is_aligned(const at::Tensor& tensor) {
  if (tensor.stride(3) != 1 && tensor.size(3) != 1) return true;
  return lace::is_aligned(to_tensor4(tensor), DType::kBFloat16, tensor.size(0), tensor.size(1),
                          tensor.size(2));
}

AttentionArguments check_attention(const char* op, const at::Tensor& q, const at::Tensor& k,
                                   const at::Tensor& v, const AttentionOptions& options,
                                   bool packed) {
  LACE_CHECK(q.defined(), "[", op, "] q is an undefined tensor");
  check_one(op, "q", q, q);
  check_one(op, "k", k, q);
  check_one(op, "v", v, q);
  LACE_CHECK(q.is_cpu() || q.is_cuda(), "[", op, "] device must be cpu or cuda, got ", q.device());
  AttentionArguments arguments;
  AttentionShape& shape = arguments.shape;
  shape.device = q.is_cpu() ? Device::kCpu : Device::kCuda;
  shape.dtype = to_dtype(op, q.scalar_type());
  shape.batch = q.size(0);
  shape.heads = q.size(1);
  shape.kv_heads = k.size(1);
  shape.q_len = q.size(2);
  shape.k_len = k.size(2);
  shape.qk_dim = q.size(3);
  shape.v_dim = v.size(3);
  check_equal(op, "batch", "k", k.size(0), "q", shape.batch);
  check_equal(op, "batch", "v", v.size(0), "q", shape.batch);
  check_equal(op, "head_dim", "k", k.size(3), "q", shape.qk_dim);
  check_equal(op, "heads", "v", v.size(1), "k", shape.kv_heads);
  check_equal(op, "seq_len", "v", v.size(2), "k", shape.k_len);
  LACE_CHECK(shape.heads >= 1 && shape.kv_heads >= 1 && shape.heads % shape.kv_heads == 0, "[", op,
             "] heads of q must be a multiple of the heads of k, got ", shape.heads, " and ",
             shape.kv_heads);
  shape.sequences = options.sequences.defined();
  shape.packed = packed;
  LACE_CHECK(shape.q_len >= 1 && (shape.q_len <= shape.k_len || shape.sequences), "[", op,
             "] seq_len of q must be from 1 to that of k, got ", shape.q_len, " and ", shape.k_len);
  LACE_CHECK(shape.qk_dim >= 1 && shape.v_dim >= 1, "[", op, "] head_dim must be positive, got ",
             shape.qk_dim, " for q and ", shape.v_dim, " for v");
  check_sinks(op, shape, options.sinks, q);
  arguments.plan_q_len = shape.q_len;
  arguments.plan_k_len = shape.k_len;
  if (shape.sequences) {
    const at::Tensor& sequences = options.sequences;
    LACE_CHECK(sequences.device() == q.device(), "[", op, "] sequences are on ", sequences.device(),
               ", q is on ", q.device());
    if (packed && sequences.dim() > 0) shape.batch = sequences.size(0);
    check_sequences(op, shape, sequences);
    arguments.plan_k_len = plan_length(op, shape, sequences, options.max_len);
    arguments.plan_q_len = arguments.plan_k_len;
  }
  arguments.scale = check_scale(
      op, options.scale.value_or(1 / std::sqrt(static_cast<double>(shape.qk_dim))), shape.dtype);
  check_block_mask(op, shape, options);
  shape.live_blocks = shape.device == Device::kCuda && options.block_mask.defined();
  if (shape.live_blocks) {
    shape.block_size = options.block_size;
    shape.mask_heads = options.block_mask.dim() == 2 ? 1 : options.block_mask.size(0);
  }
  arguments.softcap = check_softcap(op, options.softcap, shape.dtype);
  shape.softcap = options.softcap.has_value();
  shape.aligned = is_aligned(q) && is_aligned(k) && is_aligned(v);
  shape.positive_scale = is_positive(arguments.scale);
  return arguments;
}

at::ScalarType lse_type(at::ScalarType q) { return q == at::kDouble ? at::kDouble : at::kFloat; }

void check_attention_backward(const AttentionArguments& arguments, const at::Tensor& dout,
                              const at::Tensor& out, const at::Tensor& lse,
                              const at::Tensor& dlse) {
  const AttentionShape& shape = arguments.shape;
  const at::IntArrayRef sizes = out.sizes();
  const bool out_fits =
      sizes == at::IntArrayRef({shape.batch_in_memory(), shape.heads, shape.q_len, shape.v_dim});
  LACE_CHECK(out_fits, "[attention_backward] out must be what attention returned, got the shape ",
             sizes);
  LACE_CHECK(dout.sizes() == sizes, "[attention_backward] shape of dout is ", dout.sizes(),
             ", out has ", sizes);
  LACE_CHECK(dout.scalar_type() == out.scalar_type(), "[attention_backward] dtype of dout is ",
             dtype_name(dout.scalar_type()), ", out has ", dtype_name(out.scalar_type()));
  const at::ScalarType type = lse_type(out.scalar_type());
  LACE_CHECK(lse.is_contiguous() && lse.sizes() == sizes.slice(0, 3) && lse.scalar_type() == type,
             "[attention_backward] lse must be what attention returned, got ",
             dtype_name(lse.scalar_type()), " of the shape ", lse.sizes());
  LACE_CHECK(!dlse.defined() || (dlse.sizes() == lse.sizes() && dlse.scalar_type() == type),
             "[attention_backward] dlse must have the shape and dtype of lse, got ",
             dtype_name(dlse.scalar_type()), " of the shape ", dlse.sizes());
}

at::Tensor with_contiguous_rows(const at::Tensor& tensor) {
  return tensor.stride(3) == 1 || tensor.size(3) == 1 ? tensor : tensor.contiguous();
}

at::Tensor empty_result(const at::Tensor& like, c10::SymInt batch, c10::SymInt heads,
                        c10::SymInt rows, c10::SymInt head_dim) {
  if (like.is_contiguous()) {
    return at::empty_symint({batch, heads, rows, head_dim}, like.options());
  }
  return at::empty_symint({batch, rows, heads, head_dim}, like.options()).transpose(1, 2);
}

at::Tensor with_aligned_rows(const at::Tensor& tensor) {
  if (tensor.stride(3) == 1 && is_aligned(tensor)) return tensor;
  return tensor.clone(at::MemoryFormat::Contiguous);  // contiguous() may keep where it begins
}

Tensor4 to_tensor4(const at::Tensor& tensor, bool packed) {
  return {tensor.data_ptr(), packed ? 0 : tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

}  // namespace lace::ops
