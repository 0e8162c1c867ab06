#include "report/run.h"

#include <fcntl.h>
#include <unistd.h>

#include <gtest/gtest.h>
#include <sys/file.h>

#include "lace/error.h"

#include "report/report.h"
#include "report/run_folder.h"

namespace lace::report {
namespace {

using testing::metrics_line;
using testing::RunFolder;

constexpr const char* kRecipe = R"toml(name = 'x'

[model]
seq_len = 1024
heads = 2
patterns = ['fixed(64, 16, 1)', "local(64) | strided(64)"]
block_norm_eps = 1.0000000000000001e-05

# a comment
[train]
batch = 4
accumulate = 2
steps = 100
)toml";

TEST(RecipeText, SectionsKeysAndValues) {
  const RecipeText recipe(kRecipe);
  EXPECT_EQ(recipe.integer("model", "seq_len"), 1024);
  EXPECT_EQ(recipe.strings("model", "patterns"),
            (std::vector<std::string>{"fixed(64, 16, 1)", "local(64) | strided(64)"}));
  EXPECT_EQ(recipe.string("", "name"), "x");
  EXPECT_FALSE(recipe.integer("model", "steps"));
  EXPECT_FALSE(recipe.number("model", "patterns"));
  EXPECT_EQ(recipe.sections()[1].entries[3].value, "1e-05");
}

TEST(RecipeText, AnyTextPasses) {
  EXPECT_TRUE(RecipeText("").empty());
  const RecipeText odd("[\n]\n==\n[a\n= 3\nkey\nlist = ['a', 'b\nlist2 = [[['\n\xff = \"\\");
  EXPECT_EQ(odd.strings("", "list"), std::vector<std::string>{"a"});
  EXPECT_TRUE(odd.strings("", "list2").empty());
  EXPECT_FALSE(odd.number("", "key"));
  EXPECT_LE(RecipeText(std::string(1 << 20, '\n') + "a = 1").sections().size(), 1u);
}

TEST(Run, StepsBytesAndTime) {
  const RunFolder folder;
  folder.write("recipe.toml", kRecipe);
  folder.write("run.json", R"({"parameters":5,"ranks":3})");
  folder.write("metrics.jsonl", metrics_line(1, 8) + metrics_line(25, 4));
  RunReader reader(folder.path());
  const report::Run& run = reader.update();
  EXPECT_EQ(run.bytes_of_step(), 4 * 2 * 1024 * 3);
  EXPECT_EQ(run.fraction(), 0.25);
  EXPECT_EQ(run.remaining_s(), 37.5);
  EXPECT_EQ(run.state, State::kStopped);
  EXPECT_EQ(run.pattern(), "fixed(64, 16, 1), local(64) | strided(64)");
  EXPECT_TRUE(run.notes.empty());
  folder.append("metrics.jsonl", metrics_line(100, 3));
  EXPECT_EQ(reader.update().state, State::kFinished);
}

TEST(Run, PatternsAreThoseOfItsLayers) {
  std::string recipe = kRecipe;
  recipe.replace(recipe.find("heads"), 0, "layers = 1\n");
  const RunFolder folder;
  folder.write("recipe.toml", recipe);
  RunReader reader(folder.path());
  EXPECT_EQ(reader.update().patterns(), std::vector<std::string>{"fixed(64, 16, 1)"});
}

TEST(Run, TimeIsThatOfTheCheckpointOfItsLastStep) {
  const RunFolder folder;
  folder.write("recipe.toml", kRecipe);
  folder.write("metrics.jsonl", metrics_line(25, 4));
  RunReader reader(folder.path());
  EXPECT_EQ(reader.update().elapsed_s(), 12.5);
  folder.write("last.json", R"({"step":20,"elapsed_s":14})");
  EXPECT_EQ(reader.update().elapsed_s(), 12.5);
  folder.write("last.json", R"({"step":25,"elapsed_s":14})");
  EXPECT_EQ(reader.update().elapsed_s(), 14);
  folder.write("last.json", R"({"step":25,"elapsed_s":null})");
  EXPECT_EQ(reader.update().elapsed_s(), 12.5);
}

TEST(Run, TrainsWhileItsLockIsHeld) {
  const RunFolder folder;
  folder.write("recipe.toml", kRecipe);
  folder.write("train.lock", concat(::getpid(), "\n"));
  RunReader reader(folder.path());
  EXPECT_EQ(reader.update().state, State::kStopped);  // left behind by a process that was killed
  const int lock = ::open((folder.path() + "/train.lock").c_str(), O_RDWR);
  ASSERT_EQ(::flock(lock, LOCK_EX), 0);
  EXPECT_EQ(reader.update().state, State::kTraining);
  ::close(lock);
  EXPECT_EQ(reader.update().state, State::kStopped);
}

TEST(Run, EarlyStopIsAnEnd) {
  const RunFolder folder;
  folder.write("recipe.toml", std::string(kRecipe) + "early_stop = 2\n");
  folder.write("metrics.jsonl", metrics_line(1, 8, 5) + metrics_line(2, 8, 6));
  RunReader reader(folder.path());
  EXPECT_EQ(reader.update().state, State::kStopped);
  folder.append("metrics.jsonl", metrics_line(3, 8, 7));
  EXPECT_EQ(reader.update().state, State::kFinished);
}

TEST(Run, NeedsAFolderThatHoldsOne) {
  const RunFolder folder;
  EXPECT_THROW(RunReader(folder.path()).update(), Error);
  EXPECT_THROW(RunReader(folder.path() + "/none").update(), Error);
}

TEST(Run, NotesTellWhatCannotBeRead) {
  const RunFolder folder;
  folder.write("recipe.toml", kRecipe);
  folder.write("run.json", "no JSON");
  folder.write("last.json", "[]");
  std::filesystem::create_directory(folder.path() + "/metrics.jsonl");
  const report::Run run = RunReader(folder.path()).update();
  EXPECT_EQ(run.notes.size(), 3u);
  EXPECT_TRUE(run.description.is_object());
}

TEST(Run, SamplesOfManySteps) {
  const RunFolder folder;
  folder.write("recipe.toml", kRecipe);
  std::string list;
  for (int step = 1; step <= 100; ++step) {
    const std::string file = concat("samples/", step, "-0.bin");
    folder.write(file, concat("sample ", step));
    list += concat(R"({"step":)", step, R"(,"file":")", file, R"(","prompt_bytes":0})", "\n");
  }
  folder.write("samples.jsonl", list + R"({"step":101,"fi)");
  const report::Run run = RunReader(folder.path()).update();
  ASSERT_EQ(run.samples.size(), report::Run::kMostSampledSteps);
  EXPECT_EQ(run.samples.front().bytes, "sample 1");
  EXPECT_EQ(run.samples.back().bytes, "sample 100");
}

TEST(Run, OfLargeSamplesTheNewest) {
  const RunFolder folder;
  folder.write("recipe.toml", "[data]\nkind = 'audio'\n");
  std::string list;
  for (int step = 1; step <= 8; ++step) {
    const std::string file = concat("samples/", step, "-0.bin");
    folder.write(file, std::string(1 << 20, 'x'));
    list += concat(R"({"step":)", step, R"(,"file":")", file, "\"}\n");
  }
  folder.write("samples.jsonl", list);
  const report::Run run = RunReader(folder.path()).update();
  ASSERT_EQ(run.samples.size(), 5u);  // of 12 seconds each
  EXPECT_EQ(run.samples.front().step, 4);
  EXPECT_EQ(run.samples.back().step, 8);
  EXPECT_EQ(run.samples.back().whole_bytes, 1 << 20);
}

