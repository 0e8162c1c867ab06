#include "report/chart.h"

#include <algorithm>
#include <cmath>

#include "lace/error.h"

#include "core/format.h"
#include "core/ticks.h"
#include "report/html.h"

namespace lace::report {
namespace {

// A drawing's inner coordinates, which a page stretches to its width.
constexpr double kWidth = 2000, kHeight = 1000;
constexpr int kTicksAcross = 6, kTicksUp = 5;
constexpr size_t kTableRows = 16;

// Colours of a drawing that stands alone; a page's style has its own.
constexpr std::array<const char*, kColors> kStandalone{"#1f66b3", "#c2410c", "#0f766e", "#7e3fa8",
                                                       "#a16207", "#be185d", "#4d7c0f", "#475569"};

double last_x(const Chart& chart, Across across) {
  double most = 0;
  for (const Series& series : chart.series)
    for (const Point& point : series.points) most = std::max(most, series.x(point, across));
  return most;
}

std::string format_x(double x, Across across) {
  if (across == Across::kTime) return format_duration(x);
  if (across == Across::kBytes) return format_bytes(x);
  return x < 1e5 ? format_count(std::llround(x)) : format_short(x);
}

// Of time the round numbers are those of a clock.
std::vector<double> ticks_across(double most, Across across) {
  if (across == Across::kSteps) {  // which are whole
    std::vector<double> ticks = round_ticks(0, most, kTicksAcross);
    std::erase_if(ticks, [](double tick) { return tick != std::floor(tick); });
    return ticks;
  }
  if (across == Across::kBytes) return round_ticks(0, most, kTicksAcross);
  constexpr double kSteps[] = {1,     2,     5,     10,    15,     20,     30,    60,
                               120,   300,   600,   900,   1200,   1800,   3600,  7200,
                               10800, 21600, 43200, 86400, 172800, 432000, 864000};
  double step = kSteps[std::size(kSteps) - 1];
  for (const double candidate : kSteps) {
    if (most / candidate <= kTicksAcross) {
      step = candidate;
      break;
    }
  }
  if (most / step > 2 * kTicksAcross || most < 2) return round_ticks(0, most, kTicksAcross);
  std::vector<double> ticks;
  for (double tick = 0; tick <= most; tick += step) ticks.push_back(tick);
  return ticks;
}

// From a chart's values to a rectangle's places.
struct Frame {
  double left = 0, top = 0, width = kWidth, height = kHeight, x_high = 1, y_low = 0, y_high = 1;

  double x(double value) const { return left + width * value / x_high; }
  double y(double value) const {
    const double share = (value - y_low) / (y_high - y_low);
    return top + height * (1 - std::clamp(share, -4.0, 5.0));
  }
};

// A path through points, in whole numbers, each relative to the one before.
class Path {
 public:
  void move(double x, double y) { add(x, y, true); }
  void line(double x, double y) { add(x, y, false); }
  const std::string& text() const { return text_; }

