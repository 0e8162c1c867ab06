#pragma once

#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "lace/evaluate.h"

namespace lace::cli {

// "1.550"; "not known" without a value.
std::string bits_text(const std::optional<double>& value);

// "±0.012, 95% over 123 windows"; "" from one window, or of NaN.
std::string interval_text(const EvalResult& result);

// [low, high], or null.
nlohmann::ordered_json interval_json(const std::optional<double>& mean,
                                     const std::optional<double>& half_width);

// A row for each minimum context, with its place between the lowest and the highest as a chart.
std::string sweep_table(const std::vector<SweepRow>& rows, const std::string& unit);
nlohmann::ordered_json sweep_json(const std::vector<SweepRow>& rows);

// The tracks of audio, pieces of `split`: their mean, the lowest and the highest.
std::string tracks_text(const std::vector<PieceScore>& pieces, const DataSplit& split);
nlohmann::ordered_json tracks_json(const std::vector<PieceScore>& pieces, const DataSplit& split);

// Of the tracks' own bits a byte, each counting once.
double mean_over_tracks(const std::vector<PieceScore>& pieces);

}  // namespace lace::cli
