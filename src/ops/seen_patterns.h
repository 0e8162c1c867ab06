#pragma once

#include <optional>
#include <string>

#include <ATen/core/Tensor.h>

#include "lace/pattern.h"

namespace lace::ops {

// In torch.ops a pattern is a text, and forward and backward are calls of their own, with nothing
// in common but tensors, also in what torch.compile made of them. A text that names mask files may
// come to mean something else between the two: so forward's pattern is found again by the memory of
// the lse that forward returned and backward is given.

// Remembers that the forward call of `text` that returned `lse` computed `pattern`, for as long as
// that memory lives. Nothing to do for texts that name no file. Thread-safe, as the next one.
void remember_pattern(const at::Tensor& lse, const std::string& text, const Pattern& pattern);

// What was remembered for this memory and this text.
std::optional<Pattern> remembered_pattern(const at::Tensor& lse, const std::string& text);

}  // namespace lace::ops