 private:
  void add(double x, double y, bool move) {
    const long long to_x = std::llround(x), to_y = std::llround(y);
    if (move) {
      text_ += concat("M", to_x, " ", to_y);
      letter_ = 'l';
    } else {
      const long long dx = to_x - x_, dy = to_y - y_;
      if (letter_ != 0)
        text_ += letter_;
      else if (dx >= 0)
        text_ += ' ';
      letter_ = 0;
      text_ += concat(dx, dy >= 0 ? " " : "", dy);
    }
    x_ = to_x;
    y_ = to_y;
  }
  std::string text_;
  char letter_ = 0;
  long long x_ = 0, y_ = 0;
};

bool has_band(const Series& series) {
  return std::any_of(series.points.begin(), series.points.end(),
                     [](const Point& p) { return std::isfinite(p.low); });
}

std::string band_path(const Series& series, Across across, const Frame& frame) {
  Path path;
  std::vector<const Point*> stretch;
  const auto close = [&] {
    for (size_t i = 0; i < stretch.size(); ++i) {
      const double x = frame.x(series.x(*stretch[i], across));
      i == 0 ? path.move(x, frame.y(stretch[i]->high)) : path.line(x, frame.y(stretch[i]->high));
    }
    for (size_t i = stretch.size(); i-- > 0;)
      path.line(frame.x(series.x(*stretch[i], across)), frame.y(stretch[i]->low));
    stretch.clear();
  };
  for (const Point& point : series.points) {
    if (std::isfinite(point.low) && std::isfinite(point.high)) {
      stretch.push_back(&point);
    } else {
      close();
    }
  }
  close();
  return path.text();
}

std::string line_path(const Series& series, Across across, const Frame& frame) {
  Path path;
  bool down = false;
  for (const Point& point : series.points) {
    if (!std::isfinite(point.y)) {
      down = false;
      continue;
    }
    const double x = frame.x(series.x(point, across)), y = frame.y(point.y);
    down ? path.line(x, y) : path.move(x, y);
    down = true;
  }
  return path.text();
}

std::string dots_path(const Series& series, Across across, const Frame& frame) {
  std::string text;
  for (const Point& point : series.points) {
    if (!std::isfinite(point.y)) continue;
    text += concat("M", std::llround(frame.x(series.x(point, across))), " ",
                   std::llround(frame.y(point.y)), "h0");
  }
  return text;
}

double mark_x(const Chart& chart, const Mark& mark, Across across) {
  const Series& first = chart.series.front();
  return first.x({mark.step, mark.elapsed_s}, across);
}

std::string drawing(const Chart& chart, Across across) {
  const Frame frame{0, 0, kWidth, kHeight, last_x(chart, across), chart.y_low, chart.y_high};
  std::string svg;
  for (const double tick : round_ticks(chart.y_low, chart.y_high, kTicksUp))
    svg += concat("<path class=grid d=\"M0 ", std::llround(frame.y(tick)), "h", kWidth, "\"/>");
  for (const Mark& mark : chart.marks)
    svg += concat("<path class=mark d=\"M", std::llround(frame.x(mark_x(chart, mark, across))),
                  " 0v", kHeight, "\"><title>", escaped(mark.text), "</title></path>");
  for (const Series& series : chart.series) {
    if (has_band(series))
      svg += concat("<path class=\"band c", series.color, "\" d=\"",
                    band_path(series, across, frame), "\"/>");
  }
  for (const Series& series : chart.series) {
    svg += concat("<path class=\"line c", series.color, series.dashed ? " dashed" : "", "\" d=\"",
                  line_path(series, across, frame), "\"/>");
    if (series.dots)
      svg += concat("<path class=\"dots c", series.color, "\" d=\"",
                    dots_path(series, across, frame), "\"/>");
  }
  return svg;
}

// Of one curve with the chart's own name the page shows none; its script reads it still.
std::string legend_html(const Chart& chart) {
  const bool told = chart.series.size() == 1 && chart.series[0].name == chart.title;
  std::string html = concat("<ul class=legend", told ? " hidden" : "", ">");
  for (const Series& series : chart.series)
    html += concat("<li class=\"c", series.color, series.dots ? " dotted" : "",
                   series.dashed ? " dashed" : "", "\"><i></i><span>", escaped(series.name),
                   "</span></li>");
  if (!chart.marks.empty()) html += "<li class=marked><i></i><span>spike</span></li>";
  return html + "</ul>";
}

// What a page's script shows under the pointer: of each series [step, seconds, y].
std::string points_json(const Chart& chart) {
  std::string json = "[";
  for (const Series& series : chart.series) {
    json += json.size() > 1 ? ",[" : "[";
    bool first = true;
    for (const Point& point : series.points) {
      if (!std::isfinite(point.y)) continue;
      json += concat(first ? "" : ",", "[", short_number(point.step, 9), ",",
                     short_number(point.elapsed_s, 6), ",", short_number(point.y), "]");
      first = false;
    }
    json += "]";
  }
  return json + "]";
}

// Steps at which some series has a point, thinned to kTableRows with the first and the last.
std::string table_html(const Chart& chart) {
  std::string html =
      "<details class=figures><summary>As a table</summary><div class=scroll><table>"
      "<thead><tr><th>curve</th><th>step</th><th>time</th><th>value</th></tr>"
      "</thead><tbody>";
  for (const Series& series : chart.series) {
    const size_t count = series.points.size(), rows = std::min(count, kTableRows);
    for (size_t row = 0; row < rows; ++row) {
      const Point& point = series.points[rows < 2 ? 0 : row * (count - 1) / (rows - 1)];
      html += concat("<tr><td>", escaped(series.name), "</td><td>",
                     format_count(std::llround(point.step)), "</td><td>",
                     format_duration(point.elapsed_s), "</td><td>", chart.format_y(point.y),
                     "</td></tr>");
    }
  }
  return html + "</tbody></table></div></details>";
}

// Whether all curves have places on the axis.
bool is_known(const Chart& chart, Across across) {
  if (!(last_x(chart, across) > 0)) return false;
  return across != Across::kBytes ||
         std::all_of(chart.series.begin(), chart.series.end(),
                     [](const Series& series) { return series.bytes_of_step > 0; });
}

std::string tick_text(const Chart& chart, double tick) {
  return chart.format_tick ? chart.format_tick(tick) : without_zeros(chart.format_y(tick));
}

std::string style_percent(const char* side, double share) {
  return concat("style=\"", side, ":", short_number(100 * share), "%\"");
}

std::string ticks_html(const Chart& chart, Across across) {
  const double most = last_x(chart, across);
  std::string html = concat("<div class=\"across by-", name(across), "\">");
  const std::vector<double> ticks = ticks_across(most, across);
  for (const double tick : ticks)
    html += concat("<span ", style_percent("left", tick / most), ">", format_x(tick, across),
                   "</span>");
  return html + "</div>";
}

}  // namespace

std::string_view name(Across across) {
  switch (across) {
    case Across::kSteps:
      return "steps";
    case Across::kBytes:
      return "bytes";
    case Across::kTime:
      break;
  }
  return "time";
}

double Series::x(const Point& point, Across across) const {
  return across == Across::kSteps   ? point.step
         : across == Across::kBytes ? point.step * bytes_of_step
                                    : point.elapsed_s;
}

void fit_y(Chart& chart, bool from_zero) {
  const double begin = last_x(chart, Across::kSteps) / 20;
  std::vector<double> values;
  for (const bool all : {false, true}) {  // all: where too little lies past the beginning
    for (const Series& series : chart.series) {
      if (!all && series.points.size() < 3) continue;
      for (const Point& point : series.points)
        if (std::isfinite(point.y) && (all || point.step > begin)) values.push_back(point.y);
    }
    if (values.size() >= 8) break;
  }
  if (values.empty()) values = {0, 1};
  std::sort(values.begin(), values.end());
  // Of many values the largest few may stand out of the picture.
  const double low = from_zero ? 0 : values.front();
  const double high = values[values.size() - 1 - values.size() / 100];
  const double room = high > low ? 0.06 * (high - low) : std::max(std::abs(high) * 0.1, 1e-9);
  chart.y_low = from_zero ? 0 : low - room;
  chart.y_high = high + room;
}

std::string chart_html(const Chart& chart) {
  if (chart.series.empty() || !(last_x(chart, Across::kSteps) > 0)) return "";
  std::string x_high = "[", bytes_json = "[", drawings, ticks, before;
  for (const Series& series : chart.series)
    bytes_json += concat(bytes_json.size() > 1 ? "," : "", short_number(series.bytes_of_step, 12));
  for (const Across across : kAcross) {
    const bool known = is_known(chart, across);
    const double most = known ? last_x(chart, across) : 0;
    x_high += concat(across == Across::kSteps ? "" : ",", short_number(most, 12));
    if (!known) {
      drawings += concat("<p class=\"unknown by-", name(across), "\">not known of this run</p>");
      continue;
    }
    const std::string svg = drawing(chart, across);
    if (svg == before) {  // by bytes as by steps
      const size_t at = drawings.rfind("by-steps");
      drawings.insert(at + 8, concat(" by-", name(across)));
    } else {
      drawings += concat("<svg class=\"by-", name(across), "\" viewBox=\"0 0 ", kWidth, " ",
                         kHeight, "\" preserveAspectRatio=none role=img aria-label=\"",
                         escaped(chart.title), " over ", name(across), "\">", svg, "</svg>");
    }
    before = svg;
    ticks += ticks_html(chart, across);
  }
  std::string up;
  for (const double tick : round_ticks(chart.y_low, chart.y_high, kTicksUp)) {
    const double share = (tick - chart.y_low) / (chart.y_high - chart.y_low);
    up += concat("<span ", style_percent("bottom", share), ">", tick_text(chart, tick), "</span>");
  }
  return concat("<figure class=chart><figcaption><b>", escaped(chart.title), "</b> <span>",
                escaped(chart.what), "</span>", legend_html(chart),
                "</figcaption><div class=plot data-high=\"", x_high, "]\" data-bytes=\"",
                bytes_json, "]\" data-points=\"", points_json(chart), "\"><div class=up>", up,
                "</div><div class=area>", drawings, "</div>", ticks, "</div>", table_html(chart),
                "</figure>");
}

std::string chart_svg(const Chart& chart, Across across, double y) {
  if (!is_known(chart, across)) return "";
  const Frame frame{64, 40, 640, 210, last_x(chart, across), chart.y_low, chart.y_high};
  const double bottom = frame.top + frame.height;
  std::string svg = concat("<g transform=\"translate(0 ", short_number(y),
                           ")\">\n<text x=\"16\" "
                           "y=\"22\" font-size=\"14\" font-weight=\"bold\">",
                           escaped(chart.title), " over ", name(across), "</text>\n");
  for (const double tick : round_ticks(chart.y_low, chart.y_high, kTicksUp))
    svg += concat("<path d=\"M", frame.left, " ", std::llround(frame.y(tick)), "h", frame.width,
                  "\" stroke=\"#ddd\"/><text x=\"", frame.left - 8, "\" y=\"",
                  std::llround(frame.y(tick)) + 4, "\" text-anchor=\"end\">",
                  tick_text(chart, tick), "</text>\n");
  for (const double tick : ticks_across(frame.x_high, across))
    svg += concat("<text x=\"", std::llround(frame.x(tick)), "\" y=\"", bottom + 18,
                  "\" text-anchor=\"middle\">", format_x(tick, across), "</text>\n");
  svg += concat("<svg x=\"", frame.left, "\" y=\"", frame.top, "\" width=\"", frame.width,
                "\" height=\"", frame.height, "\" viewBox=\"", frame.left, " ", frame.top, " ",
                frame.width, " ", frame.height, "\">\n");
  for (const Series& series : chart.series) {
    const char* color = kStandalone[static_cast<size_t>(series.color) % kColors];
    svg +=
        concat("<path d=\"", line_path(series, across, frame), "\" fill=\"none\" stroke=\"", color,
               "\" stroke-width=\"2\"", series.dashed ? " stroke-dasharray=\"5 4\"" : "", "/>\n");
    if (series.dots)
      svg += concat("<path d=\"", dots_path(series, across, frame), "\" stroke=\"", color,
                    "\" stroke-width=\"6\" stroke-linecap=\"round\"/>\n");
  }
  return svg + "</svg>\n</g>\n";
}

std::string legend_svg(const Chart& chart, double y) {
  std::string svg;
  for (const Series& series : chart.series) {
    const char* color = kStandalone[static_cast<size_t>(series.color) % kColors];
    svg += concat("<path d=\"M64 ", short_number(y + 8), "h22\" stroke=\"", color,
                  "\" stroke-width=\"3\"", series.dashed ? " stroke-dasharray=\"5 4\"" : "",
                  "/><text x=\"94\" y=\"", short_number(y + 12), "\">", escaped(series.name),
                  "</text>\n");
    y += 20;
  }
  return svg;
}

}  // namespace lace::report
