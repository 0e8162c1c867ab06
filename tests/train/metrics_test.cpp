#include "train/metrics.h"

#include <limits>

#include <nlohmann/json.hpp>

#include "train/file_size_limit.h"
#include "train/folder_test.h"

namespace lace::train {
namespace {

namespace fs = std::filesystem;

class MetricsTest : public FolderTest {
 protected:
  std::string file() const { return path("metrics.jsonl"); }
  static TrainProgress progress(int64_t step) {
    TrainProgress p;
    p.step = step;
    p.loss = 0.5;
    return p;
  }
  std::vector<int64_t> steps() const {
    std::vector<int64_t> found;
    std::istringstream lines(file_text(file()));
    for (std::string line; std::getline(lines, line);)
      found.push_back(nlohmann::json::parse(line).at("step").get<int64_t>());
    return found;
  }
};

TEST_F(MetricsTest, GoesOnAfterTheCheckpoint) {
  {
    JsonMetrics metrics(file(), 0);
    for (int64_t step = 1; step <= 5; ++step) metrics.add(progress(step));
  }
  // What crashes and hands leave: no JSON, no object, no step, half a line.
  std::ofstream(file(), std::ios::app)
      << "[1]\nnull\n7\n{}\n{\"step\":null}\n{\"step\":\"1\"}\n{\"step\":-1}\n\n{\"step\":1";
  {
    JsonMetrics metrics(file(), 3);
    EXPECT_EQ(steps(), (std::vector<int64_t>{1, 2, 3}));
    metrics.add(progress(4));
    metrics.sync();
  }
  EXPECT_EQ(steps(), (std::vector<int64_t>{1, 2, 3, 4}));
  JsonMetrics(file(), 0);
  EXPECT_EQ(file_text(file()), "");
}

TEST_F(MetricsTest, WhatIsNotFiniteIsNull) {
  TrainProgress p = progress(1);
  p.loss = std::numeric_limits<double>::quiet_NaN();
  p.validation_bits_per_byte = std::numeric_limits<double>::infinity();
  JsonMetrics(file(), 0).add(p);
  const auto line = nlohmann::json::parse(file_text(file()));
  EXPECT_TRUE(line.at("loss").is_null());
  EXPECT_TRUE(line.at("validation_bits_per_byte").is_null());
  JsonMetrics again(file(), 1);
  EXPECT_EQ(steps(), (std::vector<int64_t>{1}));
}

TEST_F(MetricsTest, AFullDiskIsAnError) {
  JsonMetrics metrics(file(), 0);
  metrics.add(progress(1));
  const std::string before = file_text(file());
  {
    const FileSizeLimit limit(before.size() + 10);
    EXPECT_HAS(error_of([&] { metrics.add(progress(2)); }), "cannot write " + file());
  }
  {
    // Going on needs room for a new file: without it the old one stays.
    const std::string torn = file_text(file());
    const FileSizeLimit limit(10);
    EXPECT_HAS(error_of([&] { JsonMetrics(file(), 2); }), "cannot write " + file());
    EXPECT_EQ(file_text(file()), torn);
  }
  JsonMetrics again(file(), 2);
  EXPECT_EQ(file_text(file()), before);
}

TEST_F(MetricsTest, AFileThatIsGoneIsAnError) {
  JsonMetrics metrics(file(), 0);
  metrics.add(progress(1));
  fs::rename(file(), path("elsewhere"));
  EXPECT_HAS(error_of([&] { metrics.add(progress(2)); }), file() + " is gone");
  write_text(file(), "another\n");
  EXPECT_HAS(error_of([&] { metrics.add(progress(3)); }), file() + " is gone");
  EXPECT_EQ(file_text(file()), "another\n");
  JsonMetrics last(path("folder.jsonl"), 0);
  fs::remove_all(folder_);
  EXPECT_HAS(error_of([&] { last.add(progress(1)); }), "folder.jsonl is gone");
}

}  // namespace
}  // namespace lace::train
