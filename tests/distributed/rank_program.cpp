// One rank of tests/distributed/group_test.py: rank_program WHAT HEARTBEAT_MS RENDEZVOUS_MS DEVICE.
// Its place is in its environment. Errors are printed, and end it with code 1.

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>

#include <unistd.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "lace/distributed.h"
#include "lace/error.h"

#include "distributed/graph_loop.h"

namespace {

using namespace std::chrono_literals;

// What a rank puts in: numbers whose sum depends on the order.
at::Tensor part(int rank, int64_t count, at::ScalarType dtype) {
  at::manual_seed(static_cast<uint64_t>(rank + 1));
  return (at::randn({count}, at::kDouble) * at::pow(10.0, at::randn({count}, at::kDouble)))
      .to(dtype);
}

uint64_t hash(const at::Tensor& given) {
  const at::Tensor tensor = given.cpu();
  uint64_t value = 0xcbf29ce484222325;
  const auto* bytes = static_cast<const uint8_t*>(tensor.data_ptr());
  for (size_t i = 0; i < tensor.nbytes(); ++i) value = (value ^ bytes[i]) * 0x100000001b3;
  return value;
}

// Each rank's share of what is gathered is its own part's, and what is left over the last one's.
void gather(lace::Group& group) {
  const int last = group.size() - 1;
  for (const at::ScalarType dtype : {at::kFloat, at::kLong}) {
    for (const int64_t share : {0, 1, 1000, 70'001}) {
      for (const int64_t rest : {0, 7}) {
        const int64_t count = group.size() * share + rest;
        at::Tensor expected = part(last, count, dtype);
        for (int rank = 0; rank < last; ++rank) {
          expected.narrow(0, rank * share, share)
              .copy_(part(rank, count, dtype).narrow(0, rank * share, share));
        }
        const at::Tensor given = part(group.rank(), count, dtype).to(group.device());
        group.all_gather(given, share);
        LACE_CHECK(given.cpu().equal(expected), "wrong shares of ", share, " and ", rest);
      }
    }
  }
  try {
    group.all_gather(at::zeros({9}, at::TensorOptions(group.device())), 10);
  } catch (const lace::Error&) {
    return;
  }
  throw lace::Error("shares larger than what they are of were gathered");
}

// Prints a hash a line: the same on all ranks, and in all runs.
void sums(lace::Group& group) {
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kLong}) {
    for (const int64_t count : {1, 5, 1000, 70'001}) {
      at::Tensor sum = part(group.rank(), count, dtype).to(group.device());
      group.all_reduce_sum(sum);
      sum = sum.cpu();
      at::Tensor expected = at::zeros({count}, at::kDouble), size = expected.clone();
      for (int rank = 0; rank < group.size(); ++rank) {
        expected += part(rank, count, dtype).to(at::kDouble);
        size += part(rank, count, dtype).to(at::kDouble).abs();
      }
      // Both sums are rounded as often as there are ranks.
      const double unit = 2 * (dtype == at::kFloat ? 6e-8 : 1.2e-16);
      const at::Tensor error = (sum.to(at::kDouble) - expected).abs();
      LACE_CHECK((error <= size * unit * group.size()).all().item<bool>(), "a wrong sum");
      std::cout << hash(sum) << "\n";
    }
  }
  for (const int root : {0, group.size() - 1}) {
    const at::Tensor given = part(group.rank(), 100, at::kFloat).to(group.device());
    group.broadcast(given, root);
    LACE_CHECK(given.cpu().equal(part(root, 100, at::kFloat)), "a wrong broadcast");
  }
  gather(group);
  group.all_reduce_sum(at::zeros({0}, at::TensorOptions(group.device())));
  group.barrier();
  group.check_same("recipe", "a text");
  group.check_same("recipe", "");
  for (const char* text : {"b", "longer than a", ""}) {
    try {
      group.check_same("recipe", group.rank() == group.size() - 1 ? text : "a");
    } catch (const lace::Error& error) {
      std::cout << error.what() << "\n";
    }
  }
}

// Collectives without end.
[[noreturn]] void loop(lace::Group& group) {
  const at::Tensor one = at::ones({1000}, at::TensorOptions(group.device()));
  for (int i = 0;; ++i) {
    group.all_reduce_sum(one.fill_(1));
    one.cpu();  // waits for it
    group.check();
    if (i == 0) std::cout << "ready" << std::endl;
    std::this_thread::sleep_for(5ms);
  }
}

void run(const std::string& what, lace::Group& group) {
  if (what == "sums") return sums(group);
  if (what == "loop") loop(group);
  if (what == "graph") lace::graph_loop(group);
  if (what == "leave") return group.barrier();
  group.barrier();
  std::cout << "ready" << std::endl;
  if (what == "throw" && group.rank() == 1) throw lace::Error("[train] the norm is nan");
  if (what == "throw") loop(group);
  if (what == "compute" && group.rank() == 1) loop(group);
  std::this_thread::sleep_for(1h);  // "compute": a rank that does not look at the group
}

}  // namespace

int main(int /*count*/, char** arguments) {
  const std::string what = arguments[1];
  at::set_num_threads(1);
  try {
    const lace::GroupOptions options = {
        .rendezvous = std::chrono::milliseconds(std::atoi(arguments[3])),
        .heartbeat = std::chrono::milliseconds(std::atoi(arguments[2])),
        .on_stuck = [](const std::string& failure) {
          std::cout << "stuck: " << failure << std::endl;
          _exit(3);
        }};
    const lace::Environment environment = lace::find_environment();
    const auto group =
        lace::join_group(environment, lace::find_rank_device(arguments[4], environment), options);
    try {
      run(what, *group);
    } catch (const std::exception& error) {
      group->fail(error.what());
      throw;
    }
  } catch (const lace::Error& error) {
    std::cout << error.what() << std::endl;
    return 1;
  }
}
