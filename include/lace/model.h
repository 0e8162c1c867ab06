#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "lace/error.h"
#include "lace/pattern.h"

namespace lace {

// Numbers that the matrix products and attention compute with. Parameters, their gradients and all
// reductions are float32 (float64 with kFloat64), and so is the residual stream unless ResidualType
// says otherwise.
enum class Precision { kFloat32, kBFloat16, kFloat16, kFloat64 };

// Numbers of the residual stream H and its gradient between a model's blocks.
enum class ResidualType {
  kWide,     // float32 (float64 with Precision::kFloat64)
  kCompute,  // those of Precision: half the memory and its traffic in 16 bits, as in the paper
             // (§5.6: activations and gradients in half precision), and each sum is rounded
};

// How position i of a sequence is split into the rows of its embedding tables.
enum class PositionKind {
  kText,   // 2 tables: i ÷ l and i mod l (also audio)
  kImage,  // 3 tables: row, column, channel; i = (row·width + column)·channels + channel
  // No tables: q and k are rotated by their position. Dimension d of a head and d + head_dim / 2
  // are a pair, turned by i · rotary_base^(−2d / head_dim) (arXiv 2104.09864, halves as in
  // GPT-NeoX and Llama).
  kRotary,
};

// How the angles of rotary positions follow a sequence that is `factor` times as long as the one
// that they were learned on.
enum class RotaryScaling {
  kNone,
  kLinear,  // all are divided by the factor
  // arXiv 2309.00071 §3: those of pairs that turn less than beta_slow times over the original
  // length are divided by it, those that turn more than beta_fast times stay, between the two
  // linearly in the number of turns (the authors' code: linearly in d); q and k are multiplied by
  // 0.1 ln(factor) + 1 each.
  kYarn,
};

// The standard deviation of a linear layer's weights at the start. Those of the layers that end a
// branch are then divided by √(2 · layers).
enum class LinearInit {
  kVariance,  // √(0.125 / d_in), as the authors' later code has it
  kStd,       // 0.125 / √d_in, the paper's §6 with its second argument read as a deviation
  kGpt2,      // 0.02, also of the token table, of W_out, and of all position tables together
};

std::string_view name(Precision precision);        // "fp32", "bf16", "fp16", "fp64"
std::string_view name(ResidualType type);          // "wide", "compute"
std::string_view name(PositionKind kind);          // "text", "image", "rotary"
std::string_view name(RotaryScaling scaling);      // "none", "linear", "yarn"
std::string_view name(LinearInit init);            // "variance", "std", "gpt2"
Precision parse_precision(std::string_view text);  // throws lace::Error, as the next four
ResidualType parse_residual_type(std::string_view text);
PositionKind parse_position_kind(std::string_view text);
RotaryScaling parse_rotary_scaling(std::string_view text);
LinearInit parse_linear_init(std::string_view text);

// A Sparse Transformer (arXiv 1904.10509), to the last choice. The names are a recipe's keys under
// [model]; 0 where a default is said to follow another field.
struct ModelConfig {
  int64_t vocab = 256;
  int64_t seq_len = 1024;
  int64_t layers = 6;
  int64_t d_model = 256;
  int64_t heads = 4;        // of head_dims up to 512; on a GPU up to 256
  int64_t kv_heads = 0;     // 0: heads; else a divisor of heads
  int64_t qk_dim = 0;       // width of q over all heads; 0: d_model ("half-size": d_model / 2)
  int64_t v_dim = 0;        // width of v over all query heads; 0: d_model
  int64_t ff_multiple = 4;  // feed-forward width is ff_multiple · d_model ("half-size": 2)
  // One pattern a layer, cycled over the layers: one for all, several interleaved.
  std::vector<std::string> patterns = {"fixed(64, 16, 4)"};

  PositionKind positions = PositionKind::kText;
  int64_t position_stride = 0;  // kText: l; 0: the integer nearest √seq_len from below
  int64_t image_height = 0, image_width = 0, image_channels = 0;  // kImage: product is seq_len
  double rotary_base = 10000;                                     // kRotary, as all of these
  RotaryScaling rotary_scaling = RotaryScaling::kNone;
  double rotary_factor = 1;            // of a scaling: at least 1
  int64_t rotary_original_length = 0;  // kYarn; 0: seq_len / rotary_factor, at least 1
  double rotary_beta_fast = 32, rotary_beta_slow = 1;  // kYarn

  double dropout = 0;  // on the outputs of the two branches of a block only
  LinearInit init = LinearInit::kVariance;
  // Multiply the start values' deviation: of the token and position tables, of the linear layers.
  // The paper's tables start near 0; short runs learn many times faster from larger ones.
  double embedding_gain = 1;
  double linear_gain = 1;
  bool tied = false;  // true: the token table is W_out; false: W_out starts at 0 (kGpt2: 0.02)
  double block_norm_eps = 1e-5;
  double final_norm_eps = 1e-6;
  Precision precision = Precision::kFloat32;
  ResidualType residual = ResidualType::kWide;
  bool recompute = false;      // backward recomputes each block from its input, but not attention
  bool deterministic = false;  // on a GPU: attention bitwise repeatable, slower
  uint64_t seed = 1;           // of the start values and the dropout masks

