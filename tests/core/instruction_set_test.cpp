#include "core/instruction_set.h"

#include <cstdlib>
#include <string>

#include <gtest/gtest.h>

namespace lace {
namespace {

[[gnu::always_inline]] inline float body(const float* x, int count) {
  float sum = 0;
  for (int i = 0; i < count; ++i) sum += x[i];
  return sum;
}

class Forced {
 public:
  explicit Forced(const char* kernel) : before_(value()) { ::setenv("LACE_KERNEL", kernel, 1); }
  ~Forced() { ::setenv("LACE_KERNEL", before_.c_str(), 1); }

 private:
  static std::string value() {
    const char* value = std::getenv("LACE_KERNEL");
    return value ? value : "";
  }
  std::string before_;
};

TEST(InstructionSet, IsThatOfTheKernelThatIsNamed) {
  const InstructionSet best = [] {
    const Forced none("");
    return instruction_set();
  }();
  EXPECT_TRUE(lacks(best).empty());
  const auto of = [](const char* kernel) {
    const Forced forced(kernel);
    return instruction_set();
  };
  EXPECT_EQ(of("cpu_portable"), InstructionSet::kPortable);
  EXPECT_EQ(of("reference"), InstructionSet::kPortable);
  EXPECT_EQ(of("cpu_avx2"), std::min(best, InstructionSet::kAvx2));
  EXPECT_EQ(of("cpu_avx512"), best);
  EXPECT_EQ(of("cpu_avx512_bf16"), best);
  EXPECT_EQ(of("cuda_sm90"), best);
}

TEST(InstructionSet, EveryOneComputesTheSame) {
  float x[37];
  for (int i = 0; i < 37; ++i) x[i] = static_cast<float>(i);
  for (const char* kernel : {"", "cpu_portable", "cpu_avx2", "cpu_avx512"}) {
    const Forced forced(kernel);
    EXPECT_EQ(run_with_best<body>(static_cast<const float*>(x), 37), 666.0f) << kernel;
  }
}

}  // namespace
}  // namespace lace
