#include "model/layers.h"

#include <ATen/ATen.h>

#include "lace/error.h"

#include "kernels/elementwise/elementwise.h"
#include "ops/attention_arguments.h"
#include "ops/torch_context.h"

namespace lace::model {

namespace {

const ElementwiseKernels& kernels(const at::Tensor& x) {
  return elementwise_kernels(x.is_cpu() ? Device::kCpu : Device::kCuda);
}

Context context(const at::Tensor& x) { return ops::make_torch_context(x.device(), false); }

Elements elements(const at::Tensor& x, at::ScalarType compute) {
  return {x.size(0), x.size(1), ops::to_dtype("model", compute)};
}

const void* in(const at::Tensor& x) { return x.defined() ? x.const_data_ptr() : nullptr; }
void* out(const at::Tensor& x) { return x.defined() ? x.mutable_data_ptr() : nullptr; }

ColumnSum column_sum_into(const Into& into) { return {out(into.tensor), into.add}; }

at::Tensor empty_as(const at::Tensor& x, at::ScalarType type) {
  return at::empty(x.sizes(), x.options().dtype(type));
}

Norm empty_norm(const at::Tensor& x, at::ScalarType compute) {
  const at::Tensor rows = at::empty({2, x.size(0)}, x.options().dtype(wide_type(compute)));
  return {empty_as(x, compute), rows[0], rows[1]};
}

void set_norm(NormArgs& args, const Norm& norm, const at::Tensor& weight, const at::Tensor& bias,
              double eps) {
  args.weight = in(weight);
  args.bias = in(bias);
  args.eps = eps;
  args.y = out(norm.y);
  args.mean = out(norm.mean);
  args.rstd = out(norm.rstd);
}

// NormArgs of x + dropout(branch), without a norm; `sum` gets the result's memory.
NormArgs residual_args(const at::Tensor& x, const at::Tensor& branch, const Dropout& dropout,
                       at::Tensor& sum) {
  sum = at::empty_like(x);
  NormArgs args;
  args.elements = elements(x, branch.scalar_type());
  args.residual = ops::to_dtype("model", x.scalar_type());
  args.x = in(x);
  args.branch = in(branch);
  args.dropout = dropout;
  args.sum = out(sum);
  return args;
}

EmbeddingShape embedding_shape(const at::Tensor& tokens, const at::Tensor& indices,
                               const std::vector<at::Tensor>& tables, at::ScalarType residual) {
  EmbeddingShape shape;
  shape.batch = tokens.size(0);
  shape.n = tokens.size(1);
  shape.columns = tables[0].size(1);
  shape.wide = ops::to_dtype("model", tables[0].scalar_type());
  shape.residual = ops::to_dtype("model", residual);
  shape.vocab = tables[0].size(0);
  shape.parts = static_cast<int>(tables.size()) - 2;
  LACE_CHECK(shape.parts <= kMaxPositionTables, "[model] there may be up to ", kMaxPositionTables,
             " position tables, got ", shape.parts);
  for (int p = 0; p < shape.parts; ++p) {
    shape.position_rows[p] = tables[static_cast<size_t>(p) + 2].size(0);
  }
  shape.tokens = tokens.const_data_ptr<int64_t>();
  shape.indices = indices.const_data_ptr<int64_t>();
  return shape;
}

}  // namespace

at::ScalarType wide_type(at::ScalarType compute) {
  return compute == at::kDouble ? at::kDouble : at::kFloat;
}

Norm layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps,
                at::ScalarType compute) {
  const Norm norm = empty_norm(x, compute);
  NormArgs args;
  args.elements = elements(x, compute);
  args.residual = ops::to_dtype("model", x.scalar_type());
  args.x = in(x);
  set_norm(args, norm, weight, bias, eps);
  kernels(x).norm(context(x), args);
  return norm;
}

std::pair<at::Tensor, Norm> residual_norm(const at::Tensor& x, const at::Tensor& branch,
                                          const Dropout& dropout, const at::Tensor& weight,
                                          const at::Tensor& bias, double eps) {
  at::Tensor sum;
  NormArgs args = residual_args(x, branch, dropout, sum);
  const Norm norm = empty_norm(x, branch.scalar_type());
  set_norm(args, norm, weight, bias, eps);
  kernels(x).norm(context(x), args);
  return {sum, norm};
}

at::Tensor residual(const at::Tensor& x, const at::Tensor& branch, const Dropout& dropout) {
  at::Tensor sum;
  const NormArgs args = residual_args(x, branch, dropout, sum);
  kernels(x).norm(context(x), args);
  return sum;
}

