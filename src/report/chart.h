#pragma once

#include <array>
#include <functional>
#include <limits>
#include <string>
#include <vector>

namespace lace::report {

// What lies across: a page shows one of them at a time, chosen by its reader.
enum class Across { kSteps, kBytes, kTime };
constexpr std::array<Across, 3> kAcross{Across::kSteps, Across::kBytes, Across::kTime};
std::string_view name(Across across);  // "steps", "bytes", "time"

struct Point {
  double step = 0, elapsed_s = 0, y = 0;                              // y: NaN breaks a line
  double low = std::numeric_limits<double>::quiet_NaN(), high = low;  // of the band around it
};

// One curve: a line through the points, a band from `low` to `high` where there is one.
struct Series {
  std::string name;
  int color = 0;      // of kColors, by which curves differ; with `dots` and `dashed` beside it
  bool dots = false;  // a dot at each point
  bool dashed = false;
  double bytes_of_step = 0;   // 0: not known
  std::vector<Point> points;  // by step

  double x(const Point& point, Across across) const;
};
constexpr int kColors = 8;

// A step that is marked on the axis.
struct Mark {
  double step = 0, elapsed_s = 0;
  std::string text;
};

struct Chart {
  std::string title, what;  // "Bits a byte", and what the reader should know, or ""
  std::vector<Series> series;
  std::vector<Mark> marks;
  double y_low = 0, y_high = 1;
  std::function<std::string(double)> format_y;
  // Of marks on the axis; without it format_y, zeros at the end left out.
  std::function<std::string(double)> format_tick = {};
};

// Sets y_low and y_high to hold what the curves show after the first twentieth of their steps,
// where a loss falls from far above. from_zero: y_low is 0.
void fit_y(Chart& chart, bool from_zero);

// The chart as an element of a page: drawn for each of kAcross, of which the page's style shows one
// (class "by-steps", …), with a legend and the same as a table. Text keeps its size at any width.
std::string chart_html(const Chart& chart);

// The same for one axis as a group of SVG of 720 × 300, at (0, y), and the names of the curves, 20
// a line, below each other: for a drawing that stands alone. "" where the axis is not known.
std::string chart_svg(const Chart& chart, Across across, double y);
std::string legend_svg(const Chart& chart, double y);

}  // namespace lace::report
