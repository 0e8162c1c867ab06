#include "report/report.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <ctime>

#include "lace/error.h"
#include "lace/pattern.h"

#include "core/format.h"
#include "core/safe_text.h"
#include "plan/explain_svg.h"
#include "report/html.h"
#include "report/page_style.h"
#include "report/sections.h"

namespace lace::report {
namespace {

constexpr size_t kSmoothing = 25;
// Larger pictures would take seconds.
constexpr int64_t kMostPictured = int64_t{1} << 21, kMostHeads = 1024;
constexpr size_t kMostPatternText = 2000, kMostPatterns = 64;

std::string bits(double value) {
  if (!std::isfinite(value)) return "–";
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, std::abs(value) < 100 ? "%.3f" : "%.0f", value);
  return buffer;
}

std::string plain(double value) { return without_zeros(format_number(value)); }

std::vector<Point> curve(const std::vector<Bucket>& buckets, Figure figure, bool band) {
  std::vector<Point> points;
  for (const Bucket& bucket : buckets) {
    const Spread& spread = bucket.of(figure);
    if (spread.count == 0) continue;
    Point point{static_cast<double>(bucket.last_step), bucket.elapsed_s, spread.mean()};
    if (band) {
      point.low = spread.least;
      point.high = spread.most;
    }
    points.push_back(point);
  }
  return points;
}

std::string tile(std::string_view name, const std::string& figure, const std::string& small = "") {
  return concat("<div><dt>", name, "</dt><dd>", escaped(figure),
                small.empty() ? "" : concat("<small>", escaped(small), "</small>"), "</dd></div>");
}

std::string tiles(const Run& run) {
  const History& history = run.history;
  std::string html = "<dl class=tiles>";
  if (const auto best = history.best_validation()) {
    const auto last = history.last_validation();
    html += tile("best validation", bits(best->bits_per_byte),
                 concat("bits/byte, at step ", format_count(best->step),
                        last->step != best->step ? "; last " + bits(last->bits_per_byte) : ""));
  }
  html += tile("training", bits(history.recent(Figure::kBits)), "bits/byte, of late");
  const auto total = run.total_steps();
  html += tile("steps", format_count(history.step()), total ? "of " + format_count(*total) : "");
  if (const auto bytes_of_step = run.bytes_of_step()) {
    const double bytes = *bytes_of_step * static_cast<double>(history.step());
    const double data = number_at(run.description, {"bytes", "train"}).value_or(0);
    html += tile("bytes", format_bytes(bytes),
                 data > 0 ? format_number(bytes / data) + " times the training bytes" : "");
  }
  const auto left = run.state == State::kFinished ? std::nullopt : run.remaining_s();
  html += tile("time", format_duration(run.elapsed_s()),
               left ? format_duration(*left) + " left" : "");
  const double speed = history.recent(Figure::kTokensPerS);
  const double share = history.recent(Figure::kShareOfPeak);
  if (std::isfinite(speed))
    html += tile("tokens/s", format_count(std::llround(speed)),
                 std::isfinite(share) ? format_number(100 * share) + "% of the measured peak" : "");
  return html + "</dl>";
}

std::string head(const Run& run) {
  std::string facts;
  const auto add = [&](const std::string& fact) {
    facts += (facts.empty() || fact.empty() ? "" : " · ") + fact;
  };
  if (const std::string pattern = run.pattern(); !pattern.empty())
    add("<code>" + escaped(pattern.substr(0, kMostPatternText)) + "</code>");
  if (const auto parameters = run.parameters()) add(format_count(*parameters) + " parameters");
  if (const auto seq_len = run.recipe.integer("model", "seq_len"))
    add("context " + format_count(*seq_len));
  const std::string gpu = text_at(run.description, {"machine", "gpu"});
  add(escaped(gpu.empty() ? text_at(run.description, {"machine", "processor"}) : gpu));
  return concat("<header><div class=head><h1>", escaped(run.name), "</h1><span class=\"state ",
                name(run.state), "\">", name(run.state), "</span></div><p class=soft>", facts,
                "</p><div class=progress role=progressbar aria-label=\"done\" aria-valuenow=",
                std::llround(100 * run.fraction()),
                "><i style=\"width:", short_number(100 * run.fraction()), "%\"></i></div>",
                tiles(run), "</header>\n");
}

std::vector<Mark> spike_marks(const History& history) {
  std::vector<Mark> marks;
  for (const Spike& spike : history.spikes())
    marks.push_back({static_cast<double>(spike.step), spike.elapsed_s,
                     concat("spike at step ", format_count(spike.step))});
  return marks;
}

Series series_of(const Run& run, std::string name, int color, std::vector<Point> points) {
  Series series;
  series.name = std::move(name);
  series.color = color;
  series.bytes_of_step = run.bytes_of_step().value_or(0);
  series.points = std::move(points);
  return series;
}

std::string loss_chart(const Run& run) {
  Chart chart;
  chart.title = "Bits a byte";
  chart.what = "the band is from the least to the largest of the steps that a point stands for";
  chart.series.push_back(
      series_of(run, "training, smoothed", 0, training_curve(run.history, true)));
  Series validation = series_of(run, "validation", 1, validation_curve(run.history));
  validation.dots = validation.points.size() <= 60;
  if (!validation.points.empty()) chart.series.push_back(std::move(validation));
  chart.marks = spike_marks(run.history);
  chart.format_y = bits;
  fit_y(chart, false);
  const std::string html = chart_html(chart);
  return html.empty() ? html : "<div class=tall>" + html + "</div>";
}

// One figure over the steps, or "" where no line has it.
std::string figure_chart(const Run& run, Figure figure, const std::string& title, bool band,
                         std::string (*format)(double),
                         std::string (*format_tick)(double) = nullptr) {
  Chart chart;
  chart.title = title;
  chart.series.push_back(series_of(run, title, 0, curve(run.history.steps(), figure, band)));
  if (chart.series[0].points.empty()) return "";
  chart.format_y = format;
  chart.format_tick = format_tick;
  fit_y(chart, true);
  return chart_html(chart);
}

std::string parts_card(const Run& run) {
  std::vector<std::pair<double, std::string>> parts;
  double all = 0;
  for (const auto& [name, seconds] : run.history.parts_s()) {
    parts.emplace_back(seconds, name);
    all += seconds;
  }
  if (!(all > 0)) return "";
  std::sort(parts.rbegin(), parts.rend());
  std::string bar, rows;
  for (size_t i = 0; i < parts.size(); ++i) {
    const auto& [seconds, name] = parts[i];
    const double percent = 100 * seconds / all;
    const std::string color = concat("c", i % 8);
    bar += concat("<i class=", color, " style=\"width:", short_number(percent, 3), "%\"></i>");
    rows += concat("<tr><td><span class=", color, ">■</span> ", escaped(name),
                   "</td><td class=num>", format_duration(seconds), "</td><td class=num>",
                   format_number(percent), "%</td></tr>");
  }
  return concat("<div class=card><b>Where the time went</b><div class=parts>", bar,
                "</div><table class=wide><tbody>", rows, "</tbody></table></div>");
}

std::string spikes_section(const History& history) {
  if (history.spike_count() == 0) return "";
  std::string rows;
  const std::vector<Spike>& spikes = history.spikes();
  for (size_t i = spikes.size(); i-- > 0;) {
    std::string windows;
    for (const int64_t window : spikes[i].windows)
      windows += (windows.empty() ? "" : ", ") + format_count(window);
    rows += concat("<tr><td class=num>", format_count(spikes[i].step), "</td><td class=num>",
                   bits(spikes[i].bits_per_byte), "</td><td>", windows, "</td></tr>");
  }
  return concat("<h2>Spikes</h2><div class=card><p>", format_count(history.spike_count()),
                history.spike_count() == 1 ? " step" : " steps",
                " whose loss leapt, and where their windows begin in the training bytes",
                history.spike_count() > static_cast<int64_t>(spikes.size())
                    ? concat("; the last ", spikes.size())
                    : "",
                ".</p><div class=scroll><table><thead><tr><th class=num>step</th><th class=num>"
                "bits/byte</th><th>first bytes of its windows</th></tr></thead><tbody>",
                rows, "</tbody></table></div></div>\n");
}

std::string notes_section(const Run& run) {
  if (run.notes.empty()) return "";
  std::string items;
  for (const std::string& note : run.notes) items += "<li>" + escaped(note) + "</li>";
  return "<h2>Notes</h2><div class=card><ul>" + items + "</ul></div>\n";
}

// "2026-11-27 17:08 UTC"
std::string now_text() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  char buffer[64];
  std::strftime(buffer, sizeof buffer, "%Y-%m-%d %H:%M UTC", &utc);
  return buffer;
}

