#include "model/layers.h"

#include <ATen/ATen.h>

#include "model/elementwise.h"
#include "ops/torch_context.h"

namespace lace::model {

namespace {

// Rows are cut into at most this many chunks, each with sums of its own, whatever the threads.
constexpr int64_t kChunks = 64;
constexpr int64_t kMinRows = 16;

// Whether the fused loops compute on this tensor.
bool fused(const at::Tensor& x, at::ScalarType compute) {
  return x.is_cpu() && (compute == at::kFloat || compute == at::kBFloat16) &&
         x.size(-1) % kElementwiseColumns == 0;
}

template <typename T>
T* data(const at::Tensor& x) {
  return static_cast<T*>(x.data_ptr());
}

// body(T{}) with T the element type of the fused loops.
template <typename Body>
void with_type(at::ScalarType compute, Body body) {
  if (compute == at::kFloat) {
    body(float{});
  } else {
    body(BFloat16{});
  }
}

// body(rows, chunk) on all threads; `chunks` is their number.
template <typename Body>
void for_chunks(int64_t rows, int64_t columns, int64_t chunks, Body body) {
  run_tasks(ops::current_executor(), chunks, [&](int64_t chunk, int) {
    body(RowRange{rows * chunk / chunks, rows * (chunk + 1) / chunks, columns}, chunk);
  });
}

int64_t chunk_count(int64_t rows) { return std::clamp<int64_t>(rows / kMinRows, 1, kChunks); }

template <typename Body>
void for_rows(const at::Tensor& x, Body body) {
  for_chunks(x.size(0), x.size(1), chunk_count(x.size(0)),
             [&](RowRange rows, int64_t) { body(rows); });
}

// `count` sums over the rows of x: body(rows, pointers to this chunk's sums).
template <size_t kCount, typename Body>
std::array<at::Tensor, kCount> with_sums(const at::Tensor& x, Body body) {
  const int64_t columns = x.size(1), chunks = chunk_count(x.size(0));
  const at::Tensor parts =
      at::zeros({static_cast<int64_t>(kCount), chunks, columns}, x.options().dtype(at::kFloat));
  for_chunks(x.size(0), columns, chunks, [&](RowRange rows, int64_t chunk) {
    std::array<float*, kCount> sums;
    for (size_t i = 0; i < kCount; ++i) {
      sums[i] = data<float>(parts) + (static_cast<int64_t>(i) * chunks + chunk) * columns;
    }
    body(rows, sums);
  });
  const at::Tensor total = parts.sum(1);
  std::array<at::Tensor, kCount> result;
  for (size_t i = 0; i < kCount; ++i) result[i] = total[static_cast<int64_t>(i)];
  return result;
}

NormWeights norm_weights(const at::Tensor& weight, const at::Tensor& bias, double eps) {
  return {data<float>(weight), data<float>(bias), static_cast<float>(eps)};
}

at::Tensor empty_like(const at::Tensor& x, at::ScalarType type) {
  return at::empty(x.sizes(), x.options().dtype(type));
}

Norm empty_norm(const at::Tensor& x, at::ScalarType compute) {
  const auto rows = at::empty({2, x.size(0)}, x.options());
  return {empty_like(x, compute), rows[0], rows[1]};
}

// 0 or dropout.scale for each element of x, on x's device, in its wide dtype.
at::Tensor dropout_mask(const at::Tensor& x, const Dropout& dropout) {
  constexpr int64_t kMask32 = 0xffffffff;
  const auto integers = at::TensorOptions().dtype(at::kLong);
  const at::Tensor keys = at::empty({2, x.size(0), 1}, integers);  // halves of dropout_row_key
  for (int64_t row = 0; row < x.size(0); ++row) {
    const uint64_t key = dropout_row_key(dropout, row);
    data<int64_t>(keys)[row] = static_cast<int64_t>(key & kMask32);
    data<int64_t>(keys)[x.size(0) + row] = static_cast<int64_t>(key >> 32);
  }
  // dropout_hash in the low halves of int64, whose products wrap around as unsigned ones do.
  const at::Tensor on_device = keys.to(x.device());
  const at::Tensor columns = at::arange(x.size(1), integers.device(x.device()));
  at::Tensor hash = columns.mul(int64_t{0x9e3779b1}).bitwise_and(kMask32).bitwise_xor(on_device[0]);
  const auto round = [&](int64_t shift, int64_t factor) {
    hash = hash.bitwise_xor(hash.bitwise_right_shift(shift)).mul_(factor).bitwise_and_(kMask32);
  };
  round(16, 0x7feb352d);
  hash.bitwise_xor_(on_device[1]);
  round(15, 0x846ca68b);
  hash = hash.bitwise_xor(hash.bitwise_right_shift(16));
  const at::Tensor kept = hash.ge(static_cast<int64_t>(dropout.threshold));
  return kept.to(wide_type(x.scalar_type())).mul_(dropout.scale);
}

at::Tensor drop(const at::Tensor& x, const Dropout& dropout) {
  const at::Tensor wide = x.to(wide_type(x.scalar_type()));
  return dropout.threshold == 0 ? wide : wide * dropout_mask(x, dropout);
}

at::Tensor to_wide(const at::Tensor& x) { return x.to(wide_type(x.scalar_type())); }

}  // namespace

at::ScalarType wide_type(at::ScalarType compute) {
  return compute == at::kDouble ? at::kDouble : at::kFloat;
}

Norm layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps,
                at::ScalarType compute) {
  if (!fused(x, compute)) {
    const auto [y, mean, rstd] = at::native_layer_norm(x, {x.size(1)}, weight, bias, eps);
    return {y.to(compute), mean.view({-1}), rstd.view({-1})};
  }
  Norm norm = empty_norm(x, compute);
  with_type(compute, [&](auto type) {
    using T = decltype(type);
    for_rows(x, [&](RowRange rows) {
      norm_rows<T>(rows, data<float>(x), norm_weights(weight, bias, eps), data<T>(norm.y),
                   data<float>(norm.mean), data<float>(norm.rstd));
    });
  });
  return norm;
}

