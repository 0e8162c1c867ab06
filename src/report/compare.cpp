#include "report/compare.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include "lace/error.h"

#include "core/format.h"
#include "core/safe_text.h"
#include "report/chart.h"
#include "report/html.h"
#include "report/page_style.h"
#include "report/report.h"

namespace lace::report {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

std::string bits(double value) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.3f", value);
  return buffer;
}

// Where a curve stands at `x`, straight between two points; nothing outside of it.
std::optional<double> value_at_x(const std::vector<Point>& points, double Point::*x, double at) {
  for (size_t i = 0; i < points.size(); ++i) {
    const Point& point = points[i];
    if (point.*x < at) continue;
    if (point.*x == at) return point.y;
    if (i == 0) return std::nullopt;
    const Point& before = points[i - 1];
    const double share = (at - before.*x) / (point.*x - before.*x);
    return before.y + share * (point.y - before.y);
  }
  return std::nullopt;
}

// The names of folders; the folders themselves where two names are the same.
std::vector<std::string> names(const std::vector<Run>& runs) {
  std::map<std::string, int> count;
  for (const Run& run : runs) ++count[run.name];
  std::vector<std::string> names;
  for (const Run& run : runs)
    names.push_back(printable(count[run.name] > 1 ? run.folder : run.name, 60));
  return names;
}

ComparedRun summary(const Run& run, const std::string& name) {
  ComparedRun row;
  row.name = name;
  row.pattern = printable(run.pattern());
  row.parameters = run.parameters();
  row.steps = run.history.step();
  if (const auto bytes = run.bytes_of_step()) row.bytes = *bytes * static_cast<double>(row.steps);
  row.elapsed_s = run.elapsed_s();
  if (row.bytes && row.elapsed_s > 0) row.tokens_per_s = *row.bytes / row.elapsed_s;
  if (const auto best = run.history.best_validation()) row.best = best->bits_per_byte;
  if (const auto last = run.history.last_validation()) row.last = last->bits_per_byte;
  row.state = run.state;
  return row;
}

// The value of a key, the same text where the recipes say the same.
std::string setting(const Run& run, const std::string& section, const std::string& key) {
  for (const RecipeText::Section& candidate : run.recipe.sections()) {
    if (candidate.name != section) continue;
    for (const RecipeText::Entry& entry : candidate.entries)
      if (entry.key == key) return printable(entry.value);
  }
  return "";
}

void find_settings(const std::vector<Run>& runs, Comparison& comparison) {
  std::vector<std::pair<std::string, std::string>> keys;
  for (const Run& run : runs)
    for (const RecipeText::Section& section : run.recipe.sections())
      for (const RecipeText::Entry& entry : section.entries)
        if (const std::pair key(section.name, entry.key);
            std::find(keys.begin(), keys.end(), key) == keys.end())
          keys.push_back(key);
  for (const auto& [section, key] : keys) {
    std::vector<std::string> values;
    for (const Run& run : runs) values.push_back(setting(run, section, key));
    const bool same = std::all_of(values.begin(), values.end(),
                                  [&](const std::string& value) { return value == values[0]; });
    if (!same)
      comparison.settings.emplace_back(
          printable(section.empty() ? key : concat(section, ".", key), 100), std::move(values));
  }
}

// Of a split: its hash where a checkpoint has told it, its size else; null where nothing is known.
Json fingerprint(const Run& run, const char* split) {
  const Json& kept = value_at(run.last, {"data", split});
  if (!kept.is_null()) return kept;
  const Json& bytes = value_at(run.description, {"bytes", split});
  return bytes.is_null() ? bytes : Json{{"bytes", bytes}};
}

// Where both tell the same of a split, as far as both tell.
bool same_split(const Json& a, const Json& b) {
  for (const auto& [key, value] : a.items())
    if (b.contains(key) && b[key] != value) return false;
  return true;
}

