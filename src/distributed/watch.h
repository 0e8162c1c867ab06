#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "lace/distributed.h"

#include "distributed/rendezvous.h"

namespace lace::distributed {

// A rank's watch over the others: counts its heartbeats in the store, looks at theirs, and learns
// of failures, on threads of its own. All functions but the constructor may be called from any
// thread; none waits for the store.
class Watch {
 public:
  // `on_failure` is called once, from another thread, when a failure is known. It must not wait,
  // nor call the watch.
  Watch(const c10::intrusive_ptr<c10d::Store>& store, const Environment& environment,
        const GroupOptions& options, std::function<void()> on_failure = {});
  // Tells the others that this rank has left. Who serves the store waits a few heartbeats for them.
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  // Throws lace::Error if a rank has failed.
  void check() const;

  bool failed() const;

  // Tells the others that this rank ends with an error; returns when that is done, or after a few
  // heartbeats.
  void fail(const std::string& reason);

  // An exchange failed with `error`: throws lace::Error with the failure behind it, for which it
  // waits as long as it takes to find a rank that has died.
  [[noreturn]] void explain(const std::string& error) const;

 private:
  struct State;
  const c10::intrusive_ptr<c10d::Store> store_;  // which this process may serve
  const std::shared_ptr<State> state_;  // shared with a thread that a stopped store may hold
  std::thread beats_, judge_;
};

}  // namespace lace::distributed