// The width that a picture's SVG asks for; 0 where there is none.
int64_t picture_width(const std::string& picture) {
  constexpr std::string_view kWidth = " width=\"";
  const size_t at = picture.find(kWidth, picture.find("<svg"));
  return at == std::string::npos ? 0 : std::atoll(picture.c_str() + at + kWidth.size());
}

std::string draw_patterns(const Run& run) try {
  const std::vector<std::string> texts = run.patterns();
  const int64_t seq_len = run.recipe.integer("model", "seq_len").value_or(0),
                heads = run.recipe.integer("model", "heads").value_or(0);
  size_t length = 0;
  for (const std::string& text : texts) length += text.size();
  LACE_CHECK(!texts.empty() && texts.size() <= kMostPatterns && length <= kMostPatternText &&
                 seq_len >= 1 && seq_len <= kMostPictured && heads >= 1 && heads <= kMostHeads,
             "[report] the recipe names no patterns that can be drawn");
  std::vector<Pattern> cycle;
  for (const std::string& text : texts) cycle.push_back(Pattern::parse(text));
  std::string svg;
  SafeText safe;
  for (const char c : explain_svg(cycle, heads, seq_len)) svg += safe.add(static_cast<uint8_t>(c));
  return "<div class=picture>" + svg + safe.finish() + "</div>";
} catch (const Error& error) {
  return concat("<p class=soft>No picture: ", escaped(printable(error.what())), "</p>");
}

}  // namespace

