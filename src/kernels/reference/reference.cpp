#include "kernels/reference/reference.h"

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/reference/element.h"

namespace lace::reference {
namespace {

// The row (batch, head, row) of a tensor.
template <typename Element>
typename Element::Type* row_of(const Tensor4& tensor, int64_t batch, int64_t head, int64_t row) {
  return static_cast<typename Element::Type*>(tensor.data) + batch * tensor.batch_stride +
         head * tensor.head_stride + row * tensor.row_stride;
}

template <typename Element>
double dot(const typename Element::Type* a, const typename Element::Type* b, int64_t dim) {
  double sum = 0;
  for (int64_t d = 0; d < dim; ++d) sum += Element::load(a[d]) * Element::load(b[d]);
  return sum;
}

double load_lse(const void* lse, DType dtype, int64_t index) {
  return dtype == DType::kFloat64 ? static_cast<const double*>(lse)[index]
                                  : static_cast<double>(static_cast<const float*>(lse)[index]);
}

void store_lse(void* lse, DType dtype, int64_t index, double value) {
  if (dtype == DType::kFloat64) {
    static_cast<double*>(lse)[index] = value;
  } else {
    static_cast<float*>(lse)[index] = static_cast<float>(value);
  }
}

// Where the queries and the keys of a batch element are.
Sequence sequence_of(const Plan& plan, const Sequence* sequences, int64_t batch) {
  if (sequences != nullptr) return sequences[batch];
  const BoundPattern& pattern = *plan.pattern;
  const auto q_len = static_cast<int32_t>(pattern.q_len());
  const auto k_len = static_cast<int32_t>(pattern.k_len());
  return {{k_len - q_len, k_len, q_len - k_len}, {0, k_len, 0}};
}

// The positions of the keys that the query at one attends to, ascending.
std::vector<int64_t> live_keys(const Plan& plan, int64_t head, int64_t query) {
  std::vector<int64_t> keys;
  for (int64_t key = 0; key < plan.pattern->k_len(); ++key) {
    if (plan.pattern->attends(head, query, key)) keys.push_back(key);
  }
  return keys;
}

// Calls body(batch, row, rows of its keys) for the queries at one position of all batch elements.
template <typename Args, typename Body>
void for_each_query(const Plan& plan, const Args& args, int64_t head, int64_t query,
                    const Body& body) {
  const std::vector<int64_t> keys = live_keys(plan, head, query);
  for (int64_t batch = 0; batch < args.shape.batch; ++batch) {
    const auto [q, k] = sequence_of(plan, args.sequences, batch);
    if (query < q.begin || query >= q.end) continue;
    std::vector<int64_t> rows;
    for (const int64_t key : keys) {
      if (key >= k.begin && key < k.end) rows.push_back(key + k.row);
    }
    body(batch, query + q.row, rows);
  }
}

// A logit, and its derivative by scale · q·k.
struct Logit {
  double value, slope;
};
template <typename Args>
Logit logit_of(const Args& args, double dot) {
  if (!args.shape.softcap) return {args.scale * dot, 1};
  const double share = std::tanh(args.scale * dot / args.softcap);
  return {args.softcap * share, 1 - share * share};
}

// One row of out and lse.
template <typename Element>
void forward_row(const ForwardArgs& args, const std::vector<int64_t>& keys, int64_t batch,
                 int64_t head, int64_t row) {
  const AttentionShape& shape = args.shape;
  const int64_t kv_head = head / (shape.heads / shape.kv_heads);
  const auto* q = row_of<Element>(args.q, batch, head, row);
  std::vector<double> logits;
  double maximum = -std::numeric_limits<double>::infinity();
  for (const int64_t key : keys) {
    const auto* k = row_of<Element>(args.k, batch, kv_head, key);
    logits.push_back(logit_of(args, dot<Element>(q, k, shape.qk_dim)).value);
    maximum = std::max(maximum, logits.back());
  }
  double sum = 0;
  std::vector<double> out(static_cast<size_t>(shape.v_dim), 0.0);
  for (size_t e = 0; e < keys.size(); ++e) {
    const auto* v = row_of<Element>(args.v, batch, kv_head, keys[e]);
    const double weight = std::exp(logits[e] - maximum);
    sum += weight;
    for (size_t d = 0; d < out.size(); ++d) out[d] += weight * Element::load(v[d]);
  }
  auto* stored = row_of<Element>(args.out, batch, head, row);
  for (size_t d = 0; d < out.size(); ++d) {
    stored[d] = Element::store(keys.empty() ? 0.0 : out[d] / sum);
  }
  store_lse(args.lse, shape.dtype, shape.lse_index(batch, head, row),
            keys.empty() ? maximum : maximum + std::log(sum));
}

template <typename Element>
void forward_typed(const Context& context, const Plan& plan, const ForwardArgs& args) {
  const AttentionShape& shape = args.shape;
  const int64_t first = plan.pattern->k_len() - plan.pattern->q_len(),
                count = plan.pattern->q_len();
  run_tasks(*context.executor, shape.heads * count, [&](int64_t task, int) {
    const int64_t head = task / count;
    for_each_query(plan, args, head, first + task % count,
                   [&](int64_t batch, int64_t row, const std::vector<int64_t>& keys) {
                     forward_row<Element>(args, keys, batch, head, row);
                   });
  });
}

// dk and dv of one key head, [batch in memory, k_len, dim], before rounding.
struct KeyGradients {
  std::vector<double> dk, dv;
};

// One row of dq, and what it adds to dk and dv. With p = exp(logit − lse), which is also what lse
// gains by a logit:
//   delta = dout·out − dlse,  dv += p · dout,  ds = p · (dout·v − delta) · slope,
//   dq += scale · ds · k,  dk += scale · ds · q
template <typename Element>
void backward_row(const BackwardArgs& args, const std::vector<int64_t>& keys, int64_t batch,
                  int64_t head, int64_t row, KeyGradients& sums) {
  const AttentionShape& shape = args.shape;
  const int64_t kv_head = head / (shape.heads / shape.kv_heads);
  const auto* q = row_of<Element>(args.q, batch, head, row);
  const auto* dout = row_of<Element>(args.dout, batch, head, row);
  const int64_t index = shape.lse_index(batch, head, row);
  const double lse = load_lse(args.lse, shape.dtype, index);
  const double dlse = args.dlse != nullptr ? load_lse(args.dlse, shape.dtype, index) : 0;
  const double delta =
      dot<Element>(dout, row_of<Element>(args.out, batch, head, row), shape.v_dim) - dlse;
  if (args.delta != nullptr) store_lse(args.delta, shape.dtype, index, delta);
  std::vector<double> dq(static_cast<size_t>(shape.qk_dim), 0.0);
  for (const int64_t key : keys) {
    const auto* k = row_of<Element>(args.k, batch, kv_head, key);
    const auto* v = row_of<Element>(args.v, batch, kv_head, key);
    const int64_t sum = shape.in_memory(batch) * shape.k_len + key;
    double* dk = sums.dk.data() + sum * shape.qk_dim;
    double* dv = sums.dv.data() + sum * shape.v_dim;
    const Logit logit = logit_of(args, dot<Element>(q, k, shape.qk_dim));
    const double weight = std::exp(logit.value - lse);
    const double ds =
        args.scale * weight * (dot<Element>(dout, v, shape.v_dim) - delta) * logit.slope;
    for (int64_t d = 0; d < shape.v_dim; ++d) dv[d] += weight * Element::load(dout[d]);
    for (int64_t d = 0; d < shape.qk_dim; ++d) {
      dk[d] += ds * Element::load(q[d]);
      dq[static_cast<size_t>(d)] += ds * Element::load(k[d]);
    }
  }
  auto* stored = row_of<Element>(args.dq, batch, head, row);
  for (int64_t d = 0; d < shape.qk_dim; ++d) {
    stored[d] = Element::store(dq[static_cast<size_t>(d)]);
  }
}

template <typename Element>
void backward_typed(const Context& context, const Plan& plan, const BackwardArgs& args) {
  const AttentionShape& shape = args.shape;
  const int64_t heads_per_key = shape.heads / shape.kv_heads;
  run_tasks(*context.executor, shape.kv_heads, [&](int64_t kv_head, int) {
    KeyGradients sums;
    const int64_t rows = shape.batch_in_memory() * shape.k_len;
    sums.dk.assign(static_cast<size_t>(rows * shape.qk_dim), 0.0);
    sums.dv.assign(static_cast<size_t>(rows * shape.v_dim), 0.0);
    for (int64_t head = kv_head * heads_per_key; head < (kv_head + 1) * heads_per_key; ++head) {
      for (int64_t query = plan.pattern->k_len() - plan.pattern->q_len();
           query < plan.pattern->k_len(); ++query) {
        for_each_query(plan, args, head, query,
                       [&](int64_t batch, int64_t row, const std::vector<int64_t>& keys) {
                         backward_row<Element>(args, keys, batch, head, row, sums);
                       });
      }
    }
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t batch = row / shape.k_len, key = row % shape.k_len;
      auto* dk = row_of<Element>(args.dk, batch, kv_head, key);
      auto* dv = row_of<Element>(args.dv, batch, kv_head, key);
      for (int64_t d = 0; d < shape.qk_dim; ++d) {
        dk[d] = Element::store(sums.dk[static_cast<size_t>(row * shape.qk_dim + d)]);
      }
      for (int64_t d = 0; d < shape.v_dim; ++d) {
        dv[d] = Element::store(sums.dv[static_cast<size_t>(row * shape.v_dim + d)]);
      }
    }
  });
}

std::string unavailable() { return {}; }

std::string unsupported(const AttentionShape&) { return {}; }

KernelTiles tiles(const AttentionShape&) { return {}; }

void forward(const Context& context, const Plan& plan, const ForwardArgs& args) {
  dispatch_element(args.shape.dtype,
                   [&]<typename Element>() { forward_typed<Element>(context, plan, args); });
}

void backward(const Context& context, const Plan& plan, const Plan&, const BackwardArgs& args) {
  dispatch_element(args.shape.dtype,
                   [&]<typename Element>() { backward_typed<Element>(context, plan, args); });
}

}  // namespace

constinit const Kernel kKernel = {"reference", Device::kCpu, unavailable, unsupported,
                                  tiles,       forward,      backward};

}  // namespace lace::reference
