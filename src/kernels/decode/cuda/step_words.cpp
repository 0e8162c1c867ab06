#include "kernels/decode/cuda/step_words.h"

#include <algorithm>
#include <limits>

#include "lace/error.h"

namespace lace::cuda::decode {

namespace {

int32_t word(int64_t value) {
  LACE_CHECK(value >= -1 && value <= std::numeric_limits<int32_t>::max(),
             "[decode] slots and symbols must be below 2^31 on a GPU, got ", value);
  return static_cast<int32_t>(value);
}

// Which of the slots that `runs` name is one of `slots`, counted from 0; −1 if none is.
int64_t find_slot(const pattern::KeyRuns& runs, const std::vector<int64_t>& slots) {
  int64_t before = 0;
  for (const pattern::KeyRun& run : runs) {
    for (const int64_t slot : slots) {
      const int64_t away = slot - run.first;
      const int64_t stretch = run.count > 1 ? away / run.stride : 0;
      if (away < 0 || stretch >= run.count) continue;
      const int64_t within = away - stretch * run.stride;
      if (within < run.width) return before + stretch * run.width + within;
    }
    before += run.keys();
  }
  return -1;
}

}  // namespace

StepWords::StepWords(std::span<const int64_t> tokens, int64_t batch,
                     std::span<const LayerSlots* const> slots)
    : patterns(static_cast<int>(slots.size())) {
  for (int64_t b = 0; b < batch; ++b) {
    words.push_back(tokens.empty() ? -1 : word(tokens[static_cast<size_t>(b)]));
  }
  reads = batch;
  writes = reads;
  int64_t end = reads;
  for (const LayerSlots* layer : slots) {
    writes += kReadWords * static_cast<int64_t>(layer->reads.size());
    end += kReadWords * static_cast<int64_t>(layer->reads.size()) +
           2 * static_cast<int64_t>(layer->writes.size());
  }
  words.resize(static_cast<size_t>(end));

  const auto set = [&](int64_t& at, int64_t begin, int64_t count) {
    words[static_cast<size_t>(at++)] = word(begin);
    words[static_cast<size_t>(at++)] = word(count);
  };
  int64_t read = reads, write = writes;
  struct Known {
    const pattern::KeyRuns* runs;
    int64_t begin;
  };
  std::vector<Known> known;
  for (const LayerSlots* layer : slots) {
    for (size_t head = 0; head < layer->reads.size(); ++head) {
      const pattern::KeyRuns& runs = layer->reads[head];
      const size_t kv_head = head / (layer->reads.size() / layer->writes.size());
      int64_t begin = -1;
      for (const Known& other : known) {
        if (*other.runs == runs) begin = other.begin;
      }
      if (begin < 0) {
        begin = static_cast<int64_t>(words.size());
        known.push_back({&runs, begin});
        for (const pattern::KeyRun& run : runs) {
          for (const int64_t value : {run.first, run.width, run.count, run.stride}) {
            words.push_back(word(value));
          }
        }
      }
      most_keys = std::max(most_keys, pattern::key_count(runs));
      set(read, begin, pattern::key_count(runs));
      words[static_cast<size_t>(read++)] = word(find_slot(runs, layer->writes[kv_head]));
    }
    for (const std::vector<int64_t>& row : layer->writes) {
      set(write, static_cast<int64_t>(words.size()), static_cast<int64_t>(row.size()));
      for (const int64_t slot : row) words.push_back(word(slot));
    }
  }
}

}  // namespace lace::cuda::decode
