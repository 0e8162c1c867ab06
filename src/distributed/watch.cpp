#include "distributed/watch.h"

#include <charconv>
#include <condition_variable>
#include <mutex>

#include "lace/error.h"

#include "core/safe_text.h"
#include "distributed/liveness.h"

namespace lace::distributed {
namespace {

constexpr int kPatience = 8;  // heartbeats: for a rank that has not noticed a failure
constexpr int kFarewell = 5;  // heartbeats: for what ends the watch
constexpr int kTicks = 4;     // of the judge in a heartbeat
constexpr const char* kLeft = "left";

std::vector<std::string> beat_keys(int size) {
  std::vector<std::string> keys;
  for (int rank = 0; rank < size; ++rank) keys.push_back(beat_key(rank));
  return keys;
}

// The heartbeats that a rank has counted; nothing if it has left.
std::optional<int64_t> count_of(const std::vector<uint8_t>& value) {
  const auto* text = reinterpret_cast<const char*>(value.data());
  int64_t count = 0;
  if (std::from_chars(text, text + value.size(), count).ec != std::errc()) return std::nullopt;
  return count;
}

}  // namespace

struct Watch::State {
  const c10::intrusive_ptr<c10d::Store> store;  // a connection of its own, of the beats alone
  const Environment environment;
  const GroupOptions options;
  const std::function<void()> on_failure;

  std::mutex mutex;  // of all below
  std::condition_variable changed;
  std::string failure;           // "rank 3 of 4 …"; "": none that is known
  std::string reason;            // of this rank's own failure, to be told; "": none
  bool told = false;             // it has been
  bool lost = false;             // an exchange has failed
  mutable bool noticed = false;  // this rank has seen the failure, or is one
  bool leaving = false;
  bool beats_end = false;  // the thread has ended
  int64_t looks = 0;       // at the store

  State(c10::intrusive_ptr<c10d::Store> s, const Environment& e, const GroupOptions& o,
        std::function<void()> f)
      : store(std::move(s)), environment(e), options(o), on_failure(std::move(f)) {}

  std::string name(int rank) const { return rank_name(rank, environment.size); }

  // The time of so many heartbeats.
  std::string time_of(int heartbeats) const {
    return concat(static_cast<double>((heartbeats * options.heartbeat).count()) / 1000, " s");
  }

  // Who holds the store.
  std::string server() const {
    const std::string where = concat(printable(environment.address), ":", environment.port);
    if (environment.launcher_serves) return environment.launcher + "'s store at " + where;
    return name(0) + ", which serves the store at " + where + ",";
  }

  void learn(const std::string& text) {
    const std::lock_guard lock(mutex);
    if (failure.empty() && !leaving) failure = text;
    changed.notify_all();
  }

  void look(Liveness& liveness, const std::vector<std::string>& keys) {
    std::string own;
    int missed = Liveness::kMissed;
    {
      const std::lock_guard lock(mutex);
      own = reason;
      if (lost) missed = Liveness::kMissedIfLost;
    }
    if (!own.empty()) post_failure(*store, name(environment.rank) + " ended with an error: " + own);
    std::vector<std::optional<int64_t>> counts;
    for (const auto& value : store->multiGet(keys)) counts.push_back(count_of(value));
    if (const std::optional<int> dead = liveness.look(counts, missed)) {
      post_failure(*store, concat(name(*dead), " has not been heard of for ", time_of(missed),
                                  ": it was killed or stopped, or its host has gone"));
    }
    std::string found;
    if (store->check({kFailedKey})) found = store->get_to_str(kFailedKey);
    if (!found.empty()) learn(found);
    const std::lock_guard lock(mutex);
    ++looks;
    if (!own.empty()) told = true;
    changed.notify_all();
  }

