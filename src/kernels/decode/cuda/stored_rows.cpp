#include <unordered_map>

#include "kernels/decode/gpu_decode.h"

namespace lace {

std::vector<StoredRow> stored_rows(const std::vector<std::vector<std::vector<int64_t>>>& writes) {
  std::vector<StoredRow> rows;
  for (size_t head = 0; head < writes.size(); ++head) {
    std::unordered_map<int64_t, size_t> row_of;  // by slot
    for (size_t position = 0; position < writes[head].size(); ++position) {
      for (const int64_t slot : writes[head][position]) {
        const auto [known, fresh] = row_of.try_emplace(slot, rows.size());
        if (fresh) rows.emplace_back();
        rows[known->second] = {static_cast<int32_t>(head), static_cast<int32_t>(position),
                               static_cast<int32_t>(slot)};
      }
    }
  }
  return rows;
}

}  // namespace lace
