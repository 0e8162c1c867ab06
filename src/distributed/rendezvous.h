#pragma once

#include <chrono>
#include <exception>
#include <string>

#include <torch/csrc/distributed/c10d/Store.hpp>

#include "lace/environment.h"

namespace lace::distributed {

// The store of this run, once all ranks have come. Keys are the run's own. Throws lace::Error as
// join_group does. `environment.size` is 2 or more.
c10::intrusive_ptr<c10d::Store> rendezvous(const Environment& environment,
                                           std::chrono::milliseconds timeout);

// Under which a rank's heartbeats are counted: it is there once rendezvous() has returned.
std::string beat_key(int rank);

// Under which stands, once there is one, the failure that ends the run: "rank 3 of 4 …".
inline constexpr const char* kFailedKey = "failed";

// Puts `failure` there unless another stands there already.
void post_failure(c10d::Store& store, const std::string& failure);

// "rank 3 of 4"
std::string rank_name(int rank, int size);

// What libtorch's and Gloo's errors say, without their stack traces.
std::string first_line(const std::exception& error);

}  // namespace lace::distributed
