#pragma once

#include <vector>

namespace lace {

// Marks of an axis at round numbers within [low, high], about `count` of them; `low` alone where
// nothing lies between or a bound is not finite.
std::vector<double> round_ticks(double low, double high, int count);

}  // namespace lace
