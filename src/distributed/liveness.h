#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace lace::distributed {

// Tells from the heartbeats that the ranks have counted which of them have stopped. Time is counted
// in looks at them, so that a process that was stopped itself, and goes on, blames nobody for that.
class Liveness {
 public:
  // Looks without a new heartbeat after which a rank is dead; if connections were lost meanwhile.
  static constexpr int kMissed = 15, kMissedIfLost = 8;

  explicit Liveness(int size) : last_(static_cast<size_t>(size)) {}

  // One look: each rank's count; nothing of a rank that has left. Which rank is dead after `missed`
  // looks: the one that has been for longest.
  std::optional<int> look(const std::vector<std::optional<int64_t>>& counts, int missed = kMissed) {
    std::optional<int> dead;
    for (size_t rank = 0; rank < last_.size(); ++rank) {
      Last& last = last_[rank];
      last.missed = counts[rank] && counts[rank] == last.count ? last.missed + 1 : 0;
      last.count = counts[rank];
      if (last.missed < missed) continue;
      missed = last.missed + 1;
      dead = static_cast<int>(rank);
    }
    return dead;
  }

 private:
  struct Last {
    std::optional<int64_t> count;
    int missed = 0;
  };
  std::vector<Last> last_;
};

}  // namespace lace::distributed