  // Until this rank leaves: a heartbeat, a look at the others.
  void beat() {
    const std::vector<std::string> keys = beat_keys(environment.size);
    Liveness liveness(environment.size);
    try {
      for (bool last = false; !last;) {
        store->add(beat_key(environment.rank), 1);
        look(liveness, keys);
        std::unique_lock lock(mutex);
        changed.wait_for(lock, options.heartbeat,
                         [&] { return leaving || (!reason.empty() && !told); });
        last = leaving && (reason.empty() || told);
      }
      leave(keys);
    } catch (const std::exception& error) {
      learn(server() + " has gone: " + first_line(error));
    }
    const std::lock_guard lock(mutex);
    beats_end = true;
    changed.notify_all();
  }

  void leave(const std::vector<std::string>& keys) {
    store->set(beat_key(environment.rank), kLeft);
    if (!environment.serves_store()) return;
    for (int i = 0; i < kFarewell * kTicks; ++i) {
      bool all = true;
      for (const auto& value : store->multiGet(keys)) all = all && !count_of(value);
      if (all) return;
      std::this_thread::sleep_for(options.heartbeat / kTicks);
    }
  }

  // Sees to it that a failure is acted on, and that a store that does not answer is one.
  void judge() {
    int64_t seen = 0;
    int still = 0, known = 0;
    std::unique_lock lock(mutex);
    while (!leaving) {
      changed.wait_for(lock, options.heartbeat / kTicks, [&] { return leaving; });
      still = looks == seen ? still + 1 : 0;
      seen = looks;
      if (failure.empty() && still > (Liveness::kMissed + 1) * kTicks) {
        failure = concat(server(), " has not answered for ", time_of(Liveness::kMissed));
        changed.notify_all();
      }
      if (failure.empty() || leaving) continue;
      if (known++ == 0 && on_failure) on_failure();
      if (known == kPatience * kTicks && !noticed && options.on_stuck) {
        const std::string text = "[distributed] " + failure;
        lock.unlock();
        options.on_stuck(text);
        lock.lock();
      }
    }
  }

  [[noreturn]] void raise() const {
    noticed = true;
    throw Error("[distributed] " + failure);
  }
};

Watch::Watch(const c10::intrusive_ptr<c10d::Store>& store, const Environment& environment,
             const GroupOptions& options, std::function<void()> on_failure)
    : store_(store),
      state_(std::make_shared<State>(store->clone(), environment, options, std::move(on_failure))) {
  beats_ = std::thread([state = state_] { state->beat(); });
  judge_ = std::thread([state = state_] { state->judge(); });
}

Watch::~Watch() {
  bool ended = false;
  {
    std::unique_lock lock(state_->mutex);
    state_->leaving = true;
    state_->changed.notify_all();
    const int heartbeats = state_->environment.serves_store() ? kFarewell + 3 : 3;
    ended = state_->changed.wait_for(lock, heartbeats * state_->options.heartbeat,
                                     [&] { return state_->beats_end; });
  }
  judge_.join();
  // A store that is stopped holds the thread: it ends with the process.
  ended ? beats_.join() : beats_.detach();
}

void Watch::check() const {
  const std::lock_guard lock(state_->mutex);
  if (!state_->failure.empty()) state_->raise();
}

bool Watch::failed() const {
  const std::lock_guard lock(state_->mutex);
  return !state_->failure.empty();
}

void Watch::fail(const std::string& reason) {
  std::unique_lock lock(state_->mutex);
  state_->noticed = true;
  if (!state_->failure.empty()) return;  // all know of one already
  state_->reason = reason;
  state_->changed.notify_all();
  state_->changed.wait_for(lock, kFarewell * state_->options.heartbeat,
                           [&] { return state_->told || state_->beats_end; });
}

void Watch::explain(const std::string& error) const {
  std::unique_lock lock(state_->mutex);
  state_->lost = true;
  // The judge sees to it that looks go on.
  const int64_t enough = state_->looks + Liveness::kMissedIfLost + kFarewell;
  state_->changed.wait(lock, [&] { return !state_->failure.empty() || state_->looks >= enough; });
  if (!state_->failure.empty()) state_->raise();
  throw Error("[distributed] an exchange with the other ranks failed: " + error);
}

}  // namespace lace::distributed
