#include "kernels/cuda/emulation/emulation.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <numeric>

namespace lace::emulation {

namespace {

const std::function<void()>* body = nullptr;

void run_fiber() {
  (*body)();
  current->done = true;
  yield();
}

constexpr size_t kStackBytes = 1 << 16;

void perform(std::vector<Copies::Copy>& copies) {
  for (const Copies::Copy& copy : copies) std::memcpy(copy.to, copy.from, copy.bytes);
  copies.clear();
}

}  // namespace

// Some are done at once, others when they are waited for.
void Copies::begin(void* to, const void* from, size_t bytes) {
  if (random() % 2 == 0) {
    std::memcpy(to, from, bytes);
  } else {
    groups.back().push_back({to, from, bytes});
  }
}

void Copies::wait(size_t left) {
  while (groups.size() > left + 1) {
    perform(groups.front());
    groups.erase(groups.begin());
  }
}

bool launch(int blocks, int threads, size_t shared_bytes, uint32_t seed,
            const std::function<void()>& kernel, int most_rounds) {
  body = &kernel;
  grid = dim3(static_cast<unsigned>(blocks));
  std::vector<Block> all(static_cast<size_t>(blocks));
  std::vector<std::unique_ptr<std::byte, void (*)(void*)>> shared;
  std::vector<Fiber> fibers(static_cast<size_t>(blocks * threads));
  for (size_t b = 0; b < all.size(); ++b) {
    all[b].index = {static_cast<unsigned>(b), 0, 0};
    all[b].barrier.size = threads;
    all[b].warps.resize(static_cast<size_t>(threads) / 32);
    for (Warp& warp : all[b].warps) warp.barrier.size = 32;
    shared.emplace_back(static_cast<std::byte*>(std::aligned_alloc(16, shared_bytes)), std::free);
    all[b].shared = shared.back().get();
    std::memset(all[b].shared, 0xff, shared_bytes);
    for (int t = 0; t < threads; ++t) {
      Fiber& fiber = fibers[b * static_cast<size_t>(threads) + static_cast<size_t>(t)];
      fiber.thread = {static_cast<unsigned>(t), 0, 0};
      fiber.block = &all[b];
      fiber.stack = std::make_unique_for_overwrite<char[]>(kStackBytes);
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = kStackBytes;
      fiber.context.uc_link = nullptr;
      makecontext(&fiber.context, run_fiber, 0);
    }
  }
  random.seed(seed);
  std::vector<size_t> order(fibers.size());
  std::iota(order.begin(), order.end(), size_t{0});
  for (int round = 0; !order.empty(); ++round) {
    std::shuffle(order.begin(), order.end(), random);
    bool ran = false;
    for (const size_t i : order) {
      Fiber& fiber = fibers[i];
      if (fiber.waits != nullptr && fiber.waits->generation == fiber.generation) continue;
      fiber.waits = nullptr;
      current = &fiber;
      swapcontext(&scheduler, &fiber.context);
      ran = true;
    }
    if (!ran || round == most_rounds) return false;
    std::erase_if(order, [&](size_t i) { return fibers[i].done; });
  }
  return true;
}

}  // namespace lace::emulation