// Where the validations of all runs end, and the name of the run that is the first to end; "" where
// all end there.
std::pair<double, std::string> common_end(const std::vector<std::vector<Point>>& curves,
                                          const std::vector<ComparedRun>& rows, double Point::*x) {
  size_t first = 0;
  double last = 0;
  for (size_t i = 0; i < curves.size(); ++i) {
    if (curves[i].back().*x < curves[first].back().*x) first = i;
    last = std::max(last, curves[i].back().*x);
  }
  const double end = curves[first].back().*x;
  return {end, last > end ? rows[first].name : ""};
}

// Bits a byte of all runs at the last step, and moment, that all have validations up to.
void find_equal(const std::vector<std::vector<Point>>& curves, Comparison& comparison) {
  for (const std::vector<Point>& curve : curves)
    if (curve.empty()) return;
  std::tie(comparison.step, comparison.step_of) = common_end(curves, comparison.rows, &Point::step);
  std::tie(comparison.elapsed_s, comparison.elapsed_of) =
      common_end(curves, comparison.rows, &Point::elapsed_s);
  for (size_t i = 0; i < curves.size(); ++i) {
    ComparedRun& row = comparison.rows[i];
    row.at_step = value_at_x(curves[i], &Point::step, comparison.step);
    row.at_time = value_at_x(curves[i], &Point::elapsed_s, comparison.elapsed_s);
    const Point& first = curves[i].front();
    if (!row.at_step)
      comparison.notes.push_back(
          concat(row.name, " has no figure at step ", format_count(std::llround(comparison.step)),
                 ": its first validation is of step ", format_count(std::llround(first.step))));
    if (!row.at_time)
      comparison.notes.push_back(
          concat(row.name, " has no figure after ", format_duration(comparison.elapsed_s),
                 ": its first validation came after ", format_duration(first.elapsed_s)));
  }
}

void find_notes(const std::vector<Run>& runs, Comparison& comparison) {
  const auto note = [&](size_t i, const std::string& what) {
    comparison.notes.push_back(
        concat(comparison.rows[i].name, " and ", comparison.rows[0].name, ": ", what));
  };
  const auto differ = [&](size_t i, const char* section, const char* key) {
    return setting(runs[i], section, key) != setting(runs[0], section, key);
  };
  for (size_t i = 0; i < runs.size(); ++i) {
    if (!comparison.rows[i].best)
      comparison.notes.push_back(comparison.rows[i].name + " has no validation yet");
    if (i == 0) continue;
    const Json validation = fingerprint(runs[i], "validation"),
               first = fingerprint(runs[0], "validation");
    if (!validation.is_object() || !first.is_object()) {
      note(i, "it is not known whether their data are the same");
    } else if (!same_split(validation, first)) {
      note(i, "other validation bytes: their bits a byte are not comparable");
    }
    const Json train = fingerprint(runs[i], "train"), first_train = fingerprint(runs[0], "train");
    if (train.is_object() && first_train.is_object() && !same_split(train, first_train))
      note(i, "trained on other bytes");
    if (differ(i, "model", "seq_len") || differ(i, "train", "validate_windows") ||
        differ(i, "data", "record_bytes"))
      note(i, "validated on other windows: their bits a byte are not quite comparable");
    const auto machine = [&](const Run& run) {
      std::string text;
      for (const char* key : {"processor", "gpu", "device", "threads", "cores"})
        text += value_at(run.description, {"machine", key}).dump() + " ";
      return text + value_at(run.description, {"ranks"}).dump();
    };
    if (machine(runs[i]) != machine(runs[0]))
      note(i, "other machines, threads or ranks: their times are not comparable");
  }
}

Chart comparison_chart(const std::vector<Run>& runs) {
  Chart chart;
  chart.title = "Bits a byte";
  const std::vector<std::string> labels = names(runs);
  for (size_t i = 0; i < runs.size(); ++i) {
    Series series;
    const std::string pattern = printable(runs[i].pattern(), 60);
    series.name =
        pattern.empty() || pattern == labels[i] ? labels[i] : concat(labels[i], ": ", pattern);
    series.color = static_cast<int>(i) % kColors;
    series.dashed = i / kColors % 2 == 1;
    series.points = validation_curve(runs[i].history);
    if (series.points.empty()) {
      series.points = training_curve(runs[i].history, true);
      for (Point& point : series.points) point.low = point.high = Point().low;
      series.name += " (training)";
    }
    series.dots = series.points.size() <= 60;
    series.bytes_of_step = runs[i].bytes_of_step().value_or(0);
    chart.series.push_back(std::move(series));
  }
  chart.what = "of validation";
  chart.format_y = bits;
  fit_y(chart, false);
  return chart;
}