  int64_t kv_heads_or_default() const { return kv_heads ? kv_heads : heads; }
  int64_t qk_dim_or_default() const { return qk_dim ? qk_dim : d_model; }
  int64_t v_dim_or_default() const { return v_dim ? v_dim : d_model; }
  int64_t position_stride_or_default() const;
  int64_t rotary_original_length_or_default() const;
  int64_t qk_head_dim() const { return qk_dim_or_default() / heads; }
  int64_t v_head_dim() const { return v_dim_or_default() / heads; }
  // Width of the fused projection: q, then k, then v.
  int64_t qkv_width() const {
    return qk_dim_or_default() + kv_heads_or_default() * (qk_head_dim() + v_head_dim());
  }
  int64_t ff_width() const { return ff_multiple * d_model; }
  // Rows of each position table; none with kRotary.
  std::vector<int64_t> position_rows() const;

  // Throws lace::Error `[model] rule, got value` on the first field that is wrong.
  void check() const;
};

// A parameter's place in the model. Linear weights are [out, in].
struct ParameterInfo {
  std::string name;  // "tok", "pos.0", "sos", "blocks.3.qkv.weight", …, "ln_f.bias", "out.weight"
  std::vector<int64_t> shape;
  double init_std = 0;  // of its normal start values; 0: filled with init_value
  double init_value = 0;
};

// All parameters of a model in their fixed order, without allocating any.
std::vector<ParameterInfo> parameter_infos(const ModelConfig& config);
int64_t parameter_count(const ModelConfig& config);

struct NamedParameter {
  std::string name;
  at::Tensor tensor;  // a leaf that requires grad
};

// Which dropout masks a pass draws: those of (config.seed, step, micro_batch, layer, branch).
struct PassMode {
  bool training = false;  // false: no dropout
  int64_t step = 0;
  int64_t micro_batch = 0;
};

// A batch of sequences that are decoded together: what each layer's queries to come can still read
// of the keys and values so far, by its pattern (docs/decoding.md).
class DecodeState {
 public:
  virtual ~DecodeState() = default;

  virtual int64_t batch() const = 0;
  virtual int64_t symbols() const = 0;  // of each sequence so far

  // Forgets the last n symbols of all sequences. Throws lace::Error `[model] …` unless what is left
  // are at most start_decoding's `rollback` fewer than there ever were.
  virtual void rollback(int64_t n) = 0;
  // A state of its own that stands where this one does, each sequence `copies` times, side by side.
  virtual std::shared_ptr<DecodeState> fork(int64_t copies = 1) const = 0;

  // Of the keys and values that it holds now.
  virtual int64_t cache_bytes() const = 0;

 private:
  friend class SparseTransformer;
  // Of the new symbols, int64 [batch, count], checked: the next one's logits.
  virtual at::Tensor decode(const at::Tensor& tokens) = 0;
};

// H₀ = tok + Σ pos (kRotary: tok), shifted by one slot behind a learned start vector;
// a = drop(attention(LN₁(H))), b = drop(ff(LN₂(H + a))), H ← H + a + b;
// logits = LN_f(H_N) W_outᵀ. Slot i sees the symbols before i and is scored on symbol i.
//
// `tokens` are [batch, n], n <= seq_len, of uint8 or int64, each < vocab, on the parameters'
// device. Throws lace::Error before any work if they are not.
class SparseTransformer {
 public:
  // Start values are drawn from config.seed; equal for every precision up to rounding, and on every
  // device. A GPU computes in bfloat16 or float16 only.
  explicit SparseTransformer(const ModelConfig& config, at::Device device = at::kCPU);
  ~SparseTransformer();
  SparseTransformer(const SparseTransformer&) = delete;
  SparseTransformer& operator=(const SparseTransformer&) = delete;

  const ModelConfig& config() const;
  at::Device device() const;  // of the parameters

  // In the order of parameter_infos. Change them in place only, under no_grad: the copies in the
  // compute precision are made anew in the next pass when a parameter's version has changed. A
  // backward() of a loss from before the change, or a decoding begun before it, throws lace::Error
  // that names the parameter.
  const std::vector<NamedParameter>& parameters() const;

  // [batch, n, vocab], float32 (float64 with kFloat64).
  at::Tensor forward(const at::Tensor& tokens, const PassMode& mode = {}) const;

  // Mean nats a symbol over all batch · n symbols: a scalar to call backward() on.
  at::Tensor loss(const at::Tensor& tokens, const PassMode& mode = {}) const;

  // Nats of each symbol [batch, n], float32 (float64 with kFloat64), without a graph.
  at::Tensor nats(const at::Tensor& tokens) const;

  // Decoding with a key/value cache, without a graph. A new state stands before the first symbol.
  // rollback: how many symbols of a sequence it must be able to forget.
  std::shared_ptr<DecodeState> start_decoding(int64_t batch, int64_t rollback = 0) const;
  // Appends tokens [batch, count] to the sequences of `state` (count may be 0 in the first call,
  // and only there) and returns the logits of the next symbol [batch, vocab], float32 (float64 with
  // kFloat64), where the tokens are: those of a model on a GPU may be on the CPU too, which is
  // faster for who draws there. The result equals forward's for the same prefix, to rounding:
  // queries and keys stay in float32. Throws lace::Error if seq_len symbols are there already.
  at::Tensor decode(DecodeState& state, const at::Tensor& tokens) const;

  // What lace's own rooms see of a model (src/model/transformer.h).
  struct Impl;
  const std::shared_ptr<Impl>& impl() const { return impl_; }

 private:
  std::shared_ptr<Impl> impl_;
};

}  // namespace lace
