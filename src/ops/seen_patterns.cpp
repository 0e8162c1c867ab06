#include "ops/seen_patterns.h"

#include <algorithm>
#include <mutex>
#include <unordered_map>

#include <c10/core/StorageImpl.h>
#include <c10/util/intrusive_ptr.h>

namespace lace::ops {

namespace {

using Storage = c10::weak_intrusive_ptr<c10::StorageImpl>;

struct Seen {
  Storage storage;  // keeps the address from being used again
  std::string text;
  Pattern pattern;
};

class SeenPatterns {
 public:
  void remember(const at::Tensor& lse, const std::string& text, const Pattern& pattern) {
    const std::lock_guard lock(mutex_);
    if (seen_.size() >= sweep_at_) {
      std::erase_if(seen_, [](const auto& entry) { return entry.second.storage.expired(); });
      sweep_at_ = std::max<size_t>(64, 2 * seen_.size());
    }
    c10::StorageImpl* storage = lse.storage().unsafeGetStorageImpl();
    seen_.insert_or_assign(storage,
                           Seen{Storage(lse.storage().getWeakStorageImpl()), text, pattern});
  }

  std::optional<Pattern> find(const at::Tensor& lse, const std::string& text) {
    const std::lock_guard lock(mutex_);
    const auto found = seen_.find(lse.storage().unsafeGetStorageImpl());
    if (found == seen_.end() || found->second.text != text) return std::nullopt;
    return found->second.pattern;
  }

 private:
  std::mutex mutex_;
  std::unordered_map<const c10::StorageImpl*, Seen> seen_;
  size_t sweep_at_ = 64;
};

SeenPatterns& seen_patterns() {
  static SeenPatterns patterns;
  return patterns;
}

bool names_files(const at::Tensor& lse, const std::string& text) {
  return text.find("mask") != std::string::npos && lse.has_storage();
}

}  // namespace

void remember_pattern(const at::Tensor& lse, const std::string& text, const Pattern& pattern) {
  if (names_files(lse, text)) seen_patterns().remember(lse, text, pattern);
}

std::optional<Pattern> remembered_pattern(const at::Tensor& lse, const std::string& text) {
  return names_files(lse, text) ? seen_patterns().find(lse, text) : std::nullopt;
}

}  // namespace lace::ops
