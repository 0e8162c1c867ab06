#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "core/format.h"  // which its callers want too

namespace lace::cli {

// Whether the stream is a terminal that people look at (and TERM is not "dumb").
bool is_terminal(std::FILE* stream);

// Columns of the terminal behind `stream`; 80 if it is none.
int terminal_width(std::FILE* stream);

enum class Color { kRed, kGreen, kYellow, kBlue, kCyan, kGray, kBold };

// `text` in that colour if stdout is a terminal and NO_COLOR is not set, else as it is.
std::string colored(std::string_view text, Color color);

// `text` in one of the 256 colours of terminals on another, under the same conditions.
std::string on_background(std::string_view text, int background, int color);

// Columns of a text in UTF-8, without those of colour codes.
int display_width(std::string_view text);

// A table of text: a header, a rule, rows. Columns of numbers are right-aligned.
class Table {
 public:
  explicit Table(std::vector<std::string> header) : header_(std::move(header)) {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string to_string() const;

 private:
  std::vector<std::string> header_;
  std::vector<std::vector<std::string>> rows_;
};

// A bar on stderr that redraws itself; prints nothing unless stderr is a terminal.
//   train ━━━━━━━━━━╸          52% 3:10 left · loss 1.52
class ProgressBar {
 public:
  ProgressBar(std::string title, int64_t total);
  ~ProgressBar();  // clears the line
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // At most ten times a second; `text` follows the time left.
  void update(int64_t done, std::string_view text = {});

 private:
  using Clock = std::chrono::steady_clock;
  std::string title_;
  int64_t total_;
  bool shown_;
  Clock::time_point start_ = Clock::now();
  Clock::time_point drawn_{};
};

}  // namespace lace::cli