std::string cell(const std::optional<double>& value, const std::optional<double>& first,
                 bool is_first) {
  if (!value) return "<td class=num>–</td>";
  std::string html = "<td class=num>" + bits(*value);
  if (!is_first && first) {
    const double over = *value - *first;
    html += concat("<br><small>", over < 0 ? "−" : "+", bits(std::abs(over)), "</small>");
  }
  return html + "</td>";
}

std::string table_html(const Comparison& comparison) {
  std::string html = concat(
      "<div class=\"card scroll\"><table class=wide><thead><tr><th>run</th><th class=num>parameters"
      "</th><th class=num>steps</th><th class=num>bytes</th><th class=num>time</th><th class=num>"
      "tokens/s</th><th class=num>best</th><th class=num>last</th>");
  if (comparison.step > 0)
    html += concat("<th class=num>at step ", format_count(std::llround(comparison.step)),
                   "</th><th class=num>at ", format_duration(comparison.elapsed_s), "</th>");
  html += "</tr></thead><tbody>";
  for (size_t i = 0; i < comparison.rows.size(); ++i) {
    const ComparedRun &row = comparison.rows[i], &first = comparison.rows[0];
    html += concat("<tr><td><b class=c", i % kColors, ">", escaped(row.name), "</b><br><code>",
                   escaped(row.pattern), "</code></td><td class=num>",
                   row.parameters ? format_count(*row.parameters) : "–", "</td><td class=num>",
                   format_count(row.steps), "</td><td class=num>",
                   row.bytes ? format_bytes(*row.bytes) : "–", "</td><td class=num>",
                   format_duration(row.elapsed_s), "</td><td class=num>",
                   row.tokens_per_s ? format_count(std::llround(*row.tokens_per_s)) : "–", "</td>",
                   cell(row.best, first.best, i == 0), cell(row.last, first.last, i == 0));
    if (comparison.step > 0)
      html += cell(row.at_step, first.at_step, i == 0) + cell(row.at_time, first.at_time, i == 0);
    html += "</tr>";
  }
  return html + "</tbody></table></div>\n";
}

std::string settings_html(const Comparison& comparison) {
  if (comparison.settings.empty()) return "";
  std::string html =
      "<h2>Settings that differ</h2><div class=\"card scroll\"><table><thead><tr>"
      "<th></th>";
  for (const ComparedRun& row : comparison.rows) html += concat("<th>", escaped(row.name), "</th>");
  html += "</tr></thead><tbody>";
  for (const auto& [key, values] : comparison.settings) {
    html += concat("<tr><td>", escaped(key), "</td>");
    for (const std::string& value : values)
      html += concat("<td><code>", escaped(value), "</code></td>");
    html += "</tr>";
  }
  return html + "</tbody></table></div>\n";
}

// A sentence on the run that has no validation after that; "" where all end there.
std::string no_further(const std::string& name, const std::string& end) {
  return name.empty() ? "" : concat(" ", escaped(name), " got no further than ", end, ".");
}

template <typename Value>
OrderedJson optional_json(const std::optional<Value>& value) {
  return value ? OrderedJson(*value) : OrderedJson();
}

}  // namespace

Comparison compare(const std::vector<Run>& runs) {
  LACE_CHECK(!runs.empty(), "[compare] runs must be at least one, got none");
  Comparison comparison;
  const std::vector<std::string> labels = names(runs);
  std::vector<std::vector<Point>> curves;
  for (size_t i = 0; i < runs.size(); ++i) {
    comparison.rows.push_back(summary(runs[i], labels[i]));
    curves.push_back(validation_curve(runs[i].history));
  }
  find_equal(curves, comparison);
  find_settings(runs, comparison);
  find_notes(runs, comparison);
  return comparison;
}

