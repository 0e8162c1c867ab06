#pragma once

#include <string>

#include "lace/distributed.h"

namespace lace {

// One of several ranks, whose others give nothing.
class SilentGroup : public Group {
 public:
  SilentGroup(int rank, int size) : Group(rank, size, at::kCPU) {}
  void all_reduce_sum(const at::Tensor&) override {}
  void broadcast(const at::Tensor&, int) override {}
  void check() const override {}
  void fail(const std::string&) override {}
};

}  // namespace lace
