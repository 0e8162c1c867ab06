#pragma once

#include <string>
#include <vector>

namespace lace::cli {

struct PlotPoint {
  double x = 0, y = 0;
};

// Two curves in characters of braille, each of 2 × 4 dots: `lines` joined, and over them `dots`, a
// character each (●), of those that would touch one. Rows from the top, each at most `columns`
// wide, the y axis's figures at its left (three digits after the point), and below them a row with
// the first and the last x as `format_x` gives them. Points past y_low and y_high are left out.
// columns at least 20, rows at least 2. No rows where there is nothing to draw.
std::vector<std::string> plot(const std::vector<PlotPoint>& lines,
                              const std::vector<PlotPoint>& dots, double y_low, double y_high,
                              int columns, int rows, std::string (*format_x)(double));

}  // namespace lace::cli
