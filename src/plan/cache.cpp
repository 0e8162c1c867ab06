#include <list>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>

#include "plan/plan.h"

namespace lace {
namespace plan {
namespace {

// The cache holds at most so many plans, and so many bytes of them: the least recently used go.
constexpr size_t kMaxPlans = 256;
constexpr int64_t kMaxBytes = int64_t{256} << 20;

// What a plan is compiled from. Borrows the pattern: a hit makes no copy and no text.
struct Request {
  const Pattern& pattern;
  int64_t heads, q_len, k_len;
  TileShape tile;
  bool transposed;
};

void mix(uint64_t& hash, uint64_t value) {
  hash = (hash ^ value) * 0xFF51AFD7ED558CCD;
  hash ^= hash >> 32;
}

void mix(uint64_t& hash, const Expr& expr) {
  mix(hash, static_cast<uint64_t>(expr.op));
  if (expr.op == Expr::Op::kAtom) {
    mix(hash, static_cast<uint64_t>(expr.atom.kind));
    for (const int64_t arg : expr.atom.args) mix(hash, static_cast<uint64_t>(arg));
    for (const TokenRange& range : expr.atom.tokens) mix(hash, static_cast<uint64_t>(range.first));
    if (expr.atom.mask) mix(hash, expr.atom.mask->content_hash);
  }
  for (const Expr& operand : expr.operands) mix(hash, operand);
}

uint64_t hash_of(const Request& request) {
  uint64_t hash = 0x9E3779B97F4A7C15;
  for (const Pattern::HeadEntry& entry : request.pattern.entries()) {
    mix(hash, static_cast<uint64_t>(entry.count));
    mix(hash, entry.expr);
  }
  const auto [owners, others] = request.tile;
  for (const int64_t part : {request.heads, request.q_len, request.k_len, int64_t{owners},
                             int64_t{others}, int64_t{request.transposed}}) {
    mix(hash, static_cast<uint64_t>(part));
  }
  return hash;
}

bool answers(const Plan& plan, const Request& request) {
  const BoundPattern& bound = *plan.pattern;
  return plan.transposed == request.transposed && plan.tile == request.tile &&
         bound.heads() == request.heads && bound.q_len() == request.q_len &&
         bound.k_len() == request.k_len && bound.pattern() == request.pattern;
}

class PlanCache {
 public:
  // Null if it is not here.
  std::shared_ptr<const Plan> find(const Request& request, uint64_t hash) {
    const std::lock_guard lock(mutex_);
    auto plan = look_up(request, hash);
    ++(plan ? stats_.hits : stats_.misses);
    return plan;
  }

  // Returns the plan that is in the cache: another thread's, if that was quicker.
  std::shared_ptr<const Plan> insert(const Request& request, uint64_t hash,
                                     std::shared_ptr<const Plan> plan) {
    const std::lock_guard lock(mutex_);
    if (auto known = look_up(request, hash)) return known;
    plans_.push_front({hash, plan->size_bytes(), plan});
    stats_.bytes += plans_.front().bytes;
    index_.emplace(hash, plans_.begin());
    while (plans_.size() > 1 && (plans_.size() > kMaxPlans || stats_.bytes > kMaxBytes)) {
      drop_last();
    }
    return plan;
  }

  PlanCacheStats stats() {
    const std::lock_guard lock(mutex_);
    PlanCacheStats stats = stats_;
    stats.plans = static_cast<int64_t>(plans_.size());
    return stats;
  }

  void clear() {
    const std::lock_guard lock(mutex_);
    index_.clear();
    plans_.clear();
    stats_ = {};
  }

 private:
  struct Entry {
    uint64_t hash = 0;
    int64_t bytes = 0;
    std::shared_ptr<const Plan> plan;
  };
  using Plans = std::list<Entry>;

  std::shared_ptr<const Plan> look_up(const Request& request, uint64_t hash) {
    const auto [begin, end] = index_.equal_range(hash);
    for (auto it = begin; it != end; ++it) {
      if (!answers(*it->second->plan, request)) continue;
      plans_.splice(plans_.begin(), plans_, it->second);
      return it->second->plan;
    }
    return nullptr;
  }

  void drop_last() {
    const auto last = std::prev(plans_.end());
    const auto [begin, end] = index_.equal_range(last->hash);
    for (auto it = begin; it != end; ++it) {
      if (it->second != last) continue;
      index_.erase(it);
      break;
    }
    stats_.bytes -= last->bytes;
    plans_.pop_back();
  }

  std::mutex mutex_;
  Plans plans_;  // most recently used first
  std::unordered_multimap<uint64_t, Plans::iterator> index_;
  PlanCacheStats stats_;
};

PlanCache& cache() {
  static PlanCache instance;
  return instance;
}

}  // namespace
}  // namespace plan

std::shared_ptr<const Plan> cached_plan(const Pattern& pattern, int64_t heads, int64_t q_len,
                                        int64_t k_len, TileShape tile, bool transposed) {
  const plan::Request request{pattern, heads, q_len, k_len, tile, transposed};
  const uint64_t hash = plan::hash_of(request);
  if (auto known = plan::cache().find(request, hash)) return known;
  // Compiled outside the lock: two threads may compile the same plan, and one of the two is kept.
  auto compiled =
      std::make_shared<const Plan>(compile(pattern.bind(heads, q_len, k_len), tile, transposed));
  return plan::cache().insert(request, hash, std::move(compiled));
}

PlanCacheStats plan_cache_stats() { return plan::cache().stats(); }

void clear_plan_cache() { plan::cache().clear(); }

}  // namespace lace
