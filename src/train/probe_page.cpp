#include "train/probe_page.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <string_view>

#include "core/format.h"
#include "core/ticks.h"

namespace lace {
namespace {

constexpr std::string_view kHead =
    R"(<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1"><title>lace probe</title><style>
:root{color-scheme:light dark;--paper:#f6f7f9;--card:#fff;--ink:#1b2330;--soft:#566173;
--rule:#dde1e8;--c0:#1f66b3;--c1:#c2410c;--c2:#0f766e;--c3:#7e3fa8;--c4:#a16207;--c5:#be185d}
@media (prefers-color-scheme:dark){:root{--paper:#12161d;--card:#1a202a;--ink:#e6eaf1;
--soft:#a3adbd;--rule:#303947;--c0:#6fb1f5;--c1:#ff9a5c;--c2:#4fd1c0;--c3:#cf9bf0;--c4:#e7c25b;
--c5:#ff8fbe}}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:960px;margin:0 auto;padding:24px 16px}h1{font-size:24px;margin:0 0 8px}
h2{font-size:17px;margin:0;overflow-wrap:anywhere}p{margin:4px 0;color:var(--soft)}
section{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:14px 16px;
margin:16px 0}div{overflow-x:auto}table{border-collapse:separate;border-spacing:2px;width:100%;
font-variant-numeric:tabular-nums;font-size:13px}
th{color:var(--soft);font-weight:500;text-align:right;padding:2px 6px;white-space:nowrap}
td{text-align:center;padding:8px 4px;border-radius:4px;white-space:nowrap}
td small{display:block;opacity:.85}svg{display:block;width:100%;min-width:480px}
svg text{fill:var(--soft);font-size:12px}svg .grid{stroke:var(--rule)}
ul{list-style:none;display:flex;flex-wrap:wrap;gap:4px 18px;padding:0;margin:6px 0;font-size:13px}
li{overflow-wrap:anywhere}li:before{content:"●";margin-right:6px}
.c0{color:var(--c0)}.c1{color:var(--c1)}.c2{color:var(--c2)}.c3{color:var(--c3)}
.c4{color:var(--c4)}.c5{color:var(--c5)}</style><main><h1>What a model uses of its context</h1>
)";
constexpr size_t kLineColors = 6;

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string fixed(double value, int digits) {
  if (!std::isfinite(value)) return "–";
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%.*f", digits, value);
  const bool minus_nothing =
      text[0] == '-' &&
      std::string_view(text.data()).find_first_of("123456789") == std::string::npos;
  return text.data() + (minus_nothing ? 1 : 0);
}

std::string plus_minus(const Estimate& estimate) {
  return estimate.half_width ? " ± " + fixed(*estimate.half_width, 2) : "";
}

// From the palest blue to the darkest; the ink on it.
std::string cell_colors(double share) {
  constexpr std::array<std::array<double, 3>, 3> kRamp{
      {{232, 237, 243}, {86, 158, 205}, {10, 46, 92}}};
  const double place = share * 2;
  const auto below = static_cast<size_t>(std::min(place, 1.0));
  const double part = place - static_cast<double>(below);
  std::string color;
  for (size_t i = 0; i < 3; ++i) {
    const double value = kRamp[below][i] + part * (kRamp[below + 1][i] - kRamp[below][i]);
    if (i > 0) color += ",";
    color += std::to_string(std::lround(value));
  }
  return "background:rgb(" + color + ");color:" + (share > 0.6 ? "#fff" : "#10161f");
}

std::string map_table(const ProbeResult& result) {
  std::string html = "<div><table><tr><th>string</th>";
  for (const double depth : result.depths) html += concat("<th>depth ", depth, "</th>");
  html += "<th>fresh</th></tr>\n";
  const size_t columns = result.depths.size();
  for (size_t row = 0; row < result.lengths.size(); ++row) {
    html += concat("<tr><th>", format_count(result.lengths[row]), " bytes</th>");
    double fresh = 0;
    for (size_t i = 0; i < columns; ++i) {
      const CopyCell& cell = result.cells[row * columns + i];
      const double share = saved_share(cell);
      fresh += cell.fresh.mean / static_cast<double>(columns);
      html += concat("<td style=\"", cell_colors(share), "\" title=\"", format_count(cell.distance),
                     " bytes back: ", fixed(cell.copied.mean, 3), " bits/byte copied, ",
                     fixed(cell.fresh.mean, 3), " fresh, saved ", fixed(cell.gain.mean, 3),
                     plus_minus(cell.gain), "\">", fixed(cell.gain.mean, 2), "<small>",
                     fixed(100 * share, 0), "%</small></td>");
    }
    html += "<th>" + fixed(fresh, 2) + "</th></tr>\n";
  }
  return html + "</table></div>\n";
}

// Width and height of the chart's area, and where it begins.
constexpr double kWide = 640, kHigh = 220, kLeft = 52, kTop = 24;

struct Scale {
  double most_position = 1, low = 0, high = 1;
  double x(double position) const {
    return kLeft + kWide * std::log2(1 + position) / std::log2(1 + most_position);
  }
  double y(double bits) const { return kTop + kHigh * (high - bits) / (high - low); }
};

double middle(const PositionBin& bin) { return static_cast<double>(bin.begin + bin.end - 1) / 2; }

std::string axes(const Scale& scale) {
  constexpr double kBottom = kTop + kHigh;
  std::string svg =
      concat("<text x=\"4\" y=\"14\">bits/byte</text><text x=\"", kLeft + kWide / 2, "\" y=\"",
             kBottom + 38, "\" text-anchor=\"middle\">bytes before it in the window</text>\n");
  for (const double bits : round_ticks(scale.low, scale.high, 5)) {
    svg += concat("<path class=\"grid\" d=\"M", kLeft, " ", fixed(scale.y(bits), 1), "h", kWide,
                  "\"/><text x=\"", kLeft - 8, "\" y=\"", fixed(scale.y(bits) + 4, 1),
                  "\" text-anchor=\"end\">", without_zeros(fixed(bits, 3)), "</text>\n");
  }
  for (double position = 0; position <= scale.most_position;
       position = position == 0 ? 1 : position * 10)
    svg += concat("<path class=\"grid\" d=\"M", fixed(scale.x(position), 1), " ", kBottom,
                  "v5\"/><text x=\"", fixed(scale.x(position), 1), "\" y=\"", kBottom + 18,
                  "\" text-anchor=\"middle\">", format_count(std::llround(position)), "</text>\n");
  return svg;
}

std::string line(const ProbeResult& result, const Scale& scale, size_t color) {
  std::string points, marks;
  for (const PositionBin& bin : result.positions) {
    const auto& [mean, half_width] = bin.bits_per_byte;
    if (!std::isfinite(mean)) continue;
    const std::string x = fixed(scale.x(middle(bin)), 1);
    points += x + "," + fixed(scale.y(mean), 1) + " ";
    const double off = half_width.value_or(0);
    marks += "M" + x + " " + fixed(scale.y(mean + off), 1) + "V" + fixed(scale.y(mean - off), 1);
  }
  return concat("<g class=\"c", color % kLineColors, "\" stroke=\"currentColor\" fill=\"none\">",
                "<polyline stroke-width=\"2\" points=\"", points,
                "\"/><path stroke-width=\"4\" stroke-opacity=\".35\" d=\"", marks, "\"/></g>\n");
}

std::string position_chart(std::span<const ProbedRun> runs) {
  Scale scale{.most_position = 1, .low = 1e9, .high = -1e9};
  for (const ProbedRun& run : runs) {
    for (const PositionBin& bin : run.result.positions) {
      const auto& [mean, half_width] = bin.bits_per_byte;
      if (!std::isfinite(mean)) continue;
      scale.most_position = std::max(scale.most_position, static_cast<double>(bin.end - 1));
      scale.low = std::min(scale.low, mean - half_width.value_or(0));
      scale.high = std::max(scale.high, mean + half_width.value_or(0));
    }
  }
  if (scale.low > scale.high) return "";  // no run has any
  if (scale.high - scale.low < 0.01) scale.high = scale.low + 0.01;
  std::string html =
      "<section><h2>Loss by position in the window</h2><p>bits/byte of the bytes "
      "that have so many before them in the window, on validation data; bars: 95% "
      "over windows</p><div><svg viewBox=\"0 0 710 292\">";
  html += axes(scale);
  for (size_t i = 0; i < runs.size(); ++i) html += line(runs[i].result, scale, i);
  html += "</svg></div><ul>";
  for (size_t i = 0; i < runs.size(); ++i)
    html += concat("<li class=\"c", i % kLineColors, "\">", escaped(runs[i].name), "</li>");
  return html + "</ul></section>\n";
}

}  // namespace

double saved_share(const CopyCell& cell) {
  const double share = cell.gain.mean / cell.fresh.mean;
  return std::isfinite(share) ? std::clamp(share, 0.0, 1.0) : 0;
}

std::string probe_page(std::span<const ProbedRun> runs) {
  std::string html(kHead);
  html +=
      "<p>Each window ends with a random string that already stood at a depth of it (0: its "
      "beginning, 1: right before). A cell has the bits/byte that this saves against the same "
      "window with another string there, and its part of what the string costs then "
      "(fresh). Darker is more; the scale is one for all runs.</p>\n";
  for (const ProbedRun& run : runs) {
    html += "<section><h2>" + escaped(run.name) + "</h2><p>" + escaped(run.details) +
            concat("; ", run.result.trials, " trials a cell on ",
                   run.result.random_filler ? "random filler" : "validation data", "</p>") +
            map_table(run.result) + "</section>\n";
  }
  return html + position_chart(runs) + "</main></html>\n";
}

}  // namespace lace
