#pragma once

#include "kernels/problem.h"
#include "kernels/tolerances.h"

namespace lace::test {

// Fails the test unless `got` is as close to `want` as allowed, element by element and together.
void expect_close(const Forward& got, const Forward& want, const Tolerances& allowed);
void expect_close(const Backward& got, const Backward& want, const Tolerances& allowed);

}  // namespace lace::test
