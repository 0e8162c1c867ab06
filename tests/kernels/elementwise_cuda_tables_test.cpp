// The GPU's embeddings and optimiser.
#include <cmath>

#include <cuda_runtime_api.h>

#include "lace/error.h"

#include "kernels/elementwise_cuda.h"

namespace lace::test {
namespace {

struct EmbeddingCase {
  int64_t batch, n, columns, vocab;
  std::vector<int64_t> position_rows;
  DType residual = DType::kFloat32;
};

class CudaEmbedding : public CudaElementwise, public testing::WithParamInterface<EmbeddingCase> {};

TEST_P(CudaEmbedding, OutAndGradients) {
  const EmbeddingCase& problem = GetParam();
  const int64_t n = problem.n, columns = problem.columns, slots = problem.batch * n;
  const std::vector<int64_t> tokens = indices(slots, problem.vocab);
  // All tables, one below the other: tok, positions, sos.
  std::vector<int64_t> firsts = {0}, table_rows = {problem.vocab}, rows_of_slots;
  EmbeddingShape shape{.batch = problem.batch,
                       .n = n,
                       .columns = columns,
                       .residual = problem.residual,
                       .vocab = problem.vocab};
  for (const int64_t rows : problem.position_rows) {
    shape.position_rows[shape.parts++] = rows;
    table_rows.push_back(rows);
    for (const int64_t row : indices(n, rows)) rows_of_slots.push_back(row);
  }
  table_rows.push_back(1);
  for (const int64_t rows : table_rows) firsts.push_back(firsts.back() + rows);
  const Workspace tokens_memory = to_device(tokens), rows_memory = to_device(rows_of_slots);
  shape.tokens = reinterpret_cast<const int64_t*>(tokens_memory.get());
  shape.indices = reinterpret_cast<const int64_t*>(rows_memory.get());

  // Calls add(row of all tables) for each that slot (b, s) has.
  const auto for_rows = [&](int64_t b, int64_t s, const auto& add) {
    if (s == 0) return add(firsts.back() - 1);
    add(tokens[static_cast<size_t>(b * n + s - 1)]);
    for (int p = 0; p < shape.parts; ++p) {
      add(firsts[static_cast<size_t>(p + 1)] + rows_of_slots[static_cast<size_t>(p * n + s - 1)]);
    }
  };
  const auto slice = [&](const Values& all, size_t table) {
    return Values(all.begin() + firsts[table] * columns, all.begin() + firsts[table + 1] * columns);
  };
  const DeviceArray all(DType::kFloat32, numbers(firsts.back() * columns));
  const DeviceArray grad(shape.residual, numbers(slots * columns));
  const Values tables = all.values(), grads = grad.values();
  const auto tables_of = [&] {
    std::vector<DeviceArray> arrays;
    for (size_t t = 0; t < table_rows.size(); ++t) {
      arrays.emplace_back(DType::kFloat32, slice(tables, t));
    }
    return arrays;
  };

  Values want(grads.size());
  Sums sums(firsts.back() * columns);
  for (int64_t slot = 0; slot < slots; ++slot) {
    for_rows(slot / n, slot % n, [&](int64_t row) {
      for (int64_t c = 0; c < columns; ++c) {
        const auto at = static_cast<size_t>(slot * columns + c);
        want[at] += tables[static_cast<size_t>(row * columns + c)];
        sums.add(row * columns + c, grads[at]);
      }
    });
  }
  const std::vector<DeviceArray> arrays = tables_of();
  const DeviceArray out(shape.residual, slots * columns);
  EmbeddingArgs args{.shape = shape, .tok = arrays[0].data(), .sos = arrays.back().data()};
  for (int p = 0; p < shape.parts; ++p) args.pos[p] = arrays[static_cast<size_t>(p + 1)].data();
  args.out = out.data();
  kElementwise.embedding(context(), args);
  expect_near("out", out.values(), want, [&](size_t i) {
    return 2e-6 +
           (shape.residual == DType::kFloat32 ? 0 : 1.01 * rounding(shape.residual, want[i]));
  });

  for (const bool add : {false, true}) {
    const auto got = repeated([&] {
      const std::vector<DeviceArray> to = tables_of();
      EmbeddingGradArgs grad_args{.shape = shape, .grad = grad.data(), .add = add};
      grad_args.tok = to[0].data(), grad_args.sos = to.back().data();
      for (int p = 0; p < shape.parts; ++p) {
        grad_args.pos[p] = to[static_cast<size_t>(p + 1)].data();
      }
      kElementwise.embedding_grad(context(), grad_args);
      Values joined;
      for (const DeviceArray& table : to) {
        const Values values = table.values();
        joined.insert(joined.end(), values.begin(), values.end());
      }
      return std::vector<Values>{joined};
    });
    sums.expect("tables", got[0], tables, add);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, CudaEmbedding,
    testing::Values(EmbeddingCase{2, 1500, 512, 256, {96, 128}},
                    EmbeddingCase{3, 768, 256, 256, {32, 32, 3}}, EmbeddingCase{1, 1, 7, 5, {}},
                    EmbeddingCase{5, 77, 33, 1, {1}}, EmbeddingCase{2, 500, 100, 3000, {77, 600}},
                    EmbeddingCase{2, 1500, 512, 256, {96, 128}, DType::kBFloat16},
                    EmbeddingCase{3, 768, 256, 256, {32, 32, 3}, DType::kFloat16},
                    EmbeddingCase{5, 77, 33, 5, {1}, DType::kBFloat16}),
    [](const auto& info) {
      return concat("batch_", info.param.batch, "_n_", info.param.n, "_columns_",
                    info.param.columns, "_vocab_", info.param.vocab,
                    info.param.residual == DType::kFloat32 ? "" : "_residual");
    });

struct AdamCase {
  int64_t count, decayed;
  bool ema, copies, scaling, shifted;
  int not_finite;  // how many gradients
};

class CudaAdam : public CudaElementwise, public testing::WithParamInterface<AdamCase> {};

TEST_P(CudaAdam, NormAndStep) {
  const AdamCase& problem = GetParam();
  const auto wide = [&](const Values& values) {
    return DeviceArray(DType::kFloat32, values, problem.shifted);
  };
  Values gradients = numbers(problem.count);
  for (int i = 0; i < problem.not_finite; ++i) {
    gradients[static_cast<size_t>(problem.count - 1 - 3 * i)] = i % 2 == 0 ? INFINITY : NAN;
  }
  const DeviceArray g = wide(gradients);
  const Values ps = wide(numbers(problem.count)).values();
  const Values ms = wide(numbers(problem.count, 0, 0.1)).values();
  Values vs = numbers(problem.count, 0, 0.1), emas = wide(numbers(problem.count)).values();
  for (double& v : vs) v *= v;
  vs = wide(vs).values();
  const double rate = 0.01, loss_scale = problem.scaling ? 2048 : 1;
  const Workspace rate_memory = to_device(&rate, sizeof(rate));
  StepState state{.loss_scale = loss_scale};

  AdamArgs args{.count = problem.count,
                .decayed = problem.decayed,
                .compute = DType::kFloat16,
                .gradients = g.data(),
                .beta1 = 0.9,
                .beta2 = 0.95,
                .epsilon = 1e-8,
                .weight_decay = 0.1,
                .ema_decay = 0.99,
                .clip_norm = 0.01,
                .scaling = {problem.scaling, 1.5, 1024},
                .rate = reinterpret_cast<const double*>(rate_memory.get())};
  const auto got = repeated([&] {
    const StepState before{.loss_scale = loss_scale};
    const Workspace memory = to_device(&before, sizeof(before));
    const DeviceArray p = wide(ps), m = wide(ms), v = wide(vs), ema = wide(emas);
    const DeviceArray copies(DType::kFloat16, problem.count, problem.shifted);
    args.values = p.data(), args.m = m.data(), args.v = v.data();
    args.ema = problem.ema ? ema.data() : nullptr;
    args.copies = problem.copies ? copies.data() : nullptr;
    args.state = reinterpret_cast<StepState*>(memory.get());
    kElementwise.adam_norm(context(), args);
    kElementwise.adam_step(context(), args);
    std::vector<Values> results = {p.values(), m.values(), v.values(), ema.values()};
    const bool fails =
        problem.not_finite > 0 && !problem.scaling;  // and leaves copies as they were
    if (problem.copies && !fails) results.push_back(copies.values());
    EXPECT_EQ(cudaMemcpy(&state, memory.get(), sizeof(state), cudaMemcpyDeviceToHost), cudaSuccess);
    return results;
  });

  EXPECT_EQ(state.overflowed, problem.not_finite > 0);
  EXPECT_EQ(state.failed, problem.not_finite > 0 && !problem.scaling);
  if (state.failed != 0) {
    EXPECT_FALSE(std::isfinite(state.norm));
    EXPECT_TRUE(got[0] == ps && got[1] == ms && got[2] == vs && got[3] == emas);
    return;
  }
  double squares = 0;
  for (double& gradient : gradients = g.values()) {
    if (!std::isfinite(gradient)) gradient = 0;
    squares += gradient * gradient;
  }
  const double norm = std::sqrt(squares) / loss_scale;
  const double factor = (norm > 0.01 ? 0.01 / norm : 1) / loss_scale;
  EXPECT_NEAR(state.norm, norm, norm * 1e-12);
  EXPECT_NEAR(state.factor, factor, factor * 1e-12);
  EXPECT_EQ(state.loss_scale, !problem.scaling ? 1 : problem.not_finite > 0 ? 1024 : 2048 * 1.5);
  Values values, new_ms, new_vs, new_emas;
  for (size_t i = 0; i < ps.size(); ++i) {
    const double gradient = gradients[i] * factor;
    new_ms.push_back(0.9 * ms[i] + 0.1 * gradient);
    new_vs.push_back(0.95 * vs[i] + 0.05 * gradient * gradient);
    const double decay = static_cast<int64_t>(i) < problem.decayed ? 0.1 : 0;
    values.push_back(ps[i] - rate * (new_ms[i] / (std::sqrt(new_vs[i]) + 1e-8) + decay * ps[i]));
    new_emas.push_back(problem.ema ? 0.99 * emas[i] + 0.01 * values[i] : emas[i]);
  }
  // m / √v, where √v is tiny, is large, and with it its error.
  const auto value_error = [&](size_t i) {
    return 0x1p-21 * (std::abs(ps[i]) + std::abs(values[i]) + std::abs(values[i] - ps[i]));
  };
  expect_near("values", got[0], values, value_error);
  expect_near("m", got[1], new_ms, [&](size_t i) {
    return 0x1p-21 * (std::abs(ms[i]) + std::abs(gradients[i] * factor));
  });
  expect_near("v", got[2], new_vs, [&](size_t i) { return 0x1p-21 * new_vs[i]; });
  expect_near("ema", got[3], new_emas, [&](size_t i) {
    return 0x1p-21 * (std::abs(emas[i]) + std::abs(values[i])) + value_error(i);
  });
  if (!problem.copies) return;
  expect_near("copies", got[4], values,
              [&](size_t i) { return rounding(DType::kFloat16, values[i]) + 2 * value_error(i); });
}

INSTANTIATE_TEST_SUITE_P(Cases, CudaAdam,
                         testing::Values(AdamCase{1, 1, true, true, false, false, 0},
                                         AdamCase{70001, 40002, true, true, false, false, 0},
                                         AdamCase{70001, 40002, true, true, false, true, 0},
                                         AdamCase{4096, 0, false, false, false, false, 0},
                                         AdamCase{1000003, 1000003, true, true, true, false, 0},
                                         AdamCase{1003, 500, false, true, true, false, 5},
                                         AdamCase{1003, 500, true, true, false, false, 2}));

TEST_F(CudaElementwise, AdamStaysWhereItFailed) {
  const StepState failed{.norm = 7, .factor = 8, .loss_scale = 1, .overflowed = 1, .failed = 1};
  const Workspace memory = to_device(&failed, sizeof(failed));
  const double rate = 1;
  const Workspace rate_memory = to_device(&rate, sizeof(rate));
  const Values ones(100, 1);
  const DeviceArray g(DType::kFloat32, ones), p(DType::kFloat32, ones), m(DType::kFloat32, ones);
  const DeviceArray v(DType::kFloat32, ones);
  AdamArgs args;
  args.count = args.decayed = 100, args.weight_decay = 1;
  args.gradients = g.data();
  args.values = p.data(), args.m = m.data(), args.v = v.data();
  args.rate = reinterpret_cast<const double*>(rate_memory.get());
  args.state = reinterpret_cast<StepState*>(memory.get());
  kElementwise.adam_norm(context(), args);
  kElementwise.adam_step(context(), args);
  EXPECT_TRUE(p.values() == ones && m.values() == ones && v.values() == ones);
  StepState state;
  ASSERT_EQ(cudaMemcpy(&state, memory.get(), sizeof(state), cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_EQ(state.norm, 7);
  EXPECT_EQ(state.factor, 8);
  EXPECT_EQ(state.failed, 1);
}

}  // namespace
}  // namespace lace::test
