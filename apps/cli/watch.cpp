// lace watch: a run in the terminal while it goes.

#include <atomic>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <iostream>
#include <memory>
#include <optional>

#include <poll.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <sys/ioctl.h>

#include "lace/error.h"

#include "arguments.h"
#include "commands.h"
#include "core/safe_text.h"
#include "output.h"
#include "plot.h"
#include "report/report.h"
#include "terminal.h"

namespace lace::cli {

namespace {

using report::Figure;
using report::Run;

struct Options {
  std::string run;
  double every = 1;
  bool once = false, json = false;
};

std::atomic<bool> interrupted{false};

std::string bits(double value) {
  if (!std::isfinite(value)) return "–";
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.3f", value);
  return buffer;
}

std::string format_steps(double steps) { return format_count(std::llround(steps)); }

// The first characters of a line in UTF-8 that take at most `columns`; colour codes take none.
std::string cut(const std::string& line, int columns) {
  if (display_width(line) <= columns) return line;
  std::string text;
  int width = 0;
  for (size_t i = 0; i < line.size();) {
    size_t next = i + 1;
    if (line[i] == '\033') {
      while (next < line.size() && line[next - 1] != 'm') ++next;
    } else {
      while (next < line.size() && (static_cast<unsigned char>(line[next]) & 0xC0) == 0x80) ++next;
      if (++width >= columns) return text + "…" + (line.find('\033') < i ? "\033[0m" : "");
    }
    text.append(line, i, next - i);
    i = next;
  }
  return text;
}

std::string bar(double share, int columns) {
  const int halves = static_cast<int>(std::lround(share * 2 * columns));
  std::string text;
  for (int cell = 0; cell < columns; ++cell)
    text += 2 * cell + 1 < halves ? "━" : 2 * cell < halves ? "╸" : "·";
  return colored(text, Color::kBlue);
}

// "step 5,412 of 6,000 · 11.1 MB · 5:00"
std::string progress(const Run& run) {
  std::string text = "step " + format_count(run.history.step());
  if (const auto total = run.total_steps()) text += " of " + format_count(*total);
  if (const auto bytes = run.bytes_of_step())
    text += " · " + format_bytes(*bytes * static_cast<double>(run.history.step()));
  text += " · " + format_duration(run.elapsed_s());
  const auto left = run.state == report::State::kTraining ? run.remaining_s() : std::nullopt;
  if (left) text += " · " + format_duration(*left) + " left";
  return text;
}

std::string figures(const Run& run) {
  const report::History& history = run.history;
  std::string text;
  const auto add = [&](double value, const std::string& shown) {
    if (std::isfinite(value)) text += (text.empty() ? "" : " · ") + shown;
  };
  const double speed = history.recent(Figure::kTokensPerS),
               share = history.recent(Figure::kShareOfPeak),
               rate = history.last(Figure::kLearningRate),
               norm = history.last(Figure::kGradientNorm),
               memory = history.last(Figure::kMemoryBytes);
  add(speed, format_count(std::llround(std::clamp(speed, -1e15, 1e15))) + " tokens/s");
  add(share, format_number(100 * share) + "% of peak");
  add(rate, "rate " + without_zeros(format_number(rate)));
  add(norm, "gradient " + format_number(norm));
  add(memory, format_bytes(memory));
  return text;
}

std::string scores(const Run& run) {
  const report::History& history = run.history;
  std::string text =
      "bits/byte: training " + colored(bits(history.recent(Figure::kBits)), Color::kBlue);
  if (const auto last = history.last_validation()) {
    text += " · validation " + colored(bits(last->bits_per_byte), Color::kYellow) + " at step " +
            format_count(last->step);
    if (const auto best = history.best_validation(); best->step != last->step)
      text += ", best " + bits(best->bits_per_byte);
  }
  if (history.spike_count() > 0)
    text += colored(
        concat(" · ", history.spike_count(), history.spike_count() == 1 ? " spike" : " spikes"),
        Color::kRed);
  return text;
}

std::vector<std::string> curve(const Run& run, int columns, int rows) {
  report::Chart chart;
  chart.series.resize(2);
  chart.series[0].points = report::training_curve(run.history, true);
  chart.series[1].points = report::validation_curve(run.history);
  report::fit_y(chart, false);
  std::vector<PlotPoint> points[2];
  for (size_t i = 0; i < 2; ++i)
    for (const report::Point& point : chart.series[i].points)
      points[i].push_back({point.step, point.y});
  return plot(points[0], points[1], chart.y_low, chart.y_high, columns, rows, format_steps);
}

// The end of the last sample, its lines.
std::vector<std::string> sample_lines(const Run& run, int columns, int rows) {
  if (run.samples.empty() || run.kind() != report::DataKind::kText || rows < 2) return {};
  const report::Sample& sample = run.samples.back();
  std::vector<std::string> lines{
      colored("sample of step " + format_count(sample.step), Color::kGray)};
  std::string line;
  SafeText safe;
  const auto end_line = [&] {
    lines.push_back(cut(line, columns));
    line.clear();
  };
  for (const char byte : sample.bytes) {
    if (static_cast<int>(lines.size()) == rows) return lines;
    const std::string text = safe.add(static_cast<uint8_t>(byte));
    if (text == "\n") {
      end_line();
    } else {
      line += text == "\t" ? "  " : text;
    }
  }
  line += safe.finish();
  if (static_cast<int>(lines.size()) < rows) end_line();
  return lines;
}

// The picture of a run in at most `rows` lines of at most `columns`.
std::vector<std::string> frame(const Run& run, int columns, int rows) {
  std::vector<std::string> lines;
  const std::string state(report::name(run.state));
  lines.push_back(
      colored(printable(run.name), Color::kBold) + "  " +
      colored(state, run.state == report::State::kTraining ? Color::kGreen : Color::kGray) + "  " +
      colored(printable(run.pattern(), 200), Color::kGray));
  if (run.fraction() > 0)
    lines.push_back(
        bar(run.fraction(), std::max(8, std::min(columns - 6, 60))) +
        concat(" ", run.state == report::State::kFinished ? 100 : std::floor(100 * run.fraction()),
               "%"));
  lines.push_back(progress(run));
  lines.push_back(figures(run));
  lines.push_back(scores(run));
  const int left = rows - static_cast<int>(lines.size());
  const int of_sample = run.samples.empty() ? 0 : std::clamp(left / 3, 0, 8);
  const int of_curve = std::min(left - of_sample - 2, 16);
  if (of_curve >= 4 && columns >= 30)
    for (std::string& line : curve(run, columns, of_curve)) lines.push_back(std::move(line));
  for (std::string& line : sample_lines(run, columns, of_sample)) lines.push_back(std::move(line));
  if (run.history.lines() == 0) lines.push_back("no step has been taken yet");
  if (static_cast<int>(lines.size()) > rows) lines.resize(static_cast<size_t>(rows));
  for (std::string& line : lines) line = cut(line, columns);
  return lines;
}

nlohmann::ordered_json summary(const Run& run) {
  const report::History& history = run.history;
  const auto number = [](double value) {
    return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json();
  };
  const auto validation = [&](const std::optional<report::Validation>& v) {
    return v ? nlohmann::ordered_json(v->bits_per_byte) : nlohmann::ordered_json();
  };
  const auto left = run.remaining_s();
  return {{"run", printable(run.folder)},
          {"state", report::name(run.state)},
          {"step", history.step()},
          {"fraction", run.fraction()},
          {"elapsed_s", run.elapsed_s()},
          {"remaining_s", left ? nlohmann::ordered_json(*left) : nlohmann::ordered_json()},
          {"bits_per_byte", number(history.recent(Figure::kBits))},
          {"validation_bits_per_byte", validation(history.last_validation())},
          {"best_validation_bits_per_byte", validation(history.best_validation())},
          {"learning_rate", number(history.last(Figure::kLearningRate))},
          {"gradient_norm", number(history.last(Figure::kGradientNorm))},
          {"tokens_per_s", number(history.recent(Figure::kTokensPerS))},
          {"spikes", history.spike_count()}};
}

int terminal_rows() {
  winsize size{};
  return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 ? size.ws_row : 24;
}

void print(const std::vector<std::string>& lines) {
  for (const std::string& line : lines) std::cout << line << "\n";
  std::cout.flush();
}

// A screen of its own, which leaves what was on the terminal as it was.
class Screen {
 public:
  Screen() {
    struct sigaction action {};
    action.sa_handler = [](int) { interrupted = true; };
    action.sa_flags = SA_RESETHAND;
    sigaction(SIGINT, &action, nullptr);
    sigaction(SIGTERM, &action, nullptr);
    std::cout << "\033[?1049h\033[?25l" << std::flush;
  }
  ~Screen() {
    try {
      std::cout << "\033[?25h\033[?1049l" << std::flush;
    } catch (const OutputError&) {  // the terminal has gone
    }
  }
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  void show(const std::vector<std::string>& lines) {
    std::cout << "\033[H";
    for (const std::string& line : lines) std::cout << line << "\033[K\n";
    std::cout << "\033[J" << std::flush;
  }
};

void watch(const Options& options) {
  report::RunReader reader(options.run);
  const Run* run = &reader.update();
  if (options.json) return print_json(summary(*run));
  constexpr int kRows = 24;
  if (options.once || !is_terminal(stdout))
    return print(frame(*run, terminal_width(stdout), kRows));
  {
    Screen screen;
    while (true) {
      // A line as wide as the terminal would lose its last character to what clears the rest.
      screen.show(frame(*run, terminal_width(stdout) - 1, terminal_rows() - 1));
      if (interrupted || run->state != report::State::kTraining) break;
      ::poll(nullptr, 0, static_cast<int>(1000 * options.every));
      if (interrupted) break;
      run = &reader.update();
    }
  }
  print(frame(*run, terminal_width(stdout), kRows));
}

void add_watch(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "watch", "A run in the terminal while it goes: progress, curve, speed, the last sample");
  command->add_option("run", options->run, "The run's folder")
      ->required()
      ->transform(path())
      ->check(CLI::ExistingDirectory);
  command->add_option("--every", options->every, "Seconds between two looks")
      ->transform(number(0.1, 3600))
      ->capture_default_str();
  command->add_flag("--once", options->once, "Look once and end, as always where no terminal is");
  command->add_flag("--json", options->json, "Print what a look tells as JSON, and end");
  command->footer(examples(
      {"lace watch runs/demo", "lace watch runs/demo --once", "lace watch runs/demo --json"}));
  command->callback([options] { watch(*options); });
}

const Command kWatch(Order::kWatch, add_watch);

}  // namespace

}  // namespace lace::cli