std::pair<at::Tensor, Norm> residual_norm(const at::Tensor& x, const at::Tensor& branch,
                                          const Dropout& dropout, const at::Tensor& weight,
                                          const at::Tensor& bias, double eps) {
  const at::ScalarType compute = branch.scalar_type();
  if (!fused(x, compute)) {
    const at::Tensor sum = residual(x, branch, dropout);
    return {sum, layer_norm(sum, weight, bias, eps, compute)};
  }
  const at::Tensor sum = at::empty_like(x);
  Norm norm = empty_norm(x, compute);
  with_type(compute, [&](auto type) {
    using T = decltype(type);
    for_rows(x, [&](RowRange rows) {
      residual_norm_rows<T>(rows, data<float>(x), data<T>(branch), dropout,
                            norm_weights(weight, bias, eps), data<float>(sum), data<T>(norm.y),
                            data<float>(norm.mean), data<float>(norm.rstd));
    });
  });
  return {sum, norm};
}

at::Tensor residual(const at::Tensor& x, const at::Tensor& branch, const Dropout& dropout) {
  const at::ScalarType compute = branch.scalar_type();
  if (!fused(x, compute)) return x + drop(branch, dropout);
  const at::Tensor sum = at::empty_like(x);
  with_type(compute, [&](auto type) {
    using T = decltype(type);
    for_rows(x, [&](RowRange rows) {
      residual_rows<T>(rows, data<float>(x), data<T>(branch), dropout, data<float>(sum));
    });
  });
  return sum;
}

GradAndSum branch_grad(const at::Tensor& grad, const Dropout& dropout, at::ScalarType compute) {
  if (!fused(grad, compute)) {
    const at::Tensor dropped = drop(grad, dropout);
    return {dropped.to(compute), dropped.sum(0)};
  }
  const at::Tensor result = empty_like(grad, compute);
  std::array<at::Tensor, 1> sums;
  with_type(compute, [&](auto type) {
    using T = decltype(type);
    sums = with_sums<1>(grad, [&](RowRange rows, const auto& sum) {
      branch_grad_rows<T>(rows, data<float>(grad), dropout, data<T>(result), sum[0]);
    });
  });
  return {result, sums[0]};
}

