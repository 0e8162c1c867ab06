#pragma once

#include "kernels/elementwise/elementwise.h"

namespace lace::cpu {

void adam_norm(const Context& context, const AdamArgs& args);
void adam_step(const Context& context, const AdamArgs& args);

}  // namespace lace::cpu
