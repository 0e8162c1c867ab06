#include "report/chart.h"

#include <cmath>

#include <gtest/gtest.h>

#include "core/format.h"
#include "report/html.h"

namespace lace::report {
namespace {

Chart line(std::vector<Point> points) {
  Chart chart;
  chart.title = "A <title>";
  chart.series.push_back({"a \"name\"", 0, true, false, 1024, std::move(points)});
  chart.format_y = [](double y) { return short_number(y); };
  return chart;
}

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++found;
  return found;
}

TEST(Chart, StepsAndBytesShareADrawingOfOneRun) {
  const std::string html = chart_html(line({{1, 1, 5}, {2, 4, 4}, {3, 5, 3}}));
  EXPECT_EQ(count(html, "<svg "), 2u);
  EXPECT_NE(html.find("<svg class=\"by-steps by-bytes\""), std::string::npos);
  EXPECT_NE(html.find("<svg class=\"by-time\""), std::string::npos);
  EXPECT_NE(html.find("A &lt;title&gt;"), std::string::npos);
  EXPECT_NE(html.find("a &quot;name&quot;"), std::string::npos);
  EXPECT_NE(html.find("data-points=\"[[[1,1,5],[2,4,4],[3,5,3]]]\""), std::string::npos);
}

TEST(Chart, RunsOfOtherBatchesDoNot) {
  Chart chart = line({{1, 1, 5}, {2, 4, 4}});
  chart.series.push_back(chart.series[0]);
  chart.series[1].bytes_of_step = 4096;
  fit_y(chart, false);
  EXPECT_EQ(count(chart_html(chart), "<svg "), 3u);
  chart.series[1].bytes_of_step = 0;
  const std::string html = chart_html(chart);
  EXPECT_EQ(count(html, "<svg "), 2u);
  EXPECT_NE(html.find("not known of this run"), std::string::npos);
  EXPECT_EQ(chart_svg(chart, Across::kBytes, 0), "");
}

TEST(Chart, TheBeginningOfACurveDoesNotSetItsRange) {
  std::vector<Point> points;
  for (int step = 1; step <= 100; ++step)
    points.push_back({static_cast<double>(step), 1.0 * step, step < 4 ? 8.0 : 2 - 0.01 * step});
  Chart chart = line(points);
  fit_y(chart, false);
  EXPECT_LT(chart.y_high, 3);
  EXPECT_NEAR(chart.y_low, 1, 0.1);
  fit_y(chart, true);
  EXPECT_EQ(chart.y_low, 0);
}

TEST(Chart, TicksMayBeShorterThanFigures) {
  Chart chart = line({{1, 1, 20000}, {2, 2, 34171}});
  chart.format_y = format_number;
  fit_y(chart, true);
  EXPECT_NE(chart_html(chart).find(">30,000</span>"), std::string::npos);
  chart.format_tick = format_short;
  const std::string html = chart_html(chart);
  EXPECT_NE(html.find(">30k</span>"), std::string::npos);
  EXPECT_NE(html.find("<td>34,171</td>"), std::string::npos);
}

TEST(Chart, NothingToDraw) {
  EXPECT_EQ(chart_html(line({})), "");
  Chart chart = line({{1, 1, NAN}, {2, 2, NAN}});
  fit_y(chart, false);
  EXPECT_LT(chart.y_low, chart.y_high);
  EXPECT_EQ(count(chart_html(chart), "nan"), 0u);
  chart = line({{1, 0, 2}});
  fit_y(chart, false);
  EXPECT_LT(chart.y_low, chart.y_high);
  EXPECT_NE(chart_html(chart).find("not known of this run"), std::string::npos);  // its time
}

TEST(Chart, GapsBreakALine) {
  Chart chart = line({{1, 1, 5}, {2, 2, NAN}, {3, 3, 4}, {4, 4, 3}});
  fit_y(chart, false);
  const std::string html = chart_html(chart);
  const size_t at = html.find("class=\"line c0\" d=\"");
  ASSERT_NE(at, std::string::npos);
  const size_t begin = html.find("d=\"", at) + 3;
  EXPECT_EQ(count(html.substr(begin, html.find('"', begin) - begin), "M"), 2u);
}

}  // namespace
}  // namespace lace::report