std::vector<Point> training_curve(const History& history, bool smoothed) {
  std::vector<Point> points = curve(history.steps(), Figure::kBits, true);
  if (!smoothed) return points;
  const double keep = 1 - 2.0 / (std::max<double>(2, static_cast<double>(points.size()) /
                                                         static_cast<double>(kSmoothing)) +
                                 1);
  double mean = 0, weight = 0;
  for (Point& point : points) {
    mean = keep * mean + (1 - keep) * point.y;
    weight = keep * weight + (1 - keep);
    point.y = mean / weight;
  }
  return points;
}

std::vector<Point> validation_curve(const History& history) {
  return curve(history.validations(), Figure::kValidation, false);
}

std::string Report::html() {
  const Run& run = reader_.update();
  const std::string pictured = concat(run.pattern(), "\n", run.recipe.string("model", "seq_len"),
                                      run.recipe.number("model", "seq_len").value_or(0), " ",
                                      run.recipe.number("model", "heads").value_or(0));
  if (picture_.empty() || pictured != pictured_) picture_ = draw_patterns(run);
  pictured_ = pictured;

  std::string html = page_begin(run.name, name(run.state)) + head(run);
  html += concat(
      "<div class=bar><h2>Learning</h2>", kSwitch, "</div>\n", loss_chart(run), "<div class=pair>",
      figure_chart(run, Figure::kLearningRate, "Learning rate", false, plain),
      figure_chart(run, Figure::kGradientNorm, "Gradient norm, before clipping", true, plain),
      "</div>\n");
  if (run.history.lines() == 0) html += "<p class=card>No step has been taken yet.</p>\n";
  html += baselines_section(run) + samples_section(run) + attention_section(run);
  const auto percent = [](double share) { return format_number(100 * share) + "%"; };
  const std::string speed =
      figure_chart(run, Figure::kTokensPerS, "Tokens a second", true, format_number, format_short);
  if (!speed.empty())
    html +=
        concat("<h2>Speed and memory</h2><div class=pair>", speed, parts_card(run),
               figure_chart(run, Figure::kShareOfPeak, "Share of the measured peak", true, percent),
               figure_chart(run, Figure::kMemoryBytes, "Memory", true, format_bytes), "</div>\n");
  // A picture of one head fits between the settings.
  const bool narrow = picture_width(picture_) <= 320;
  if (!narrow) html += concat("<h2>Patterns</h2><div class=card>", picture_, "</div>\n");
  html += spikes_section(run.history) + settings_section(run, narrow ? picture_ : "") +
          notes_section(run);
  html +=
      concat("<footer>lace ", escaped(text_at(run.description, {"version"})), " · ",
             escaped(printable(run.folder)), " · written ", now_text(),
             run.state == State::kTraining ? ", renewed while the run goes" : "", "</footer>\n");
  return html + page_end();
}

}  // namespace lace::report
