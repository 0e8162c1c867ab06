#include "plan/explain_svg.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <iomanip>
#include <sstream>
#include <string_view>
#include <utility>

#include "lace/error.h"

#include "pattern/rows.h"
#include "plan/explain.h"

namespace lace {
namespace {

constexpr int64_t kMaxHeads = 8;
constexpr int64_t kMaxCells = 96;
constexpr double kSide = 240, kGap = 36, kTop = 64, kLabel = 44;

// Of the parts of a union, in turn; then of the query and of what causality forbids.
constexpr std::array<std::string_view, 5> kPartColors{"#1f4e8c", "#5fa8d3", "#e08e45", "#5b9e6f",
                                                      "#8d6fb0"};
constexpr std::string_view kQueryColor = "#c0392b", kForbidden = "#ececec", kAllowed = "#fafafa";

std::string number(double value) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(2) << value;
  std::string text = out.str();
  while (text.back() == '0') text.pop_back();
  if (text.back() == '.') text.pop_back();
  return text;
}

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else if (static_cast<unsigned char>(c) < 32) {
      out += ' ';
    } else {
      out += c;
    }
  }
  return out;
}

std::string text_at(double x, double y, int size, std::string_view text) {
  return concat("<text x=\"", number(x), "\" y=\"", number(y), "\" font-size=\"", size, "\">",
                escaped(text), "</text>\n");
}

std::string rectangle(double x, double y, double width, double height, std::string_view fill,
                      double opacity = 1) {
  std::string text =
      concat("<rect x=\"", number(x), "\" y=\"", number(y), "\" width=\"", number(width),
             "\" height=\"", number(height), "\" fill=\"", fill, "\"");
  if (opacity < 1) text += " fill-opacity=\"" + number(opacity) + "\"";
  return text + "/>\n";
}

// One part of a head's union, bound on its own.
struct Part {
  BoundPattern bound;
  std::string label;
};

// One head to draw.
struct Column {
  int64_t layer, head;
  int64_t row_length, corner_begin;
  std::vector<Part> parts;
};

Column make_column(const BoundPattern& bound, int64_t layer, int64_t head) {
  const Expr& expr = bound.expr(head);
  const auto as_pattern = [](const Expr& part) { return Pattern({{0, part}}, true); };
  const int64_t n = bound.k_len();
  Column column{layer, head, row_length(expr, n), corner_begin(expr, n), {}};
  const bool several = expr.op == Expr::Op::kUnion;
  for (const Expr& part : several ? expr.operands : std::vector<Expr>{expr}) {
    const Pattern pattern({{0, part}}, bound.causal());
    column.parts.push_back(
        {pattern.bind(bound.heads(), bound.q_len(), bound.k_len()), as_pattern(part).to_string()});
  }
  return column;
}

std::vector<Column> make_columns(const std::vector<Pattern>& cycle, int64_t heads, int64_t seq_len,
                                 int64_t& left_out) {
  std::vector<Column> columns;
  left_out = 0;
  for (size_t layer = 0; layer < cycle.size(); ++layer) {
    const BoundPattern bound = cycle[layer].bind(heads, seq_len, seq_len);
    for (int64_t group = 0; group < bound.groups(); ++group) {
      if (static_cast<int64_t>(columns.size()) == kMaxHeads) {
        ++left_out;
      } else {
        columns.push_back(make_column(bound, static_cast<int64_t>(layer), bound.group_head(group)));
      }
    }
  }
  return columns;
}

// Where the drawings of every column stand, from the top.
struct Places {
  double fold = 0, matrix = 0, corner = 0, legend = 0, width = 0, height = 0;
};

Places make_places(const std::vector<Column>& columns) {
  bool folds = false, corners = false;
  size_t parts = 0;
  for (const Column& column : columns) {
    folds = folds || column.row_length > 0;
    corners = corners || column.corner_begin > 0;
    parts = std::max(parts, column.parts.size());
  }
  Places places;
  places.fold = kTop;
  places.matrix = places.fold + (folds ? kSide + kLabel : 0);
  places.corner = places.matrix + kSide + kLabel;
  places.legend = places.corner + (corners ? kSide + kLabel : 0);
  places.width = kGap + (kSide + kGap) * static_cast<double>(columns.size());
  places.height = places.legend + 16 * static_cast<double>(parts) + kGap / 2;
  return places;
}

std::string_view part_color(size_t part) { return kPartColors[part % kPartColors.size()]; }

// Calls draw(begin, end, value) for every stretch of equal values that are not 0.
template <typename Value, typename Draw>
void for_stretches(int64_t count, const Value& value, const Draw& draw) {
  for (int64_t begin = 0; begin < count;) {
    const auto here = value(begin);
    int64_t end = begin + 1;
    while (end < count && value(end) == here) ++end;
    if (here != 0) draw(begin, end, here);
    begin = end;
  }
}

// The matrix of queries and keys from position `first` on, in a square at (x, y).
void draw_matrix(std::ostream& out, const Column& column, int64_t first, double x, double y) {
  const BoundPattern& bound = column.parts[0].bound;
  const int64_t cells = std::min(bound.k_len() - first, kMaxCells);
  const double cell = kSide / static_cast<double>(cells);
  out << "<g shape-rendering=\"crispEdges\">\n" << rectangle(x, y, kSide, kSide, kAllowed);
  for (int64_t row = 0; row + 1 < cells && bound.causal(); ++row) {
    const auto live = static_cast<double>(row + 1);
    out << rectangle(x + live * cell, y + static_cast<double>(row) * cell, kSide - live * cell,
                     cell, kForbidden);
  }
  for (size_t part = column.parts.size(); part-- > 0;) {
    const Picture grid = picture(column.parts[part].bound, column.head, cells, cells, first);
    for (int64_t row = 0; row < cells; ++row) {
      // Eighths of the square root, so that a thin stride still shows.
      const auto level = [&](int64_t c) { return std::ceil(std::sqrt(grid.at(row, c)) * 8); };
      for_stretches(cells, level, [&](int64_t begin, int64_t end, double eighths) {
        out << rectangle(x + static_cast<double>(begin) * cell, y + static_cast<double>(row) * cell,
                         static_cast<double>(end - begin) * cell, cell, part_color(part),
                         eighths / 8);
      });
    }
  }
  out << "</g>\n";
}