NormGrads layer_norm_grad(const at::Tensor& dy, const at::Tensor& x, const Norm& norm,
                          const at::Tensor& weight, const at::Tensor& grad, const Branch* branch,
                          const Into& weight_grad, const Into& bias_grad) {
  NormGrads grads{grad.defined() ? grad : at::empty_like(x), {}};
  NormGradArgs args;
  args.elements = elements(x, dy.scalar_type());
  args.residual = ops::to_dtype("model", x.scalar_type());
  args.dy = in(dy);
  args.x = in(x);
  args.mean = in(norm.mean);
  args.rstd = in(norm.rstd);
  args.weight = in(weight);
  args.grad = in(grad);
  args.dx = out(grads.x);
  args.weight_sum = column_sum_into(weight_grad);
  args.bias_sum = column_sum_into(bias_grad);
  if (branch != nullptr) {
    grads.branch = at::empty_like(dy);
    args.dbranch = out(grads.branch);
    args.dropout = branch->dropout;
    args.branch_sum = column_sum_into(branch->sum);
  }
  kernels(x).norm_grad(context(x), args);
  return grads;
}

at::Tensor quick_gelu(const at::Tensor& x) {
  const at::Tensor y = at::empty_like(x);
  kernels(x).gelu(context(x), {elements(x, x.scalar_type()), in(x), out(y)});
  return y;
}

at::Tensor quick_gelu_grad(at::Tensor dy, const at::Tensor& x, const Into& sum) {
  kernels(x).gelu_grad(
      context(x), {elements(x, x.scalar_type()), in(dy), in(x), out(dy), column_sum_into(sum)});
  return dy;
}

void rotate(const at::Tensor& x, const Rotation& rotation, bool inverse) {
  RotateArgs args;
  args.elements = elements(x, x.scalar_type());
  args.x = out(x);
  args.heads = rotation.heads;
  args.head_dim = rotation.head_dim;
  args.n = rotation.n;
  args.first_position = rotation.first_position;
  args.cos = in(rotation.cos);
  args.sin = in(rotation.sin);
  args.inverse = inverse;
  kernels(x).rotate(context(x), args);
}

CrossEntropy cross_entropy(const at::Tensor& logits, const at::Tensor& targets) {
  const at::ScalarType compute = logits.scalar_type();
  const at::Tensor rows =
      at::empty({2, logits.size(0)}, logits.options().dtype(wide_type(compute)));
  const CrossEntropy result{rows[0], rows[1]};
  kernels(logits).cross_entropy(
      context(logits), {elements(logits, compute), in(logits), targets.const_data_ptr<int64_t>(),
                        out(result.nats), out(result.lse)});
  return result;
}

at::Tensor cross_entropy_grad(at::Tensor logits, const at::Tensor& targets, const at::Tensor& lse,
                              double scale, const at::Tensor& factor) {
  kernels(logits).cross_entropy_grad(
      context(logits),
      {elements(logits, logits.scalar_type()), in(logits), targets.const_data_ptr<int64_t>(),
       in(lse), scale, static_cast<const double*>(in(factor)), out(logits)});
  return logits;
}

void column_sum(const at::Tensor& x, const Into& sum) {
  kernels(x).column_sum(context(x), {elements(x, x.scalar_type()), in(x), column_sum_into(sum)});
}

at::Tensor embed(const at::Tensor& tokens, const at::Tensor& indices,
                 const std::vector<at::Tensor>& tables, at::ScalarType residual) {
  EmbeddingArgs args;
  args.shape = embedding_shape(tokens, indices, tables, residual);
  args.tok = in(tables[0]);
  args.sos = in(tables[1]);
  for (int p = 0; p < args.shape.parts; ++p) args.pos[p] = in(tables[static_cast<size_t>(p) + 2]);
  const at::Tensor result = at::empty({args.shape.batch * args.shape.n, args.shape.columns},
                                      tables[0].options().dtype(residual));
  args.out = out(result);
  kernels(result).embedding(context(result), args);
  return result;
}

void embed_grad(const at::Tensor& grad, const at::Tensor& tokens, const at::Tensor& indices,
                const std::vector<at::Tensor>& table_grads, bool add) {
  EmbeddingGradArgs args;
  args.shape = embedding_shape(tokens, indices, table_grads, grad.scalar_type());
  args.grad = in(grad);
  args.tok = out(table_grads[0]);
  args.sos = out(table_grads[1]);
  for (int p = 0; p < args.shape.parts; ++p) {
    args.pos[p] = out(table_grads[static_cast<size_t>(p) + 2]);
  }
  args.add = add;
  kernels(grad).embedding_grad(context(grad), args);
}

}  // namespace lace::model
