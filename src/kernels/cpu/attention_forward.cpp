#include "kernels/cpu/attention_forward.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <vector>

#include "kernels/cpu/tile_tasks.h"
#include "kernels/cpu/tile_walk.h"

namespace lace::cpu {
namespace {

const std::byte* row_of(const std::byte* head, int64_t row_stride_bytes, int64_t position) {
  return head + position * row_stride_bytes;
}

// What the passes before left of each row, [batch, heads, q_len] and for `out` [… , v_dim].
struct Partial {
  Workspace memory;
  float* max = nullptr;
  float* sum = nullptr;
  float* out = nullptr;  // bf16 only; floats are kept in ForwardArgs::out
};

class ForwardRun {
 public:
  ForwardRun(const ForwardOps& ops, const Context& context, const Plan& plan,
             const ForwardArgs& args)
      : ops_(ops), context_(context), plan_(plan), args_(args) {
    const AttentionShape& shape = args.shape;
    bf16_ = shape.dtype == DType::kBFloat16;
    element_bytes_ = size_bytes(shape.dtype);
    passes_ = pass_count(plan);
    scratch_bytes_ = lay_out(nullptr, nullptr);
    const auto threads = static_cast<size_t>(context.executor->num_threads());
    scratch_ = context.allocate(scratch_bytes_ * threads);
    if (passes_ > 1) {
      const auto rows = static_cast<size_t>(shape.batch * shape.heads * shape.q_len);
      const size_t out_floats = bf16_ ? rows * static_cast<size_t>(shape.v_dim) : 0;
      partial_.memory = context.allocate((2 * rows + out_floats) * sizeof(float));
      partial_.max = reinterpret_cast<float*>(partial_.memory.get());
      partial_.sum = partial_.max + rows;
      partial_.out = bf16_ ? partial_.sum + rows : nullptr;
    }
  }

  void run() {
    for (int pass = 0; pass < passes_; pass++) {
      const std::vector<TileTask> tasks = tile_tasks(plan_, args_.shape.batch, pass);
      run_tasks(*context_.executor, static_cast<int64_t>(tasks.size()),
                [&](int64_t task, int thread) {
                  run_tile(tasks[static_cast<size_t>(task)], pass, thread);
                });
    }
  }

 private:
  // Places the scratch of a thread at `base` and returns its size; with a null tile, only that.
  size_t lay_out(std::byte* base, ForwardTile* tile) const {
    const int qk_dim = static_cast<int>(args_.shape.qk_dim);
    const int v_dim = static_cast<int>(args_.shape.v_dim);
    size_t floats = 0;
    const auto place = [&](float*(ForwardTile::*member), int count) {
      if (tile) tile->*member = reinterpret_cast<float*>(base) + floats;
      floats += static_cast<size_t>((count + 15) / 16 * 16);
    };
    place(&ForwardTile::q, qk_dim * kTileOwners);
    place(&ForwardTile::logits, kBatchOthers * kTileOwners);
    place(&ForwardTile::out, v_dim * kTileOwners);
    place(&ForwardTile::max, kTileOwners);
    place(&ForwardTile::sum, kTileOwners);
    place(&ForwardTile::factor, kTileOwners);
    place(&ForwardTile::peak, kTileOwners);
    if (bf16_) {
      place(&ForwardTile::v_wide, kBatchOthers * v_dim);
      place(ops_.packs_pairs ? &ForwardTile::weight_pairs : &ForwardTile::k_wide,
            ops_.packs_pairs ? kBatchOthers / 2 * kTileOwners : kBatchOthers * qk_dim);
    }
    return floats * sizeof(float);
  }

  const std::byte* head_of(const Tensor4& tensor, int64_t batch, int64_t head) const {
    return static_cast<const std::byte*>(tensor.data) +
           (batch * tensor.batch_stride + head * tensor.head_stride) * element_bytes_;
  }

  void run_tile(const TileTask& task, int pass, int thread) const {
    const OwnerTile& owner_tile = plan_.tiles[static_cast<size_t>(task.tile)];
    const Owners owners = owners_of(plan_, owner_tile);
    if (owners.rows == 0) return;
    ForwardTile tile;
    tile.bf16 = bf16_;
    tile.qk_dim = static_cast<int>(args_.shape.qk_dim);
    tile.v_dim = static_cast<int>(args_.shape.v_dim);
    tile.scale =
        args_.scale == 0 ? 1.0f : static_cast<float>(std::abs(args_.scale) * std::numbers::log2e);
    tile.owners = owners.count;
    lay_out(scratch_.get() + scratch_bytes_ * static_cast<size_t>(thread), &tile);

    load_queries(task, owners, tile);
    if (pass == 0) {
      start(tile);
    } else {
      resume(task, owners, tile);
    }
    stream_keys(task, owner_tile, owners, tile);
    finish(task, owners, tile, pass);
  }

