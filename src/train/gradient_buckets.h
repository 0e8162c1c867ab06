#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "distributed/shares.h"

namespace lace::train {

// Which elements of an arena of gradients are exchanged when, while a backward pass goes from the
// last layer to the first: those of some layers at a time, at least `bucket` elements, as soon as
// the layers are done. Every element once.
class GradientBuckets {
 public:
  // layers: the ranges of each layer's tensors, apart from those of all others. elements: of the
  // arena. What no layer has is exchanged at the end.
  GradientBuckets(const std::vector<std::vector<distributed::Range>>& layers, int64_t elements,
                  int64_t bucket);

  // What to exchange when `layer` is done: perhaps nothing.
  const std::vector<distributed::Range>& after(int64_t layer) const {
    return after_[static_cast<size_t>(layer)];
  }
  // And when all is done.
  const std::vector<distributed::Range>& rest() const { return rest_; }

 private:
  std::vector<std::vector<distributed::Range>> after_;
  std::vector<distributed::Range> rest_;
};

}  // namespace lace::train
