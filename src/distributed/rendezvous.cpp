#include "distributed/rendezvous.h"

#include <thread>
#include <vector>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "lace/error.h"

#include "core/safe_text.h"

namespace lace::distributed {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kPause{50};  // between looks at who has come

std::string here_key(int rank) { return concat("here/", rank); }

std::string seconds_text(std::chrono::milliseconds time) {
  return concat(static_cast<double>(time.count()) / 1000, " s");
}

std::string place(const Environment& e) { return concat(printable(e.address), ":", e.port); }

c10::intrusive_ptr<c10d::Store> open_store(const Environment& e,
                                           std::chrono::milliseconds timeout) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(e.port);
  options.isServer = e.serves_store();
  options.waitWorkers = false;
  options.timeout = timeout;
  try {
    return c10::make_intrusive<c10d::PrefixStore>(
        "lace/" + e.run, c10::make_intrusive<c10d::TCPStore>(e.address, options));
  } catch (const std::exception& error) {
    if (e.serves_store())
      throw Error(concat("[distributed] ", rank_name(e.rank, e.size), " cannot serve the store at ",
                         place(e), " (MASTER_ADDR, MASTER_PORT): ", first_line(error)));
    throw Error(concat("[distributed] ", rank_name(e.rank, e.size), " has not found the store at ",
                       place(e), " (MASTER_ADDR, MASTER_PORT) within ", seconds_text(timeout), ": ",
                       first_line(error)));
  }
}

// Throws, and makes the other ranks throw.
[[noreturn]] void fail(c10d::Store& store, const std::string& failure) {
  post_failure(store, failure);
  throw Error("[distributed] " + failure);
}

// Waits until all ranks have written that they are here.
void wait_for_all(c10d::Store& store, const Environment& e, std::chrono::milliseconds timeout) {
  std::vector<std::string> keys;
  for (int rank = 0; rank < e.size; ++rank) keys.push_back(here_key(rank));
  const auto start = Clock::now();
  while (!store.check(keys)) {
    if (store.check({kFailedKey})) throw Error("[distributed] " + store.get_to_str(kFailedKey));
    if (Clock::now() - start < timeout) {
      std::this_thread::sleep_for(kPause);
      continue;
    }
    std::string missing;
    for (int rank = 0; rank < e.size; ++rank) {
      if (!store.check({here_key(rank)})) missing += concat(missing.empty() ? "" : ", ", rank);
    }
    fail(store, concat("rank ", missing, " of ", e.size, " has not come to the store at ", place(e),
                       " within ", seconds_text(timeout)));
  }
}

}  // namespace

std::string beat_key(int rank) { return concat("beat/", rank); }

std::string rank_name(int rank, int size) { return concat("rank ", rank, " of ", size); }

std::string first_line(const std::exception& error) {
  const auto* libtorch = dynamic_cast<const c10::Error*>(&error);
  const std::string text = libtorch ? libtorch->what_without_backtrace() : error.what();
  return printable(text.substr(0, text.find('\n')));
}

void post_failure(c10d::Store& store, const std::string& failure) {
  store.compareSet(kFailedKey, std::string(), failure);
}

c10::intrusive_ptr<c10d::Store> rendezvous(const Environment& e,
                                           std::chrono::milliseconds timeout) {
  auto store = open_store(e, timeout);
  try {
    if (store->add(concat("claim/", e.rank), 1) > 1)
      fail(*store, rank_name(e.rank, e.size) + " is there twice: two processes have its number");
    store->add(beat_key(e.rank), 1);
    store->set(here_key(e.rank), std::to_string(e.size));
    wait_for_all(*store, e, timeout);
    for (int rank = 0; rank < e.size; ++rank) {
      const std::string size = store->get_to_str(here_key(rank));
      if (size != std::to_string(e.size))
        fail(*store, concat("rank ", e.rank, " was started as one of ", e.size, " ranks, rank ",
                            rank, " as one of ", printable(size)));
    }
  } catch (const Error&) {
    // The others have to read of it before the store ends with its server.
    if (e.serves_store()) std::this_thread::sleep_for(20 * kPause);
    throw;
  } catch (const std::exception& error) {
    throw Error(concat("[distributed] the store at ", place(e), " has gone: ", first_line(error)));
  }
  return store;
}

}  // namespace lace::distributed