  // Packs the queries with the sign of the scale, which the rest takes as positive.
  void load_queries(const TileTask& task, const Owners& owners, ForwardTile& tile) const {
    const void* rows[kTileOwners];
    const std::byte* q = head_of(args_.q, task.batch, task.head);
    for (int e = 0; e < owners.count; e++) {
      rows[e] = owners.positions[e] < 0
                    ? nullptr
                    : row_of(q, args_.q.row_stride * element_bytes_, owners.positions[e]);
    }
    ops_.pack_queries(tile, rows);
    if (args_.scale > 0) return;
    const bool pairs = bf16_ && ops_.packs_pairs;
    const int words = tile.qk_dim / (pairs ? 2 : 1) * kTileOwners;
    const uint32_t sign = pairs ? 0x80008000u : 0x80000000u;
    for (int i = 0; i < words; i++) {
      uint32_t word;
      std::memcpy(&word, tile.q + i, sizeof word);
      word = args_.scale == 0 ? 0 : word ^ sign;
      std::memcpy(tile.q + i, &word, sizeof word);
    }
  }

  static void start(ForwardTile& tile) {
    std::fill_n(tile.max, kTileOwners, kNoLogit);
    std::fill_n(tile.sum, kTileOwners, 0.0f);
    std::fill_n(tile.out, tile.v_dim * kTileOwners, 0.0f);
  }

  void resume(const TileTask& task, const Owners& owners, ForwardTile& tile) const {
    const float* rows[kTileOwners];
    std::fill_n(tile.max, kTileOwners, kNoLogit);
    std::fill_n(tile.sum, kTileOwners, 0.0f);
    for (int e = 0; e < owners.count; e++) {
      rows[e] = nullptr;
      if (owners.positions[e] < 0) continue;
      const int64_t row = row_index(task, owners.positions[e]);
      rows[e] = partial_row(task, owners.positions[e]);
      tile.max[e] = partial_.max[row];
      tile.sum[e] = partial_.sum[row];
    }
    ops_.resume(tile, rows);
  }

  void stream_keys(const TileTask& task, const OwnerTile& owner_tile, const Owners& owners,
                   const ForwardTile& tile) const {
    const int64_t kv_head = task.head / (args_.shape.heads / args_.shape.kv_heads);
    const std::byte* k = head_of(args_.k, task.batch, kv_head);
    const std::byte* v = head_of(args_.v, task.batch, kv_head);
    const int64_t k_stride = args_.k.row_stride * element_bytes_;
    const int64_t v_stride = args_.v.row_stride * element_bytes_;
    const void* k_rows[2][kBatchOthers];
    const void* v_rows[kBatchOthers];
    int current = 0;
    bool first = true;
    const auto point_at_keys = [&](const Batch& batch, const void** rows) {
      for (int r = 0; r < batch.count; r++) rows[r] = row_of(k, k_stride, batch.positions[r]);
    };
    for_each_batch(plan_, owner_tile, owners, [&](const Batch& batch, const Batch* next) {
      if (first) point_at_keys(batch, k_rows[current]);
      first = false;
      for (int r = 0; r < batch.count; r++) v_rows[r] = row_of(v, v_stride, batch.positions[r]);
      const void** next_k = k_rows[current ^ 1];
      if (next) point_at_keys(*next, next_k);
      ops_.take(tile, batch, k_rows[current], v_rows, next_k, next ? next->count : 0);
      current ^= 1;
    });
  }

  void finish(const TileTask& task, const Owners& owners, const ForwardTile& tile, int pass) const {
    void* rows[kTileOwners] = {};
    const auto* out = head_of(args_.out, task.batch, task.head);
    auto* lse = static_cast<float*>(args_.lse);
    const bool last = pass + 1 == passes_of(plan_, task.head);
    for (int e = 0; e < owners.count; e++) {
      const int64_t position = owners.positions[e];
      if (position < 0) continue;
      rows[e] =
          const_cast<std::byte*>(row_of(out, args_.out.row_stride * element_bytes_, position));
      const int64_t row = row_index(task, position);
      lse[row] = static_cast<float>((static_cast<double>(tile.max[e]) + std::log2(tile.sum[e])) *
                                    std::numbers::ln2);
      if (last) continue;
      partial_.max[row] = tile.max[e];
      partial_.sum[row] = tile.sum[e];
    }
    ops_.finish(tile, rows, bf16_);
    if (last || !bf16_) return;
    for (int e = 0; e < owners.count; e++) {
      if (rows[e]) rows[e] = partial_row(task, owners.positions[e]);
    }
    ops_.finish(tile, rows, false);
  }

  int64_t row_index(const TileTask& task, int64_t position) const {
    return (task.batch * args_.shape.heads + task.head) * args_.shape.q_len + position;
  }

  // Where the fp32 result of a row stands between passes.
  float* partial_row(const TileTask& task, int64_t position) const {
    if (bf16_) return partial_.out + row_index(task, position) * args_.shape.v_dim;
    const std::byte* row = row_of(head_of(args_.out, task.batch, task.head),
                                  args_.out.row_stride * element_bytes_, position);
    return reinterpret_cast<float*>(const_cast<std::byte*>(row));
  }

  const ForwardOps& ops_;
  const Context& context_;
  const Plan& plan_;
  const ForwardArgs& args_;
  bool bf16_ = false;
  int64_t element_bytes_ = 0;
  int passes_ = 0;
  size_t scratch_bytes_ = 0;
  Workspace scratch_;
  Partial partial_;
};

}  // namespace

void attention_forward(const ForwardOps& ops, const Context& context, const Plan& plan,
                       const ForwardArgs& args) {
  ForwardRun(ops, context, plan, args).run();
}

}  // namespace lace::cpu
