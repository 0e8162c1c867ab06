#include "eval_output.h"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <sstream>

#include <nlohmann/json.hpp>

#include "terminal.h"

namespace lace::cli {

using Json = nlohmann::ordered_json;

namespace {

constexpr int kChartWidth = 32;

std::string decimals(double value, int digits) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(digits) << value;
  return out.str();
}

// ├──●──┤ on kChartWidth columns that stand for [low, high].
std::string interval_chart(const EvalResult& result, double low, double high) {
  if (!std::isfinite(result.bits_per_byte) || !(high > low)) return "";
  const auto column = [&](double bits) {
    return static_cast<int>(std::lround((bits - low) / (high - low) * (kChartWidth - 1)));
  };
  const double off = result.half_width.value_or(0);
  const int at = column(result.bits_per_byte), from = column(result.bits_per_byte - off),
            to = column(result.bits_per_byte + off);
  std::string text;
  for (int i = 0; i < kChartWidth; ++i)
    text += i == at ? "●" : i < from || i > to ? "·" : i == from ? "├" : i == to ? "┤" : "─";
  return text;
}

}  // namespace

std::string bits_text(const std::optional<double>& value) {
  return value ? decimals(*value, 3) : "not known";
}

std::string interval_text(const EvalResult& result) {
  if (!result.half_width || !std::isfinite(*result.half_width)) return "";
  return concat("±", decimals(*result.half_width, 3), ", 95% over ",
                format_count(static_cast<int64_t>(result.windows.size())), " windows");
}

Json interval_json(const std::optional<double>& mean, const std::optional<double>& half_width) {
  if (!mean || !half_width) return {};
  return {*mean - *half_width, *mean + *half_width};
}

std::string sweep_table(const std::vector<SweepRow>& rows, const std::string& unit) {
  double low = 1e300, high = -1e300;
  for (const auto& [context, result] : rows) {
    const double off = result.half_width.value_or(0);
    low = std::min(low, result.bits_per_byte - off);
    high = std::max(high, result.bits_per_byte + off);
  }
  const std::string range =
      low <= high ? concat(decimals(low, 3), " … ", decimals(high, 3)) : "";  // else all are NaN
  Table table({"min context", "windows", "bytes", unit, "±95%", range});
  for (const auto& [context, result] : rows) {
    table.add({format_count(context), format_count(static_cast<int64_t>(result.windows.size())),
               format_count(result.bytes), bits_text(result.bits_per_byte),
               result.half_width ? decimals(*result.half_width, 3) : "–",
               interval_chart(result, low, high)});
  }
  return table.to_string();
}

Json sweep_json(const std::vector<SweepRow>& rows) {
  Json list = Json::array();
  for (const auto& [context, result] : rows) {
    list.push_back({{"min_context", context},
                    {"bits_per_byte", result.bits_per_byte},
                    {"interval_95", interval_json(result.bits_per_byte, result.half_width)},
                    {"bytes", result.bytes},
                    {"windows", result.windows.size()},
                    {"available_windows", result.available_windows},
                    {"elapsed_s", result.elapsed_s}});
  }
  return list;
}

double mean_over_tracks(const std::vector<PieceScore>& pieces) {
  double sum = 0;
  for (const PieceScore& piece : pieces) sum += piece.bits_per_byte.mean;
  return sum / static_cast<double>(pieces.size());
}

std::string tracks_text(const std::vector<PieceScore>& pieces, const DataSplit& split) {
  const auto by_mean = [](const PieceScore& a, const PieceScore& b) {
    return a.bits_per_byte.mean < b.bits_per_byte.mean;
  };
  const auto [low, high] = std::minmax_element(pieces.begin(), pieces.end(), by_mean);
  const auto track = [&](const PieceScore& piece) {
    return concat(decimals(piece.bits_per_byte.mean, 3), " (",
                  path_text(split.piece_name(piece.piece)), ")");
  };
  return concat(format_count(static_cast<int64_t>(pieces.size())),
                pieces.size() == 1 ? " track: mean " : " tracks: mean ",
                decimals(mean_over_tracks(pieces), 3), " a track, lowest ", track(*low),
                ", highest ", track(*high));
}

Json tracks_json(const std::vector<PieceScore>& pieces, const DataSplit& split) {
  Json list = Json::array();
  for (const auto& [piece, bytes, windows, bits] : pieces) {
    list.push_back({{"track", piece},
                    {"name", path_text(split.piece_name(piece))},
                    {"bytes", bytes},
                    {"windows", windows},
                    {"bits_per_byte", bits.mean},
                    {"interval_95", interval_json(bits.mean, bits.half_width)}});
  }
  return list;
}

}  // namespace lace::cli
