#include "train/step_runner.h"

#include <algorithm>
#include <cstring>

#include <ATen/ATen.h>

#include "lace/error.h"

#include "model/dropout_keys.h"
#include "ops/torch_context.h"

namespace lace::train {

namespace {

// The kinds of graphs: the first micro-batch writes gradients, the others add to them; in some the
// ranks' gradients are added up.
enum GraphKind { kFirst, kLater, kFirstExchanged, kLaterExchanged, kOptimizer };

constexpr int64_t kBucket = int64_t{16} << 20;  // elements that ranks exchange at once

constexpr int64_t kKeyBytes = sizeof(uint64_t);

int64_t token_count(const Recipe& recipe) {  // of a micro-batch
  return recipe.train.batch * recipe.model.seq_len;
}

int64_t key_count(const Recipe& recipe) {  // of a micro-batch
  return recipe.model.dropout > 0 ? recipe.model.layers * model::kDropoutBranches : 0;
}

// All micro-batches' tokens, up to a multiple of a key's size.
int64_t token_bytes(const Recipe& recipe) {
  const int64_t bytes = recipe.train.accumulate * token_count(recipe);
  return (bytes + kKeyBytes - 1) / kKeyBytes * kKeyBytes;
}

// Where the layers' gradients lie in the arena, with what is between them.
GradientBuckets make_buckets(const SparseTransformer& model, const Adam& adam) {
  const SparseTransformer::Impl& impl = *model.impl();
  const std::vector<at::Tensor> views = impl.arena.views(adam.gradients());
  std::vector<std::vector<distributed::Range>> layers;
  for (int64_t layer = 0; layer < impl.config.layers; ++layer) {
    layers.emplace_back();
    for (int i = 0; i < model::kBlockTensors; ++i) {
      const at::Tensor& view =
          views[impl.block_parameter(layer, static_cast<model::BlockTensor>(i))];
      constexpr int64_t kAlignment = model::ParameterArena::kAlignment;
      const int64_t length = (view.numel() + kAlignment - 1) / kAlignment * kAlignment;
      layers.back().push_back({view.storage_offset(), view.storage_offset() + length});
    }
  }
  return {layers, impl.arena.size(), kBucket};
}

constexpr auto kReportBytes = static_cast<int64_t>(sizeof(Ranks::ReportNumbers));

}  // namespace

StepRunner::StepRunner(const Recipe& recipe, const SparseTransformer& model, Adam& adam,
                       const Ranks& ranks, ReadStep read)
    : recipe_(recipe),
      model_(model),
      adam_(adam),
      ranks_(ranks),
      read_(std::move(read)),
      buckets_(make_buckets(model, adam)),
      queue_(ops::DeviceQueue::make(model.device())) {
  const auto on_device = at::TensorOptions().device(model.device());
  const int64_t bytes =
      token_bytes(recipe) + recipe.train.accumulate * key_count(recipe) * kKeyBytes;
  for (Slot& slot : slots_) {
    slot.host = queue_->host_bytes(bytes);
    slot.device = at::empty({bytes}, on_device.dtype(at::kByte));
    slot.given = queue_->host_bytes(sizeof(double) + kReportBytes);
    slot.numbers = queue_->host_bytes(sizeof(StepState) + kReportBytes);
  }
  tokens_ = at::empty({recipe.train.batch, recipe.model.seq_len}, on_device.dtype(at::kByte));
  if (key_count(recipe) > 0) {
    keys_ = at::empty({recipe.model.layers, model::kDropoutBranches}, on_device.dtype(at::kLong));
  }
  report_ = at::zeros({kReportBytes / static_cast<int64_t>(sizeof(double))},
                      on_device.dtype(at::kDouble));
}

void StepRunner::prepare(int64_t step) {
  Slot& slot = this->slot(step);
  slot.step.reset();
  auto* bytes = slot.host.mutable_data_ptr<uint8_t>();
  const std::span<uint8_t> tokens(bytes, static_cast<size_t>(recipe_.train.accumulate) *
                                             static_cast<size_t>(token_count(recipe_)));
  read_(step, tokens);
  const int64_t vocab = recipe_.model.vocab;
  if (vocab < 256) {
    const uint8_t high = *std::max_element(tokens.begin(), tokens.end());
    LACE_CHECK(high < vocab, "[model] tokens must be in [0, ", vocab, "), got ", int{high});
  }
  if (keys_.defined()) {
    uint8_t* to = bytes + token_bytes(recipe_);
    for (int64_t i = 0; i < recipe_.train.accumulate; ++i) {
      const auto keys = model::dropout_keys(
          recipe_.model.seed, step, ranks_.shares().micro_batch(0, i).index, recipe_.model.layers);
      std::memcpy(to, keys.data(), keys.size() * kKeyBytes);
      to += keys.size() * kKeyBytes;
    }
  }
  queue_->upload(slot.device, slot.host);
  slot.step = step;
}

void StepRunner::run_micro_batch(int64_t index) {
  const auto count = static_cast<double>(ranks_.shares().micro_batches());
  const at::Tensor tokens = tokens_.to(at::kLong);
  model::Pass pass(model_.impl(), tokens, keys_, /*keep=*/true);
  const at::Tensor nats = pass.nats().sum(at::kDouble);
  const auto symbols = static_cast<double>(tokens.numel());
  report_[Ranks::kLoss].add_(nats, 1 / (symbols * count));
  model::Gradients gradients = adam_.gradients_into(index > 0);
  if (is_exchanged(index))
    gradients.layer_done = [&](int64_t layer) { exchange(buckets_.after(layer)); };
  pass.nats_backward(1 / (symbols * count), adam_.loss_scale(), gradients);
  if (!is_exchanged(index)) return;
  exchange(buckets_.rest());
  queue_->join();
}

bool StepRunner::is_exchanged(int64_t index) const {
  return ranks_.size() > 1 && index + 1 == recipe_.train.accumulate;
}

void StepRunner::exchange(const std::vector<distributed::Range>& ranges) {
  if (ranges.empty()) return;
  queue_->beside([&] {
    for (const distributed::Range& range : ranges)
      ranks_.sum(adam_.gradients().narrow(0, range.begin, range.end - range.begin));
  });
}

// The first step is done as it is: it makes plans and workspaces, which a recording cannot.
void StepRunner::run_or_record(int kind, FunctionRef<void()> work) {
  if (runs_ == 0 || !recipe_.train.graphs) return work();
  auto& graph = graphs_[kind];
  if (!graph) graph = queue_->record(work);
  graph ? graph->replay() : work();
}

void StepRunner::give(Slot& slot, double rate, const Ranks::ReportNumbers& given) {
  auto* host = slot.given.mutable_data_ptr<uint8_t>();
  std::memcpy(host, &rate, sizeof(rate));
  std::memcpy(host + sizeof(rate), given.data(), sizeof(given));
  adam_.rate().copy_(slot.given.narrow(0, 0, sizeof(rate)).view(at::kDouble),
                     /*non_blocking=*/true);
  report_.copy_(slot.given.narrow(0, sizeof(rate), kReportBytes).view(at::kDouble),
                /*non_blocking=*/true);
}

void StepRunner::take_numbers(Slot& slot) {
  const auto state_bytes = static_cast<int64_t>(sizeof(StepState));
  slot.numbers.narrow(0, 0, state_bytes).copy_(adam_.state(), /*non_blocking=*/true);
  slot.numbers.narrow(0, state_bytes, kReportBytes)
      .copy_(report_.view(at::kByte), /*non_blocking=*/true);
  slot.done = queue_->mark();
}

void StepRunner::start(int64_t step, double learning_rate, const StepReport& report) {
  const ops::OwnThreads threads;
  const at::NoGradGuard no_grad;
  const auto scope = queue_->enter();
  Slot& slot = this->slot(step);
  if (slot.step != step) prepare(step);
  model_.impl()->arena.refresh_copies();
  give(slot, adam_.next_rate(learning_rate), ranks_.report_numbers(report));
  const int64_t tokens = token_count(recipe_), keys = key_count(recipe_);
  for (int64_t i = 0; i < recipe_.train.accumulate; ++i) {
    tokens_.view({-1}).copy_(slot.device.narrow(0, i * tokens, tokens));
    if (keys_.defined()) {
      const at::Tensor own =
          slot.device.narrow(0, token_bytes(recipe_) + i * keys * kKeyBytes, keys * kKeyBytes);
      keys_.view({-1}).copy_(own.view(at::kLong));
    }
    const int kind = (i == 0 ? kFirst : kLater) + (is_exchanged(i) ? kFirstExchanged : 0);
    run_or_record(kind, [&] { run_micro_batch(i); });
    ranks_.check();
  }
  queue_->hold_for_downloads();
  run_or_record(kOptimizer, [&] {
    ranks_.sum(report_);
    adam_.run();
  });
  adam_.advance();
  ++runs_;
  take_numbers(slot);
  in_flight_.push_back(step);
}

at::Tensor StepRunner::host_array(const at::Tensor& array) {
  return queue_->host_bytes(static_cast<int64_t>(array.nbytes())).view(array.scalar_type());
}

std::unique_ptr<ops::DeviceQueue::Mark> StepRunner::download(const std::vector<Copy>& copies) {
  for (const Copy& copy : copies) queue_->download(copy.to, copy.from);
  return queue_->mark_downloads();
}

StepNumbers StepRunner::finish() {
  const int64_t step = in_flight_.front();
  Slot& slot = this->slot(step);
  slot.done->wait();
  in_flight_.pop_front();
  ranks_.check();
  StepNumbers numbers;
  const auto* bytes = slot.numbers.const_data_ptr<uint8_t>();
  std::memcpy(&numbers.state, bytes, sizeof(StepState));
  Ranks::ReportNumbers report;
  std::memcpy(report.data(), bytes + sizeof(StepState), sizeof(report));
  numbers.report = Ranks::to_report(report);
  return numbers;
}

void StepRunner::prepare_next() {
  if (in_flight_.empty()) return;
  try {
    const auto scope = queue_->enter();
    prepare(in_flight_.back() + 1);
  } catch (const Error&) {
    slot(in_flight_.back() + 1).step.reset();
  }
}

void StepRunner::reset() {
  while (!in_flight_.empty()) finish();
  for (Slot& slot : slots_) slot.step.reset();
}

}  // namespace lace::train