NormGrads layer_norm_grad(const at::Tensor& dy, const at::Tensor& x, const Norm& norm,
                          const at::Tensor& weight, const at::Tensor& grad) {
  if (!fused(x, dy.scalar_type())) {
    const auto [dx, dweight, dbias] = at::native_layer_norm_backward(
        to_wide(dy), x, {x.size(1)}, norm.mean.unsqueeze(1), norm.rstd.unsqueeze(1), weight,
        at::zeros_like(weight), {true, true, true});
    return {dx + grad, dweight, dbias};
  }
  const at::Tensor dx = at::empty_like(x);
  std::array<at::Tensor, 2> sums;
  with_type(dy.scalar_type(), [&](auto type) {
    using T = decltype(type);
    sums = with_sums<2>(x, [&](RowRange rows, const auto& sum) {
      norm_grad_rows<T>(rows, data<T>(dy), data<float>(x), data<float>(norm.mean),
                        data<float>(norm.rstd), data<float>(weight), data<float>(grad),
                        data<float>(dx), sum[0], sum[1]);
    });
  });
  return {dx, sums[0], sums[1]};
}

at::Tensor quick_gelu(const at::Tensor& x) {
  if (!fused(x, x.scalar_type())) {
    const at::Tensor wide = to_wide(x);
    return (wide * at::sigmoid(wide * 1.702)).to(x.scalar_type());
  }
  const at::Tensor y = at::empty_like(x);
  with_type(x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    for_rows(x, [&](RowRange rows) { gelu_rows<T>(rows, data<T>(x), data<T>(y)); });
  });
  return y;
}

GradAndSum quick_gelu_grad(const at::Tensor& dy, const at::Tensor& x) {
  if (!fused(x, x.scalar_type())) {
    const at::Tensor wide = to_wide(x);
    const at::Tensor gate = at::sigmoid(wide * 1.702);
    const at::Tensor dx = to_wide(dy) * (gate + wide * 1.702 * gate * (1 - gate));
    return {dx.to(x.scalar_type()), dx.sum(0)};
  }
  const at::Tensor dx = at::empty_like(x);
  std::array<at::Tensor, 1> sums;
  with_type(x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    sums = with_sums<1>(x, [&](RowRange rows, const auto& sum) {
      gelu_grad_rows<T>(rows, data<T>(dy), data<T>(x), data<T>(dx), sum[0]);
    });
  });
  return {dx, sums[0]};
}

at::Tensor row_sum(const at::Tensor& x) {
  if (!fused(x, x.scalar_type())) return at::sum(x, {0}, false, wide_type(x.scalar_type()));
  std::array<at::Tensor, 1> sums;
  with_type(x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    sums = with_sums<1>(
        x, [&](RowRange rows, const auto& sum) { sum_rows<T>(rows, data<T>(x), sum[0]); });
  });
  return sums[0];
}

CrossEntropy cross_entropy(const at::Tensor& logits, const at::Tensor& targets) {
  if (!fused(logits, logits.scalar_type())) {
    const at::Tensor wide = to_wide(logits);
    const at::Tensor lse = at::logsumexp(wide, 1);
    return {lse - wide.gather(1, targets.unsqueeze(1)).squeeze(1), lse};
  }
  const at::Tensor rows_result = at::empty({2, logits.size(0)}, logits.options().dtype(at::kFloat));
  const CrossEntropy result{rows_result[0], rows_result[1]};
  with_type(logits.scalar_type(), [&](auto type) {
    using T = decltype(type);
    for_rows(logits, [&](RowRange rows) {
      cross_entropy_rows<T>(rows, data<T>(logits), data<int64_t>(targets), data<float>(result.nats),
                            data<float>(result.lse));
    });
  });
  return result;
}

at::Tensor cross_entropy_grad(const at::Tensor& logits, const at::Tensor& targets,
                              const at::Tensor& lse, double scale) {
  if (!fused(logits, logits.scalar_type())) {
    at::Tensor grad = at::exp(to_wide(logits) - lse.unsqueeze(1));
    grad.scatter_add_(1, targets.unsqueeze(1), at::full({targets.size(0), 1}, -1, grad.options()));
    return (grad * scale).to(logits.scalar_type());
  }
  const at::Tensor grad = at::empty_like(logits);
  with_type(logits.scalar_type(), [&](auto type) {
    using T = decltype(type);
    for_rows(logits, [&](RowRange rows) {
      cross_entropy_grad_rows<T>(rows, data<T>(logits), data<int64_t>(targets), data<float>(lse),
                                 static_cast<float>(scale), data<T>(grad));
    });
  });
  return grad;
}

