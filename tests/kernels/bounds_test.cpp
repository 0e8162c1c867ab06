// Kernels touch no byte outside their tensors: each lies at the end, or at the begin, of pages that
// are surrounded by others which may not be touched.
#include <cstring>
#include <map>

#include <unistd.h>

#include <gtest/gtest.h>
#include <sys/mman.h>

#include "lace/error.h"

#include "kernels/problem.h"

namespace lace::test {
namespace {

class GuardedMachine final : public Machine {
 public:
  explicit GuardedMachine(bool at_end) : at_end_(at_end) {}
  ~GuardedMachine() override { clear(); }

  Context context(const Executor& executor) override { return host_machine().context(executor); }

  Tensor4 enter(const Tensor& tensor) override {
    std::vector<std::byte>& buffer = tensor.buffer();
    Pages& pages = entered_[&buffer];
    if (!pages.begin) pages = copy(buffer);
    Tensor4 view = tensor.view();
    view.data = pages.data + (static_cast<std::byte*>(view.data) - buffer.data());
    return view;
  }

  void leave() override {
    for (auto& [buffer, pages] : entered_) {
      std::memcpy(buffer->data(), pages.data, buffer->size());
    }
    clear();
  }

 private:
  struct Pages {
    std::byte* begin = nullptr;
    size_t bytes = 0;
    std::byte* data = nullptr;
  };

  Pages copy(const std::vector<std::byte>& buffer) const {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t inside = (buffer.size() + page - 1) / page * page;
    Pages pages;
    pages.bytes = inside + 2 * page;
    void* memory = mmap(nullptr, pages.bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    LACE_CHECK(memory != MAP_FAILED, "[test] mmap of ", pages.bytes, " bytes failed");
    pages.begin = static_cast<std::byte*>(memory);
    LACE_CHECK(mprotect(pages.begin + page, inside, PROT_READ | PROT_WRITE) == 0,
               "[test] mprotect failed");
    pages.data = pages.begin + page + (at_end_ ? inside - buffer.size() : 0);
    std::memcpy(pages.data, buffer.data(), buffer.size());
    return pages;
  }
  void clear() {
    for (auto& [buffer, pages] : entered_) munmap(pages.begin, pages.bytes);
    entered_.clear();
  }

  bool at_end_;
  std::map<std::vector<std::byte>*, Pages> entered_;
};

TEST(Bounds, NothingOutsideTheTensorsIsTouched) {
  const SerialExecutor executor(1);
  const std::pair<int64_t, int64_t> all_dims[] = {{1, 1},   {2, 3},   {7, 5},     {12, 12},
                                                  {33, 34}, {36, 36}, {100, 100}, {264, 264}};
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    for (const auto& [qk_dim, v_dim] : all_dims) {
      const Case shape{.pattern = "local(9) | strided(9)",
                       .dtype = dtype,
                       .heads = 2,
                       .kv_heads = 1,
                       .q_len = 65,
                       .k_len = 67,
                       .qk_dim = qk_dim,
                       .v_dim = v_dim};
      const Problem problem(shape, 41);
      for (const Kernel& kernel : kernels()) {
        if (kernel.device != Device::kCpu || !kernel.unavailable().empty()) continue;
        SCOPED_TRACE(concat(kernel.name, " ", shape.name()));
        ASSERT_EQ(kernel.unsupported(problem.shape()), "");
        const Forward forward = problem.forward(kernel, executor);
        const Backward backward = problem.backward(kernel, executor, forward);
        for (const bool at_end : {true, false}) {
          GuardedMachine machine(at_end);
          const Forward got = problem.forward(kernel, executor, machine);
          EXPECT_EQ(got.out, forward.out);
          EXPECT_EQ(got.lse, forward.lse);
          const Backward gradients = problem.backward(kernel, executor, forward, machine);
          EXPECT_EQ(gradients.dq, backward.dq);
          EXPECT_EQ(gradients.dk, backward.dk);
          EXPECT_EQ(gradients.dv, backward.dv);
        }
      }
    }
  }
}

}  // namespace
}  // namespace lace::test
