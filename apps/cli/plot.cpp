#include "plot.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>

#include "terminal.h"

namespace lace::cli {

namespace {

constexpr int kLabel = 8;  // columns of the y axis's figures, with a space

std::string label(double value) {
  char buffer[48];
  std::snprintf(buffer, sizeof buffer, "%*.3f ", kLabel - 1, value);
  return buffer;
}

// A grid of dots, eight in a character.
class Canvas {
 public:
  Canvas(int columns, int rows)
      : columns_(columns), rows_(rows), cells_(static_cast<size_t>(columns * rows)) {}

  int width() const { return 2 * columns_; }
  int height() const { return 4 * rows_; }

  void set(int x, int y) {
    if (x < 0 || y < 0 || x >= width() || y >= height()) return;
    // Braille numbers its dots down the left column, then the right, but the last row apart.
    constexpr uint8_t kBits[4][2] = {{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};
    cell(x, y).dots |= kBits[y % 4][x % 2];
  }
  void mark(int x, int y) {
    if (x >= 0 && y >= 0 && x < width() && y < height()) cell(x, y).marked = true;
  }

  std::string row(int row) const {
    std::string text;
    for (int column = 0; column < columns_; ++column) {
      const Cell& cell = cells_[static_cast<size_t>(row * columns_ + column)];
      if (cell.marked) {
        text += colored("●", Color::kYellow);
      } else if (cell.dots == 0) {
        text += ' ';
      } else {
        const int code = 0x2800 + cell.dots;  // as UTF-8
        const std::string braille{static_cast<char>(0xE0 | code >> 12),
                                  static_cast<char>(0x80 | (code >> 6 & 63)),
                                  static_cast<char>(0x80 | (code & 63))};
        text += colored(braille, Color::kBlue);
      }
    }
    return text;
  }

 private:
  struct Cell {
    uint8_t dots = 0;
    bool marked = false;
  };
  Cell& cell(int x, int y) { return cells_[static_cast<size_t>(y / 4 * columns_ + x / 2)]; }
  int columns_, rows_;
  std::vector<Cell> cells_;
};

void draw_line(Canvas& canvas, double from_x, double from_y, double to_x, double to_y) {
  const int steps = std::max(
      1, static_cast<int>(std::ceil(std::max(std::abs(to_x - from_x), std::abs(to_y - from_y)))));
  for (int i = 0; i <= steps; ++i) {
    const double share = static_cast<double>(i) / steps;
    canvas.set(static_cast<int>(std::lround(from_x + share * (to_x - from_x))),
               static_cast<int>(std::lround(from_y + share * (to_y - from_y))));
  }
}

}  // namespace

std::vector<std::string> plot(const std::vector<PlotPoint>& lines,
                              const std::vector<PlotPoint>& dots, double y_low, double y_high,
                              int columns, int rows, std::string (*format_x)(double)) {
  double x_high = 0;
  for (const auto* points : {&lines, &dots})
    for (const PlotPoint& point : *points) x_high = std::max(x_high, point.x);
  if (!(x_high > 0) || !(y_high > y_low)) return {};
  Canvas canvas(columns - kLabel, rows);
  const auto place_x = [&](double x) { return x / x_high * (canvas.width() - 1); };
  // Far outside is as good as just outside, and needs no thousands of dots.
  const auto place_y = [&](double y) {
    return std::clamp((y_high - y) / (y_high - y_low), -1.0, 2.0) * (canvas.height() - 1);
  };
  const PlotPoint* before = nullptr;
  for (const PlotPoint& point : lines) {
    if (!std::isfinite(point.y)) {
      before = nullptr;
      continue;
    }
    const PlotPoint& from = before != nullptr ? *before : point;
    draw_line(canvas, place_x(from.x), place_y(from.y), place_x(point.x), place_y(point.y));
    before = &point;
  }
  int free = 0;  // the first place a mark may have: marks side by side would hide the line
  for (const PlotPoint& point : dots) {
    const int x = static_cast<int>(std::lround(place_x(point.x)));
    const bool last = &point == &dots.back();
    if (!std::isfinite(point.y) || (x < free && !last)) continue;
    canvas.mark(x, static_cast<int>(std::lround(place_y(point.y))));
    free = x + 6;
  }
  std::vector<std::string> text;
  for (int row = 0; row < rows; ++row) {
    const bool labelled = row == 0 || row == rows - 1 || row == rows / 2;
    const double value = y_high - (y_high - y_low) * row / (rows - 1);
    text.push_back((labelled ? colored(label(value), Color::kGray) : std::string(kLabel, ' ')) +
                   canvas.row(row));
  }
  const std::string first = format_x(0), last = format_x(x_high);
  const int gap = columns - kLabel - display_width(first) - display_width(last);
  text.push_back(colored(std::string(kLabel, ' ') + first +
                             std::string(static_cast<size_t>(std::max(1, gap)), ' ') + last,
                         Color::kGray));
  return text;
}

}  // namespace lace::cli
