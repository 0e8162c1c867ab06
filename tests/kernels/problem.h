#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cases.h"
#include "kernels/host.h"
#include "kernels/kernel.h"

namespace lace::test {

// A tensor [batch, heads, rows, dim] somewhere in a buffer, poisoned until set.
class Tensor {
 public:
  Tensor() = default;
  // Offset and strides in elements. The buffer may be shared between tensors.
  Tensor(DType dtype, std::vector<int64_t> sizes, std::shared_ptr<std::vector<std::byte>> buffer,
         int64_t offset, Tensor4 strides);

  double get(int64_t batch, int64_t head, int64_t row, int64_t d) const;
  void set(int64_t batch, int64_t head, int64_t row, int64_t d, double value);
  const Tensor4& view() const { return view_; }
  std::vector<std::byte>& buffer() const { return *buffer_; }
  int64_t size(int axis) const { return sizes_[static_cast<size_t>(axis)]; }

  // All elements in order.
  std::vector<double> values() const;

 private:
  std::byte* at(int64_t batch, int64_t head, int64_t row, int64_t d) const;
  DType dtype_ = DType::kFloat32;
  std::vector<int64_t> sizes_;
  std::shared_ptr<std::vector<std::byte>> buffer_;
  Tensor4 view_;
};

// What attention gives, as float64. Poison that was left shows as NaN.
struct Forward {
  std::vector<double> out, lse;
};
struct Backward {
  std::vector<double> dq, dk, dv;
};

// Where kernels run: how they see what lies in a tensor's buffer.
class Machine {
 public:
  virtual ~Machine() = default;
  // A Context whose workspace is poisoned.
  virtual Context context(const Executor& executor) = 0;
  // The tensor as the kernel takes it, with the content that its buffer has at the first call.
  virtual Tensor4 enter(const Tensor& tensor) = 0;
  // Waits for the kernel and brings the content back.
  virtual void leave() = 0;
};
// This process' own memory.
Machine& host_machine();

// A case with its plans and with inputs drawn from a seed.
class Problem {
 public:
  Problem(const Case& shape, uint64_t seed);
  Problem(const Case& shape, uint64_t seed, const KernelTiles& tiles);

  AttentionShape shape() const;
  double scale() const;
  // The largest |logit| over all pairs, dead ones too.
  double max_logit() const { return max_logit_; }

  Forward forward(const Kernel& kernel, const Executor& executor,
                  Machine& machine = host_machine()) const;
  // With out and lse of `saved` (rounded to their dtypes) as the forward pass's.
  Backward backward(const Kernel& kernel, const Executor& executor, const Forward& saved,
                    Machine& machine = host_machine()) const;

  Tensor& q() { return q_; }
  Tensor& k() { return k_; }
  Tensor& v() { return v_; }
  Tensor& dout() { return dout_; }
  Tensor& dlse() { return dlse_; }

 private:
  // Tensors like q, k and v, poisoned; `inputs` may overlap themselves.
  struct Three {
    Tensor q, k, v;
  };
  Three make_qkv(bool inputs) const;
  Tensor make_out(bool input) const;
  Tensor make(int64_t heads, int64_t rows, int64_t dim, bool input) const;
  void fill(Tensor& tensor, uint64_t seed, double magnitude) const;
  int64_t tensors() const { return case_.packed ? 1 : case_.batch; }
  Tensor4 enter(Machine& machine, const Tensor& tensor) const;
  const Sequence* enter_sequences(Machine& machine) const;
  std::shared_ptr<const BlockMask> draw_blocks(uint64_t seed);
  bool has_whole_plan(const Kernel& kernel) const;
  AttentionShape shape_for(const Kernel& kernel) const;
  LiveBlocks enter_blocks(const Kernel& kernel, Machine& machine) const;
  // Poisons the rows of an input that are of no sequence.
  void poison_padding(Tensor& tensor, bool of_keys) const;

  Case case_;
  // Of the pattern; and with a mask of blocks as kernels take it that are given no blocks.
  Plan plan_, transposed_, whole_plan_, whole_transposed_;
  Tensor q_, k_, v_, dout_, dlse_;
  Tensor sequences_;  // their bytes
  Tensor live_;       // likewise
  int64_t blocks_ = 0;
  double max_logit_ = 0;
};

// Runs the bodies of all threads one after the other on the caller's.
class SerialExecutor final : public Executor {
 public:
  explicit SerialExecutor(int num_threads) : num_threads_(num_threads) {}
  int num_threads() const override { return num_threads_; }
  void run(FunctionRef<void(int thread)> body) const override {
    for (int thread = 0; thread < num_threads_; ++thread) body(thread);
  }

 private:
  int num_threads_;
};

}  // namespace lace::test
