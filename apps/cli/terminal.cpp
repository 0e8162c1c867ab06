#include "terminal.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include <unistd.h>

#include <sys/ioctl.h>

namespace lace::cli {

bool is_terminal(std::FILE* stream) {
  const char* term = std::getenv("TERM");
  return isatty(fileno(stream)) != 0 && !(term != nullptr && std::string_view(term) == "dumb");
}

int terminal_width(std::FILE* stream) {
  winsize size{};
  if (ioctl(fileno(stream), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

namespace {

bool shows_colors() {
  static const bool enabled = is_terminal(stdout) && std::getenv("NO_COLOR") == nullptr;
  return enabled;
}

}  // namespace

std::string on_background(std::string_view text, int background, int color) {
  if (!shows_colors()) return std::string(text);
  return "\033[48;5;" + std::to_string(background) + ";38;5;" + std::to_string(color) + "m" +
         std::string(text) + "\033[0m";
}

std::string colored(std::string_view text, Color color) {
  if (!shows_colors()) return std::string(text);
  const char* code = "";
  switch (color) {
    case Color::kRed:
      code = "31";
      break;
    case Color::kGreen:
      code = "32";
      break;
    case Color::kYellow:
      code = "33";
      break;
    case Color::kBlue:
      code = "34";
      break;
    case Color::kCyan:
      code = "36";
      break;
    case Color::kGray:
      code = "90";
      break;
    case Color::kBold:
      code = "1";
      break;
  }
  return std::string("\033[") + code + "m" + std::string(text) + "\033[0m";
}

int display_width(std::string_view text) {
  int width = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\033') {
      while (i < text.size() && text[i] != 'm') ++i;
    } else if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80) {  // not a continuation byte
      ++width;
    }
  }
  return width;
}

namespace {

// Whether a cell reads as a number, its unit included: "1,024", "72%", "1.3×", "4.2 ms", "–".
bool is_numeric(std::string_view cell) {
  while (!cell.empty() && cell.front() == '\033') cell.remove_prefix(cell.find('m') + 1);
  if (cell.empty() || cell == "–") return true;
  if (cell.front() == '-' || cell.front() == '+') cell.remove_prefix(1);
  return !cell.empty() && cell.front() >= '0' && cell.front() <= '9';
}

void append_cell(std::string& line, const std::string& cell, int width, bool right, bool last) {
  const std::string padding(static_cast<size_t>(std::max(0, width - display_width(cell))), ' ');
  line += right ? padding + cell : last ? cell : cell + padding;
  if (!last) line += "  ";
}

}  // namespace

std::string Table::to_string() const {
  const size_t columns = header_.size();
  std::vector<int> width(columns);
  std::vector<bool> right(columns, true);
  for (size_t c = 0; c < columns; ++c) {
    width[c] = display_width(header_[c]);
    for (const auto& row : rows_) {
      width[c] = std::max(width[c], display_width(row.at(c)));
      if (!is_numeric(row[c])) right[c] = false;
    }
  }
  std::string text;
  auto append_row = [&](const std::vector<std::string>& row) {
    for (size_t c = 0; c < columns; ++c) {
      append_cell(text, row[c], width[c], right[c], c + 1 == columns);
    }
    text += '\n';
  };
  append_row(header_);
  for (size_t c = 0; c < columns; ++c) {
    for (int i = 0; i < width[c]; ++i) text += "─";
    text += c + 1 == columns ? "\n" : "  ";
  }
  for (const auto& row : rows_) append_row(row);
  return text;
}

ProgressBar::ProgressBar(std::string title, int64_t total)
    : title_(std::move(title)), total_(std::max<int64_t>(total, 1)), shown_(is_terminal(stderr)) {}

ProgressBar::~ProgressBar() {
  if (shown_) std::fputs("\r\033[K", stderr);
}

void ProgressBar::update(int64_t done, std::string_view text) {
  if (!shown_) return;
  const auto now = Clock::now();
  if (now - drawn_ < std::chrono::milliseconds(100) && done < total_) return;
  drawn_ = now;
  const double share = std::clamp(static_cast<double>(done) / static_cast<double>(total_), 0., 1.);
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  constexpr int kCells = 24;
  const int halves = static_cast<int>(share * 2 * kCells);
  std::string line = title_ + " ";
  for (int cell = 0; cell < kCells; ++cell) {
    line += 2 * cell + 1 < halves ? "━" : 2 * cell < halves ? "╸" : " ";
  }
  line.append(" ").append(std::to_string(static_cast<int>(share * 100))).append("%");
  if (share > 0) line.append(" ").append(format_time_left(elapsed / share - elapsed));
  if (!text.empty()) line.append(" · ").append(text);
  // A line wider than the terminal would leave its remains behind: cut at whole characters.
  const int width = terminal_width(stderr) - 1;
  int columns = 0;
  size_t end = 0;
  while (end < line.size()) {
    size_t next = end + 1;
    while (next < line.size() && (static_cast<unsigned char>(line[next]) & 0xC0) == 0x80) ++next;
    if (++columns > width) break;
    end = next;
  }
  line.resize(end);
  std::fprintf(stderr, "\r%s\033[K", line.c_str());
  std::fflush(stderr);
}

}  // namespace lace::cli