OrderedJson comparison_json(const Comparison& comparison) {
  OrderedJson rows = OrderedJson::array();
  for (const ComparedRun& row : comparison.rows) {
    const ComparedRun& first = comparison.rows.front();
    const auto over = [&](const std::optional<double>& value, const std::optional<double>& of) {
      return value && of ? OrderedJson(*value - *of) : OrderedJson();
    };
    rows.push_back({{"run", row.name},
                    {"state", name(row.state)},
                    {"pattern", row.pattern},
                    {"parameters", optional_json(row.parameters)},
                    {"steps", row.steps},
                    {"bytes_trained", optional_json(row.bytes)},
                    {"elapsed_s", row.elapsed_s},
                    {"tokens_per_s", optional_json(row.tokens_per_s)},
                    {"best_validation_bits_per_byte", optional_json(row.best)},
                    {"validation_bits_per_byte", optional_json(row.last)},
                    {"at_equal_steps", optional_json(row.at_step)},
                    {"at_equal_time", optional_json(row.at_time)},
                    {"best_over_first", over(row.best, first.best)},
                    {"at_equal_steps_over_first", over(row.at_step, first.at_step)},
                    {"at_equal_time_over_first", over(row.at_time, first.at_time)}});
  }
  OrderedJson settings = OrderedJson::object();
  for (const auto& [key, values] : comparison.settings) settings[key] = values;
  const auto name_or_null = [](const std::string& name) {
    return name.empty() ? OrderedJson() : OrderedJson(name);
  };
  return {{"equal_steps", comparison.step},
          {"equal_steps_of", name_or_null(comparison.step_of)},
          {"equal_time_s", comparison.elapsed_s},
          {"equal_time_of", name_or_null(comparison.elapsed_of)},
          {"runs", rows},
          {"settings", settings},
          {"notes", comparison.notes}};
}

std::string comparison_html(const std::vector<Run>& runs, const Comparison& comparison) {
  std::string html = page_begin("lace: runs compared", "") + "<h1>Runs compared</h1>\n";
  html += "<p class=soft>Bits a byte, lower is better; below them the difference to the first run.";
  if (comparison.step > 0) {
    html += " At equal steps and at equal time a curve is read between two validations.";
    const std::string step = "step " + format_count(std::llround(comparison.step)),
                      time = format_duration(comparison.elapsed_s);
    if (comparison.step_of == comparison.elapsed_of) {
      html += no_further(comparison.step_of, concat(step, " and ", time));
    } else {
      html += no_further(comparison.step_of, step) + no_further(comparison.elapsed_of, time);
    }
  }
  html += "</p>\n" + table_html(comparison);
  if (!comparison.notes.empty()) {
    html += "<div class=card><b>Not comparable</b><ul>";
    for (const std::string& note : comparison.notes) html += "<li>" + escaped(note) + "</li>";
    html += "</ul></div>\n";
  }
  html += concat("<div class=bar><h2>Learning</h2>", kSwitch, "</div>\n<div class=tall>",
                 chart_html(comparison_chart(runs)), "</div>\n", settings_html(comparison));
  return html + page_end();
}

std::string comparison_svg(const std::vector<Run>& runs) {
  constexpr int64_t kPanel = 300, kWidth = 720, kLine = 20;
  const Chart chart = comparison_chart(runs);
  std::string body;
  int64_t y = 0;
  for (const Across across : kAcross) {
    const std::string panel = chart_svg(chart, across, static_cast<double>(y));
    if (panel.empty()) continue;
    body += panel;
    y += kPanel;
  }
  const std::string legend = legend_svg(chart, static_cast<double>(y));
  y += kLine * static_cast<int64_t>(chart.series.size()) + kLine;
  return concat("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"", kWidth, "\" height=\"", y,
                "\" viewBox=\"0 0 ", kWidth, " ", y,
                "\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n<rect width=\"",
                kWidth, "\" height=\"", y, "\" fill=\"#fff\"/>\n", body, legend, "</svg>\n");
}

}  // namespace lace::report
