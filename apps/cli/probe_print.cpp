#include "probe_print.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <string_view>

#include "terminal.h"

namespace lace::cli {
namespace {

constexpr int kCell = 7;  // columns of a cell

std::string padded(std::string_view text, int width) {
  const int missing = width - display_width(text);
  return std::string(static_cast<size_t>(std::max(missing, 0)), ' ') + std::string(text);
}

std::string fixed(double value) {
  if (!std::isfinite(value)) return "–";
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.2f", value);
  return std::string_view(text.data()) == "-0.00" ? "0.00" : text.data();
}

// From nothing saved to all: a block that fills up, on a colour that does.
std::string heat_cell(const CopyCell& cell) {
  constexpr std::array<std::string_view, 5> kBlocks{"·", "░", "▒", "▓", "█"};
  constexpr std::array<int, 9> kColors{236, 17, 18, 25, 31, 37, 72, 149, 227};
  const double share = saved_share(cell);
  const auto level = [share](size_t levels) {
    return static_cast<size_t>(std::lround(share * static_cast<double>(levels - 1)));
  };
  const size_t color = level(kColors.size());
  const std::string text =
      concat(" ", kBlocks[level(kBlocks.size())], padded(fixed(cell.gain.mean), kCell - 2));
  return on_background(text, kColors[color], color >= 6 ? 16 : 255);
}

std::string copy_map(const ProbeResult& result) {
  std::string text = padded("", 12);
  for (const double depth : result.depths)
    text += padded(without_zeros(format_number(depth)), kCell);
  text += "    fresh   ±95%\n";
  const size_t columns = result.depths.size();
  for (size_t row = 0; row < result.lengths.size(); ++row) {
    text += padded(concat(format_count(result.lengths[row]), " bytes "), 12);
    double fresh = 0, off = 0;
    for (size_t i = 0; i < columns; ++i) {
      const CopyCell& cell = result.cells[row * columns + i];
      text += heat_cell(cell);
      fresh += cell.fresh.mean / static_cast<double>(columns);
      off = std::max(off, cell.gain.half_width.value_or(0));
    }
    text += padded(fixed(fresh), 9) + padded(result.trials > 1 ? fixed(off) : "–", 7) + "\n";
  }
  return text;
}

std::string positions_text(const ProbeResult& result) {
  double low = 1e300, high = -1e300;
  for (const PositionBin& bin : result.positions) {
    low = std::min(low, bin.bits_per_byte.mean);
    high = std::max(high, bin.bits_per_byte.mean);
  }
  Table table({"bytes before it", "bits/byte", "±95%", "scored",
               low <= high ? concat("from ", fixed(low)) : ""});
  for (const auto& [begin, end, bytes, bits] : result.positions) {
    constexpr double kWide = 32;
    const double share = high > low ? (bits.mean - low) / (high - low) : 0;
    std::string bar;
    if (std::isfinite(share))
      for (int64_t i = 0; i < std::lround(share * kWide); ++i) bar += "━";
    table.add({end - begin == 1 ? format_count(begin)
                                : concat(format_count(begin), " … ", format_count(end - 1)),
               fixed(bits.mean), bits.half_width ? fixed(*bits.half_width) : "–",
               format_count(bytes), bar});
  }
  return table.to_string();
}

}  // namespace

std::string probe_text(const ProbedRun& run) {
  const ProbeResult& result = run.result;
  std::string text = colored(run.name, Color::kBold) + "\n" + run.details + "\n\n";
  text += concat("bits/byte saved on the repeat of a random string, by its depth, in ",
                 format_count(result.trials), " windows of ",
                 result.random_filler ? "random bytes" : "validation data", "\n");
  text += copy_map(result);
  if (result.positions.empty()) return text;
  text += concat("\nloss by position, in ", format_count(result.position_windows),
                 " validation windows\n");
  return text + positions_text(result);
}

}  // namespace lace::cli