// The query whose keys are shown: two thirds down, in the middle of its row.
int64_t shown_query(int64_t seq_len, int64_t length) {
  const int64_t rows = (seq_len + length - 1) / length;
  return std::min(seq_len - 1, rows * 2 / 3 * length + length / 2);
}

// The keys of one query, positions in rows of column.row_length, in a square at (x, y).
void draw_fold(std::ostream& out, const Column& column, double x, double y) {
  const int64_t n = column.parts[0].bound.k_len(), length = column.row_length;
  const int64_t rows = (n + length - 1) / length, query = shown_query(n, length);
  const double cell = kSide / static_cast<double>(std::max(rows, length));
  const auto rows_of = [&](const auto& value, std::string_view color) {
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t begin = row * length, count = std::min(length, n - begin);
      for_stretches(
          count, [&](int64_t i) { return value(begin + i) ? 1 : 0; },
          [&](int64_t from, int64_t to, int) {
            out << rectangle(x + static_cast<double>(from) * cell,
                             y + static_cast<double>(row) * cell,
                             static_cast<double>(to - from) * cell, cell, color);
          });
    }
  };
  const bool causal = column.parts[0].bound.causal();
  out << "<g shape-rendering=\"crispEdges\">\n";
  rows_of([&](int64_t) { return true; }, kAllowed);
  if (causal) rows_of([&](int64_t key) { return key > query; }, kForbidden);
  std::vector<uint64_t> bits(static_cast<size_t>((n + 63) / 64));
  for (size_t part = column.parts.size(); part-- > 0;) {
    std::fill(bits.begin(), bits.end(), 0);
    pattern::add_row(column.parts[part].bound, column.head, query, 0, n, bits.data());
    const auto live = [&](int64_t key) {
      return ((bits[static_cast<size_t>(key / 64)] >> (key % 64)) & 1) != 0;
    };
    rows_of(live, part_color(part));
  }
  // Large enough to be seen.
  const double side = std::max(cell, 3.0), middle = (side - cell) / 2;
  out << rectangle(x + static_cast<double>(query % length) * cell - middle,
                   y + static_cast<double>(query / length) * cell - middle, side, side,
                   kQueryColor);
  out << "</g>\n";
  if (cell >= 6) {  // a grid, as on squared paper
    out << "<path fill=\"none\" stroke=\"#ffffff\" d=\"";
    for (int64_t line = 1; line < rows; ++line) {
      out << "M" << number(x) << " " << number(y + static_cast<double>(line) * cell) << "h"
          << number(static_cast<double>(length) * cell);
    }
    for (int64_t line = 1; line < length; ++line) {
      out << "M" << number(x + static_cast<double>(line) * cell) << " " << number(y) << "v"
          << number(static_cast<double>(rows) * cell);
    }
    out << "\"/>\n";
  }
}

void draw_legend(std::ostream& out, const Column& column, double x, double y) {
  for (size_t part = 0; part < column.parts.size(); ++part) {
    out << rectangle(x, y - 9, 10, 10, part_color(part))
        << text_at(x + 15, y, 12, column.parts[part].label);
    y += 16;
  }
}

}  // namespace

std::string explain_svg(const std::vector<Pattern>& cycle, int64_t heads, int64_t seq_len) {
  LACE_CHECK(!cycle.empty(), "[explain] cycle must be at least one pattern, got none");
  int64_t left_out = 0;
  const std::vector<Column> columns = make_columns(cycle, heads, seq_len, left_out);
  const Places places = make_places(columns);

  std::ostringstream out;
  out << "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " << number(places.width) << " "
      << number(places.height) << "\" width=\"" << number(places.width) << "\" height=\""
      << number(places.height) << "\" font-family=\"sans-serif\" fill=\"#222222\">\n"
      << rectangle(0, 0, places.width, places.height, "#ffffff")
      << text_at(kGap, 26, 14,
                 concat("seq_len ", seq_len, ", heads ", heads,
                        left_out > 0 ? concat(", ", left_out, " more heads not drawn") : ""));
  for (size_t c = 0; c < columns.size(); ++c) {
    const Column& column = columns[c];
    const double x = kGap + (kSide + kGap) * static_cast<double>(c);
    const std::string head = concat("head ", column.head);
    out << text_at(x, kTop - 12, 13,
                   cycle.size() > 1 ? concat("layer ", column.layer, ", ", head) : head);
    if (column.row_length > 0) {
      draw_fold(out, column, x, places.fold);
      out << text_at(x, places.fold + kSide + 16, 11,
                     concat("keys of query ", shown_query(seq_len, column.row_length), ", rows of ",
                            column.row_length));
    }
    draw_matrix(out, column, 0, x, places.matrix);
    out << text_at(x, places.matrix + kSide + 16, 11, "queries down, keys across");
    if (column.corner_begin > 0) {
      draw_matrix(out, column, column.corner_begin, x, places.corner);
      out << text_at(x, places.corner + kSide + 16, 11,
                     concat("the last ", seq_len - column.corner_begin, " positions"));
    }
    draw_legend(out, column, x, places.legend);
  }
  out << "</svg>\n";
  return out.str();
}

}  // namespace lace
