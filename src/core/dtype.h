#pragma once

#include <cstdint>
#include <string_view>

namespace lace {

enum class DType { kFloat64, kFloat32, kBFloat16, kFloat16 };

constexpr int64_t size_bytes(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

// "float64", "float32", "bfloat16", "float16"
std::string_view name(DType dtype);

}  // namespace lace