TEST(Report, ImagesAndAudio) {
  const RunFolder images("_images"), audio("_audio");
  images.write("recipe.toml",
               "[data]\nkind = 'images'\n[model]\nimage_height = 4\nimage_width = 4\n"
               "image_channels = 3\n");
  images.write("samples/1-0.bin", std::string(48, 'x'));
  images.write("samples/1-1.bin", std::string(20, 'x'));  // not whole
  images.write("samples.jsonl",
               "{\"step\":1,\"file\":\"samples/1-0.bin\"}\n"
               "{\"step\":1,\"file\":\"samples/1-1.bin\"}\n");
  EXPECT_NE(Report(images.path()).html().find("src=\"data:image/png;base64,iVBOR"),
            std::string::npos);
  audio.write("recipe.toml", "[data]\nkind = 'audio'\nsample_rate = 8000\n");
  audio.write("samples/1-0.bin", std::string(100, 'x'));
  audio.write("samples.jsonl", "{\"step\":1,\"file\":\"samples/1-0.bin\"}\n");
  EXPECT_NE(Report(audio.path()).html().find("src=\"data:audio/wav;base64,UklGR"),
            std::string::npos);
}

TEST(Report, APageDoesNotGrowWithTheRun) {
  const RunFolder folder;
  folder.write("recipe.toml", kRecipe);
  const auto add_lines = [&](int from, int to) {
    std::string lines;
    for (int step = from; step < to; ++step)
      lines += metrics_line(step, 2 + 100.0 / step + 0.1 * (step % 7), step % 10 == 0 ? 3 : 0);
    folder.append("metrics.jsonl", lines);
  };
  Report report(folder.path());
  add_lines(1, 1000);
  const size_t before = report.html().size();
  add_lines(1000, 30000);
  EXPECT_LT(report.html().size(), before * 5 / 4);
  add_lines(30000, 30001);
  EXPECT_NE(report.html().find("<dt>steps</dt><dd>30,000<"), std::string::npos);
}

}  // namespace
}  // namespace lace::report