at::Tensor embed(const at::Tensor& tokens, const at::Tensor& indices,
                 const std::vector<at::Tensor>& tables) {
  const int64_t batch = tokens.size(0), n = tokens.size(1), d = tables[0].size(1);
  const auto parts = static_cast<int>(tables.size()) - 2;
  if (fused(tables[0], tables[0].scalar_type()) && parts <= 3) {
    const at::Tensor out = at::empty({batch * n, d}, tables[0].options());
    EmbeddingTables pointers{data<float>(tables[0]), data<float>(tables[1]), {}, parts};
    for (int p = 0; p < parts; ++p) {
      pointers.pos[p] = data<float>(tables[static_cast<size_t>(p) + 2]);
    }
    for_rows(out, [&](RowRange rows) {
      embedding_rows(rows, n, data<int64_t>(tokens), data<int64_t>(indices), pointers,
                     data<float>(out));
    });
    return out;
  }
  const at::Tensor earlier = tokens.narrow(1, 0, n - 1);
  at::Tensor sum = at::index_select(tables[0], 0, earlier.reshape(-1)).view({batch, n - 1, d});
  for (int p = 0; p < parts; ++p) {
    sum = sum +
          at::index_select(tables[static_cast<size_t>(p) + 2], 0, indices[p].narrow(0, 0, n - 1));
  }
  return at::cat({tables[1].expand({batch, 1, d}), sum}, 1).view({batch * n, d});
}

std::vector<at::Tensor> embed_grad(const at::Tensor& grad, const at::Tensor& tokens,
                                   const at::Tensor& indices,
                                   const std::vector<at::Tensor>& tables) {
  const int64_t batch = tokens.size(0), n = tokens.size(1), d = tables[0].size(1);
  const auto parts = static_cast<int>(tables.size()) - 2;
  std::vector<at::Tensor> grads;
  for (const at::Tensor& table : tables) grads.push_back(at::zeros_like(table));
  if (fused(grad, grad.scalar_type()) && parts <= 3) {
    EmbeddingGrads pointers{data<float>(grads[0]), data<float>(grads[1]), {}, parts};
    for (int p = 0; p < parts; ++p) {
      pointers.pos[p] = data<float>(grads[static_cast<size_t>(p) + 2]);
    }
    // Each task has columns of its own, so that rows are added in one order.
    constexpr int64_t kColumns = 4 * kElementwiseColumns;
    run_tasks(ops::current_executor(), (d + kColumns - 1) / kColumns, [&](int64_t task, int) {
      embedding_grad_columns(batch * n, d, task * kColumns, std::min(d, (task + 1) * kColumns), n,
                             data<int64_t>(tokens), data<int64_t>(indices), data<float>(grad),
                             pointers);
    });
    return grads;
  }
  // embedding_dense_backward, unlike index_add, adds in one order on a GPU too.
  const auto scatter = [&](size_t table, const at::Tensor& rows, const at::Tensor& indices) {
    grads[table] =
        at::embedding_dense_backward(rows, indices, tables[table].size(0), /*padding_idx=*/-1,
                                     /*scale_grad_by_freq=*/false);
  };
  const at::Tensor slots = grad.view({batch, n, d});
  grads[1] = slots.select(1, 0).sum(0);
  const at::Tensor later = slots.narrow(1, 1, n - 1);
  if (n == 1) return grads;
  scatter(0, later.reshape({-1, d}), tokens.narrow(1, 0, n - 1).reshape(-1));
  const at::Tensor by_position = later.sum(0);
  for (int p = 0; p < parts; ++p) {
    scatter(static_cast<size_t>(p) + 2, by_position, indices[p].narrow(0, 0, n - 1).contiguous());
  }
  return grads;
}

}  // namespace lace::model
