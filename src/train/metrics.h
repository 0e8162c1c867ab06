#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "lace/train.h"

#include "train/event_file.h"
#include "train/json_lines.h"

namespace lace::train {

// Where what the steps of a run have measured goes, step by step. All throws are lace::Error naming
// a file.
class MetricsSink {
 public:
  virtual ~MetricsSink() = default;
  virtual void add(const TrainProgress& progress) = 0;
  // So that what was added is on the disk. From any thread.
  virtual void sync() = 0;
};

// Lines of JSON (docs/json.md).
class JsonMetrics : public MetricsSink {
 public:
  // As JsonLines.
  JsonMetrics(const std::string& path, int64_t keep_up_to) : lines_(path, keep_up_to) {}
  void add(const TrainProgress& progress) override;
  void sync() override { lines_.sync(); }

 private:
  JsonLines lines_;
};

// TensorBoard's events.
class EventMetrics : public MetricsSink {
 public:
  EventMetrics(const std::string& folder, int64_t keep_up_to) : file_(folder, keep_up_to + 1) {}
  void add(const TrainProgress& progress) override;
  void sync() override {}  // the lines of JSON have all of it

 private:
  EventFile file_;
};

// All of a run's, in `folder`, after step `keep_up_to`: events begin with the first line that was
// written.
class Metrics : public MetricsSink {
 public:
  Metrics(const std::string& folder, int64_t keep_up_to);
  void add(const TrainProgress& progress) override;
  void sync() override;

 private:
  std::vector<std::unique_ptr<MetricsSink>> sinks_;
};

}  // namespace lace::train
