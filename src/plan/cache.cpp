#include <list>
#include <mutex>
#include <string>
#include <unordered_map>

#include "lace/error.h"
#include "plan/plan.h"

namespace lace {

namespace {

// The cache holds at most so many plans, and so many bytes of them: the least recently used go.
constexpr size_t kMaxPlans = 256;
constexpr int64_t kMaxBytes = int64_t{256} << 20;

void append_mask_hashes(const Expr& expr, std::string& key) {
  if (expr.op == Expr::Op::kAtom) {
    if (expr.atom.mask) key += concat('#', expr.atom.mask->content_hash);
    return;
  }
  for (const Expr& operand : expr.operands) append_mask_hashes(operand, key);
}

std::string cache_key(const Pattern& pattern, int64_t heads, int64_t q_len, int64_t k_len,
                      TileShape tile, bool transposed) {
  std::string key = pattern.to_string();
  for (const Pattern::HeadEntry& entry : pattern.entries()) append_mask_hashes(entry.expr, key);
  for (const int64_t part : {heads, q_len, k_len, int64_t{tile.owners}, int64_t{tile.others},
                             int64_t{transposed}}) {
    key += '/';
    key += std::to_string(part);
  }
  return key;
}

class PlanCache {
 public:
  std::shared_ptr<const Plan> find(const std::string& key) {
    std::lock_guard lock(mutex_);
    const auto found = index_.find(key);
    if (found == index_.end()) {
      ++stats_.misses;
      return nullptr;
    }
    ++stats_.hits;
    plans_.splice(plans_.begin(), plans_, found->second);
    return found->second->plan;
  }

  // Returns the plan that is in the cache: another thread's, if it was quicker.
  std::shared_ptr<const Plan> insert(const std::string& key, std::shared_ptr<const Plan> plan) {
    std::lock_guard lock(mutex_);
    if (const auto found = index_.find(key); found != index_.end()) return found->second->plan;
    stats_.bytes += plan->size_bytes();
    plans_.push_front({key, plan});
    index_.emplace(key, plans_.begin());
    while (plans_.size() > 1 && (plans_.size() > kMaxPlans || stats_.bytes > kMaxBytes)) {
      stats_.bytes -= plans_.back().plan->size_bytes();
      index_.erase(plans_.back().key);
      plans_.pop_back();
    }
    return plan;
  }

  PlanCacheStats stats() {
    std::lock_guard lock(mutex_);
    PlanCacheStats stats = stats_;
    stats.plans = static_cast<int64_t>(plans_.size());
    return stats;
  }

  void clear() {
    std::lock_guard lock(mutex_);
    index_.clear();
    plans_.clear();
    stats_ = {};
  }

 private:
  struct Entry {
    std::string key;
    std::shared_ptr<const Plan> plan;
  };
  std::mutex mutex_;
  std::list<Entry> plans_;  // most recently used first
  std::unordered_map<std::string, std::list<Entry>::iterator> index_;
  PlanCacheStats stats_;
};

PlanCache& cache() {
  static PlanCache instance;
  return instance;
}

}  // namespace

std::shared_ptr<const Plan> cached_plan(const Pattern& pattern, int64_t heads, int64_t q_len,
                                        int64_t k_len, TileShape tile, bool transposed) {
  const std::string key = cache_key(pattern, heads, q_len, k_len, tile, transposed);
  if (auto plan = cache().find(key)) return plan;
  // Compiled outside the lock: two threads may compile the same plan, and one of the two is kept.
  return cache().insert(key, std::make_shared<const Plan>(
                                 compile(pattern.bind(heads, q_len, k_len), tile, transposed)));
}

PlanCacheStats plan_cache_stats() { return cache().stats(); }

void clear_plan_cache() { cache().clear(); }

}  // namespace lace
