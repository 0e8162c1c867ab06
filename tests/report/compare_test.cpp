#include "report/compare.h"

#include <gtest/gtest.h>

#include "lace/error.h"

#include "report/run_folder.h"

namespace lace::report {
namespace {

using testing::metrics_line;
using testing::RunFolder;

constexpr const char* kLast = R"({"step":20,"bytes_trained":20480,"data":{"validation":)"
                              R"({"bytes":100,"xxh3":"abc"},"train":{"bytes":900}}})";

void fill(const RunFolder& run, const std::string& pattern, int seq_len, double faster,
          int64_t steps) {
  run.write("recipe.toml", concat("[model]\nseq_len = ", seq_len, "\npatterns = ['", pattern,
                                  "']\n[train]\nbatch = 4\nsteps = 20\n"));
  run.write("run.json", R"({"parameters":1000,"machine":{"processor":"p"}})");
  run.write("last.json", kLast);
  std::string lines;
  for (int64_t step = 1; step <= steps; ++step)
    lines += metrics_line(step, 8 - 0.1 * static_cast<double>(step),
                          step % 10 == 0 ? 8 - faster * static_cast<double>(step) : 0);
  run.write("metrics.jsonl", lines);
}

TEST(Compare, EqualStepsAndEqualTime) {
  const RunFolder a("_a"), b("_b");
  fill(a, "dense", 256, 0.1, 40);
  fill(b, "strided(16)", 256, 0.2, 20);
  const std::vector<report::Run> runs{RunReader(a.path()).update(), RunReader(b.path()).update()};
  const Comparison comparison = compare(runs);
  ASSERT_EQ(comparison.rows.size(), 2u);
  EXPECT_EQ(comparison.step, 20);
  EXPECT_EQ(comparison.elapsed_s, 10);
  EXPECT_NEAR(*comparison.rows[0].at_step, 6, 1e-6);
  EXPECT_NEAR(*comparison.rows[1].at_step, 4, 1e-6);
  EXPECT_NEAR(*comparison.rows[0].best, 4, 1e-6);
  EXPECT_NEAR(*comparison.rows[0].bytes, 40960, 1e-6);
  EXPECT_EQ(comparison.rows[1].pattern, "strided(16)");
  EXPECT_EQ(comparison.rows[1].state, State::kFinished);
  ASSERT_EQ(comparison.settings.size(), 1u);
  EXPECT_EQ(comparison.settings[0].first, "model.patterns");
  EXPECT_TRUE(comparison.notes.empty()) << comparison.notes[0];
  const auto json = comparison_json(comparison);
  EXPECT_NEAR(json["runs"][1]["at_equal_steps_over_first"].get<double>(), -2, 1e-6);
  EXPECT_EQ(json["equal_steps"], 20);
}

TEST(Compare, BetweenTwoValidationsACurveIsStraight) {
  const RunFolder a("_a"), b("_b");
  fill(a, "dense", 256, 0.1, 40);
  fill(b, "dense", 256, 0.1, 20);
  b.append("metrics.jsonl", metrics_line(25, 5, 5.5));
  const std::vector<report::Run> runs{RunReader(a.path()).update(), RunReader(b.path()).update()};
  EXPECT_NEAR(*compare(runs).rows[0].at_step, 5.5, 1e-6);  // of 6 at 20 and 5 at 30
}

TEST(Compare, SaysWhichRunGotNoFurther) {
  const RunFolder a("_a"), b("_<b>"), c("_c");
  fill(a, "dense", 256, 0.1, 40);
  fill(b, "dense", 256, 0.1, 20);
  const std::vector<report::Run> runs{RunReader(a.path()).update(), RunReader(b.path()).update()};
  const Comparison comparison = compare(runs);
  EXPECT_EQ(comparison.step_of, comparison.rows[1].name);
  EXPECT_EQ(comparison.elapsed_of, comparison.rows[1].name);
  EXPECT_EQ(comparison_json(comparison)["equal_steps_of"], comparison.rows[1].name);
  const std::string html = comparison_html(runs, comparison);
  EXPECT_NE(html.find("&lt;b&gt; got no further than step 20 and 10 s."), std::string::npos);

  // The same steps in another time: nobody is behind in steps.
  fill(c, "dense", 256, 0.1, 39);
  c.append("metrics.jsonl",
           R"({"step":40,"bits_per_byte":5,"elapsed_s":30,"validation_bits_per_byte":5})"
           "\n");
  const Comparison timed = compare({RunReader(a.path()).update(), RunReader(c.path()).update()});
  EXPECT_EQ(timed.step_of, "");
  EXPECT_EQ(timed.elapsed_s, 20);
  EXPECT_EQ(timed.elapsed_of, timed.rows[0].name);
  EXPECT_TRUE(comparison_json(timed)["equal_steps_of"].is_null());
}

TEST(Compare, ARunThatHasNoValidationSoEarlyHasNoFigureAndANote) {
  const RunFolder a("_a"), b("_b");
  fill(a, "dense", 256, 0.1, 40);
  fill(b, "dense", 256, 0.1, 2);
  b.append("metrics.jsonl", metrics_line(3, 7, 7));
  const Comparison comparison =
      compare({RunReader(a.path()).update(), RunReader(b.path()).update()});
  EXPECT_EQ(comparison.step, 3);
  EXPECT_FALSE(comparison.rows[0].at_step);
  EXPECT_FALSE(comparison.rows[0].at_time);
  EXPECT_NEAR(*comparison.rows[1].at_step, 7, 1e-6);
  ASSERT_EQ(comparison.notes.size(), 2u);
  EXPECT_NE(comparison.notes[0].find("no figure at step 3: its first validation is of step 10"),
            std::string::npos)
      << comparison.notes[0];
  EXPECT_NE(comparison.notes[1].find("no figure after 1.5 s: its first validation came after 5 s"),
            std::string::npos)
      << comparison.notes[1];
}

TEST(Compare, SaysWhatIsNotComparable) {
  const RunFolder a("_a"), b("_b"), c("_c"), d("_d");
  fill(a, "dense", 256, 0.1, 20);
  fill(b, "dense", 512, 0.1, 20);
  b.write("last.json", R"({"data":{"validation":{"bytes":100,"xxh3":"other"},)"
                       R"("train":{"bytes":901}}})");
  b.write("run.json", R"({"parameters":1000,"machine":{"processor":"q"}})");
  fill(c, "dense", 256, 0.1, 5);
  std::filesystem::remove(c.path() + "/last.json");
  const std::vector<report::Run> runs{RunReader(a.path()).update(), RunReader(b.path()).update(),
                                      RunReader(c.path()).update()};
  const Comparison comparison = compare(runs);
  std::string notes;
  for (const std::string& note : comparison.notes) notes += note + "\n";
  for (const char* part :
       {"other validation bytes", "trained on other bytes", "other windows", "other machines",
        "has no validation yet", "not known whether their data are the same"})
    EXPECT_NE(notes.find(part), std::string::npos) << part << " is not in\n" << notes;
  EXPECT_EQ(comparison.step, 0);
  EXPECT_FALSE(comparison.rows[0].at_step);
  EXPECT_NE(comparison_html(runs, comparison).find("Not comparable"), std::string::npos);
}

TEST(Compare, TheSvgStandsAlone) {
  const RunFolder a("_a"), b("_<b>");
  fill(a, "dense", 256, 0.1, 20);
  fill(b, "dense", 256, 0.2, 20);
  const std::string svg =
      comparison_svg({RunReader(a.path()).update(), RunReader(b.path()).update()});
  EXPECT_EQ(svg.find("<svg xmlns=\"http://www.w3.org/2000/svg\""), 0u);
  EXPECT_EQ(svg.find("<b>"), std::string::npos);
  EXPECT_NE(svg.find("over bytes"), std::string::npos);
  EXPECT_NE(svg.find("over time"), std::string::npos);
}

TEST(Compare, NeedsARun) { EXPECT_THROW(compare({}), Error); }

}  // namespace
}  // namespace lace::report
