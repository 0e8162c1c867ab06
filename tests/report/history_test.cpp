#include "report/history.h"

#include <cmath>

#include <gtest/gtest.h>

#include "lace/error.h"

#include "report/run_folder.h"

namespace lace::report {
namespace {

using testing::metrics_line;
using testing::RunFolder;

TEST(History, KeepsEveryLeastAndLargestInRoomThatDoesNotGrow) {
  History history;
  constexpr int64_t kSteps = 20000;
  for (int64_t step = 1; step <= kSteps; ++step) {
    const double bits = step == 7777 ? 99 : step == 12345 ? 0.125 : 2;
    history.add(metrics_line(step, bits));
  }
  EXPECT_EQ(history.lines(), kSteps);
  EXPECT_LE(history.steps().size(), Buckets::kMost);
  EXPECT_GT(history.steps().size(), Buckets::kMost / 4);
  double least = 1e9, most = 0, sum = 0;
  int64_t count = 0, next = 1;
  for (const Bucket& bucket : history.steps()) {
    EXPECT_EQ(bucket.first_step, next);
    next = bucket.last_step + 1;
    const Spread& bits = bucket.of(Figure::kBits);
    least = std::min(least, bits.least);
    most = std::max(most, bits.most);
    sum += bits.sum;
    count += bits.count;
  }
  EXPECT_EQ(next, kSteps + 1);
  EXPECT_EQ(count, kSteps);
  EXPECT_DOUBLE_EQ(most, 99);
  EXPECT_DOUBLE_EQ(least, 0.125);
  EXPECT_NEAR(sum, 2.0 * (kSteps - 2) + 99.125, 1e-6);
}

TEST(History, StepsThatLieFarApartStayInOrder) {
  History history;
  for (int64_t step = 1; step <= int64_t{1} << 59; step *= 2) history.add(metrics_line(step, 1));
  for (int64_t i = 0; i < 2000; ++i) history.add(metrics_line((int64_t{1} << 59) + 1 + i, 1));
  ASSERT_LE(history.steps().size(), Buckets::kMost);
  for (size_t i = 1; i < history.steps().size(); ++i)
    EXPECT_GT(history.steps()[i].first_step, history.steps()[i - 1].last_step);
}

TEST(History, SkipsWhatIsNoLineOfALaterStep) {
  History history;
  history.add(metrics_line(5, 3));
  for (const char* line : {"", "null", "{}", "[1]", "{\"step\":5}", "{\"step\":4}", "{\"step\":-1}",
                           "{\"step\":6.5}", "{\"step\":\"6\"}", "{\"step\":6",
                           "{\"step\":6,\"step\":7}", "{\"step\":99999999999999999999}", "\xff"})
    history.add(line);
  EXPECT_EQ(history.lines(), 1);
  EXPECT_EQ(history.skipped(), 13);
  EXPECT_EQ(history.step(), 5);
}

TEST(History, FiguresOfAnotherTypeWereNotTaken) {
  History history;
  history.add(R"({"step":1,"bits_per_byte":null,"elapsed_s":"x","learning_rate":true,)"
              R"("validation_bits_per_byte":null,"parts_s":[1],"spike":1,"windows":5})");
  EXPECT_EQ(history.lines(), 1);
  EXPECT_TRUE(std::isnan(history.last(Figure::kBits)));
  EXPECT_TRUE(std::isnan(history.last(Figure::kLearningRate)));
  EXPECT_FALSE(history.last_validation());
  EXPECT_TRUE(history.parts_s().empty());
  EXPECT_EQ(history.spike_count(), 0);
}

TEST(History, ValidationsSpikesAndParts) {
  History history;
  history.add(metrics_line(1, 8, 7.5));
  history.add(metrics_line(2, 7, 6.5));
  history.add(R"({"step":3,"bits_per_byte":9,"elapsed_s":9,"spike":true,"windows":[10,-3,"x",7],)"
              R"("parts_s":{"step":1.5,"sample":0.5,"bad":-1}})");
  history.add(metrics_line(4, 6, 6.75));
  ASSERT_TRUE(history.best_validation());
  EXPECT_EQ(history.best_validation()->step, 2);
  EXPECT_EQ(history.last_validation()->step, 4);
  EXPECT_EQ(history.validations_since_best(), 1);
  ASSERT_EQ(history.spikes().size(), 1u);
  EXPECT_EQ(history.spikes()[0].windows, (std::vector<int64_t>{10, 7}));
  EXPECT_EQ(history.parts_s().at("step"), 1.5);
  EXPECT_EQ(history.parts_s().count("bad"), 0u);
  EXPECT_EQ(history.elapsed_s(), 9);  // the line of step 4 says 2: time does not go back
}

TEST(History, ManySpikesKeepTheLast) {
  History history;
  for (int step = 1; step <= 500; ++step)
    history.add(concat(R"({"step":)", step, R"(,"spike":true})"));
  EXPECT_EQ(history.spike_count(), 500);
  ASSERT_EQ(history.spikes().size(), History::kMostSpikes);
  EXPECT_EQ(history.spikes().back().step, 500);
}

TEST(MetricsFile, ReadsWholeLinesAsTheyCome) {
  const RunFolder run;
  MetricsFile file(run.path() + "/metrics.jsonl");
  EXPECT_EQ(file.update().lines(), 0);  // no such file yet
  const std::string second = metrics_line(2, 4);
  run.write("metrics.jsonl", metrics_line(1, 5) + second.substr(0, 9));
  EXPECT_EQ(file.update().step(), 1);
  EXPECT_EQ(file.update().skipped(), 0);  // half a line is none yet
  run.append("metrics.jsonl", second.substr(9) + metrics_line(3, 3));
  EXPECT_EQ(file.update().step(), 3);
  EXPECT_EQ(file.update().lines(), 3);
  EXPECT_EQ(file.update().skipped(), 0);
}

TEST(MetricsFile, BeginsAgainWhereTheFileIsAnother) {
  const RunFolder run;
  const std::string path = run.path() + "/metrics.jsonl";
  MetricsFile file(path);
  run.write("metrics.jsonl", metrics_line(1, 5) + metrics_line(2, 4) + metrics_line(3, 4));
  EXPECT_EQ(file.update().step(), 3);
  // As a run that is resumed at step 2 does.
  run.write("new", metrics_line(1, 5) + metrics_line(2, 4));
  std::filesystem::rename(run.path() + "/new", path);
  EXPECT_EQ(file.update().step(), 2);
  EXPECT_EQ(file.update().lines(), 2);
  // Written over in place, longer than before.
  run.write("metrics.jsonl",
            metrics_line(1, 7) + metrics_line(2, 7) + metrics_line(3, 7) + metrics_line(4, 7));
  EXPECT_EQ(file.update().step(), 4);
  EXPECT_DOUBLE_EQ(file.update().last(Figure::kBits), 7);
  EXPECT_DOUBLE_EQ(file.update().steps().front().of(Figure::kBits).mean(), 7);
  std::filesystem::remove(path);
  EXPECT_EQ(file.update().lines(), 0);
}

TEST(MetricsFile, LinesLongerThanItReadsAtATime) {
  const RunFolder run;
  run.write("metrics.jsonl",
            metrics_line(1, 5) + std::string(3 << 20, 'x') + "\n" + metrics_line(2, 4));
  MetricsFile file(run.path() + "/metrics.jsonl");
  EXPECT_EQ(file.update().step(), 2);
  EXPECT_EQ(file.update().skipped(), 1);
}

}  // namespace
}  // namespace lace::report
