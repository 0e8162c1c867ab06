#pragma once

#include <string>
#include <vector>

#include "lace/pattern.h"

namespace lace::pattern {

// How deep unions and intersections may nest.
inline constexpr int kMaxDepth = 100;

Expr atom_expr(Atom atom);

// The union or intersection of `operands`. Operands of the same operation are spliced in, so that
// `a | (b | c)` and `a | b | c` are one tree; a single operand stands for itself.
Expr combine(Expr::Op op, std::vector<Expr> operands);

int depth(const Expr& expr);
std::string to_string(const Expr& expr);

}  // namespace lace::pattern
