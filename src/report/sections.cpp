#include "report/sections.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "lace/error.h"

#include "core/format.h"
#include "core/safe_text.h"
#include "report/html.h"
#include "report/media.h"

namespace lace::report {
namespace {

using Json = nlohmann::json;

constexpr size_t kMostBaselines = 40;
constexpr int64_t kMostSide = 512, kMostCells = int64_t{1} << 20;  // of an attention map
constexpr size_t kMostMaps = 32;

std::string bits(double value) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.3f", value);
  return buffer;
}

// --- Samples -------------------------------------------------------------------------------------

std::string text_sample(const Sample& sample) {
  const auto prompt = static_cast<size_t>(
      std::clamp<int64_t>(sample.prompt_bytes, 0, static_cast<int64_t>(sample.bytes.size())));
  const std::string_view bytes = sample.bytes;
  std::string html = "<pre>";
  if (prompt > 0) html += concat("<mark>", escaped(bytes.substr(0, prompt)), "</mark>");
  html += escaped(bytes.substr(prompt));
  const int64_t more = sample.whole_bytes - static_cast<int64_t>(bytes.size());
  if (more > 0) html += concat("<small> … ", format_count(more), " bytes more</small>");
  return html + "</pre>";
}

struct ImageShape {
  int64_t height = 0, width = 0, channels = 0;
  int64_t bytes() const { return height * width * channels; }
};

ImageShape image_shape(const RecipeText& recipe) {
  const auto side = [&](const char* key) {
    const int64_t value = recipe.integer("data", key)
                              .value_or(recipe.integer("model", concat("image_", key)).value_or(0));
    return value >= 1 && value <= 1024 ? value : 0;
  };
  const int64_t channels = side("channels");
  return {side("height"), side("width"), channels == 1 || channels == 3 ? channels : 0};
}

// The images of one step in a grid, enlarged by the page; an image that is not whole is black where
// it ends.
std::string image_grid(const std::vector<const Sample*>& samples, ImageShape shape) {
  constexpr int64_t kGap = 2;
  const auto count = static_cast<int64_t>(samples.size());
  const int64_t columns = std::min<int64_t>(count, 8), rows = (count + columns - 1) / columns;
  const int64_t width = columns * (shape.width + kGap) - kGap,
                height = rows * (shape.height + kGap) - kGap;
  std::string pixels(static_cast<size_t>(width * height * shape.channels), '\x80');
  for (int64_t i = 0; i < count; ++i) {
    std::string image = samples[static_cast<size_t>(i)]->bytes;
    image.resize(static_cast<size_t>(shape.bytes()), '\0');
    const int64_t left = i % columns * (shape.width + kGap),
                  top = i / columns * (shape.height + kGap);
    const int64_t row = shape.width * shape.channels;
    for (int64_t y = 0; y < shape.height; ++y)
      pixels.replace(static_cast<size_t>(((top + y) * width + left) * shape.channels),
                     static_cast<size_t>(row), image, static_cast<size_t>(y * row),
                     static_cast<size_t>(row));
  }
  const int64_t zoom = std::max<int64_t>(1, 96 / std::max(shape.height, shape.width));
  return concat("<img class=pixels alt=\"", count, " sampled images\" width=", width * zoom,
                " height=", height * zoom, " src=\"",
                data_uri("image/png", png(width, height, shape.channels, pixels)), "\">");
}

std::string waveform(std::string_view codes) {
  constexpr size_t kColumns = 320;
  std::string path;
  const size_t columns = std::min(kColumns, codes.size());
  for (size_t column = 0; column < columns; ++column) {
    double low = 1, high = -1;
    for (size_t i = column * codes.size() / columns; i < (column + 1) * codes.size() / columns;
         ++i) {
      const double sample = mu_law_sample(static_cast<uint8_t>(codes[i]));
      low = std::min(low, sample);
      high = std::max(high, sample);
    }
    path += concat("M", column, " ", std::lround(50 - 50 * high), "v",
                   std::max(1L, std::lround(50 * (high - low))));
  }
  return concat("<svg class=wave viewBox=\"0 0 ", columns,
                " 100\" preserveAspectRatio=none role=img aria-label=waveform><path d=\"", path,
                "\" stroke=currentColor fill=none /></svg>");
}

std::string audio_sample(const Sample& sample, double rate) {
  return concat(waveform(sample.bytes), "<audio controls preload=none src=\"",
                data_uri("audio/wav", wav(sample.bytes, rate)), "\"></audio>");
}

std::string samples_of_step(const Run& run, const std::vector<const Sample*>& samples) {
  std::string html;
  const ImageShape shape = image_shape(run.recipe);
  switch (run.kind()) {
    case DataKind::kImages:
      if (shape.bytes() > 0) return image_grid(samples, shape);
      [[fallthrough]];  // bytes of no known shape
    case DataKind::kText:
      for (const Sample* sample : samples) html += text_sample(*sample);
      break;
    case DataKind::kAudio:
      for (const Sample* sample : samples) html += audio_sample(*sample, run.sample_rate());
  }
  return html;
}

// --- Attention -----------------------------------------------------------------------------------

// Weights as a picture, rows of `columns`: from dark to light by the root of the share of the
// largest of all, or, `by_rows`, of the row's; grey where no pair is allowed.
std::string heat_map(const Json& weights, int64_t columns, bool by_rows) {
  constexpr std::array<std::array<double, 3>, 5> kColors{
      {{13, 8, 60}, {84, 20, 125}, {190, 55, 100}, {248, 140, 60}, {252, 250, 200}}};
  const int64_t rows = (static_cast<int64_t>(weights.size()) + columns - 1) / columns;
  const auto row_of = [&](size_t i) {
    return by_rows ? i / static_cast<size_t>(columns) : size_t{0};
  };
  std::vector<double> largest(by_rows ? static_cast<size_t>(rows) : 1);
  for (size_t i = 0; i < weights.size(); ++i)
    if (weights[i].is_number())
      largest[row_of(i)] = std::max(largest[row_of(i)], weights[i].get<double>());
  std::string pixels;
  for (size_t i = 0; i < weights.size(); ++i) {
    const Json& weight = weights[i];
    if (!weight.is_number()) {
      pixels.append(3, '\x80');
      continue;
    }
    const double most = largest[row_of(i)];
    const double share = most > 0 ? std::clamp(weight.get<double>() / most, 0.0, 1.0) : 0;
    const double place = std::sqrt(share) * (kColors.size() - 1);
    const auto below = std::min(static_cast<size_t>(place), kColors.size() - 2);
    for (size_t c = 0; c < 3; ++c) {
      const double value = kColors[below][c] + (place - static_cast<double>(below)) *
                                                   (kColors[below + 1][c] - kColors[below][c]);
      pixels += static_cast<char>(std::lround(value));
    }
  }
  pixels.resize(static_cast<size_t>(3 * rows * columns), '\x80');
  return data_uri("image/png", png(columns, rows, 3, pixels));
}

// window: positions of one, 0 where that is not known.
std::string attention_map(const Json& map, int64_t window) {
  const Json& weights = value_at(map, {"weights"});
  const bool of_query = text_at(map, {"kind"}) == "query";
  const auto size = [&](const char* key) {
    const double value = number_at(map, {key}).value_or(0);
    return value >= 1 && value <= 1e9 ? static_cast<int64_t>(value) : 0;
  };
  const int64_t columns = size(of_query ? "row_length" : "columns"), rows = size("rows");
  const auto count = static_cast<int64_t>(weights.size());
  const bool fits =
      weights.is_array() && count > 0 && columns > 0 && columns <= 4 * kMostSide &&
      (of_query ? count <= kMostCells && count / columns <= 4 * kMostSide
                : rows <= kMostSide && columns <= kMostSide && rows * columns == count);
  LACE_CHECK(fits, "[report] attention.json: a map's sizes and weights do not fit");
  const std::string shown =
      of_query ? concat("query ", format_count(size("query")), ", rows of ", format_count(columns))
      : window > 0 ? concat("queries down, keys across, both 0 … ", format_count(window - 1))
                   : "queries down, keys across";
  const std::string where = concat("layer ", size("layer"), ", head ", size("head"));
  const int64_t height = of_query ? (count + columns - 1) / columns : rows;
  return concat("<figure><img class=pixels width=", columns, " height=", height,
                " alt=\"attention of ", where, "\" src=\"", heat_map(weights, columns, !of_query),
                "\"><figcaption><b>", where, "</b><br><code>",
                escaped(printable(text_at(map, {"pattern"}))), "</code><br><span>", shown,
                "</span></figcaption></figure>");
}

}  // namespace

std::string pairs_table(const std::vector<std::pair<std::string, std::string>>& rows) {
  std::string html = "<table><tbody>";
  for (const auto& [name, value] : rows)
    html += concat("<tr><td>", escaped(name), "</td><td>", escaped(value), "</td></tr>");
  return html + "</tbody></table>";
}

std::string samples_section(const Run& run) {
  if (run.samples.empty()) return "";
  std::vector<std::vector<const Sample*>> steps;
  for (const Sample& sample : run.samples) {
    if (steps.empty() || steps.back().front()->step != sample.step) steps.emplace_back();
    steps.back().push_back(&sample);
  }
  std::string html = "<h2>Samples</h2>\n";
  for (size_t i = steps.size(); i-- > 0;) {
    const Sample& first = *steps[i].front();
    std::string title = concat("step ", format_count(first.step));
    if (first.temperature) title += ", temperature " + short_number(*first.temperature, 3);
    const std::string shown = samples_of_step(run, steps[i]);
    html += i + 1 == steps.size() ? concat("<div class=card><b>", title, "</b>", shown, "</div>\n")
                                  : concat("<details class=card><summary>", title, "</summary>",
                                           shown, "</details>\n");
  }
  return html;
}

std::string attention_section(const Run& run) {
  const Json& maps = value_at(run.attention, {"maps"});
  if (!maps.is_array() || maps.empty()) return "";
  std::string figures;
  try {
    const double window = number_at(run.attention, {"window"}).value_or(0);
    const int64_t positions = window >= 1 && window <= 1e9 ? static_cast<int64_t>(window) : 0;
    for (size_t i = 0; i < std::min(maps.size(), kMostMaps); ++i)
      figures += attention_map(maps[i], positions);
  } catch (const Error& error) {
    figures += concat("<p>", escaped(error.what()), "</p>");
  }
  std::string of =
      "Weights that heads give, the lighter the larger, in matrices each row by itself; grey: no "
      "key there.";
  if (const auto windows = number_at(run.attention, {"windows"}))
    of += concat(" Mean over ", format_count(std::llround(std::clamp(*windows, 0.0, 1e15))),
                 " windows.");
  if (const auto step = number_at(run.attention, {"step"}))
    of += concat(" Step ", format_count(std::llround(std::clamp(*step, 0.0, 1e15))), ".");
  return concat("<h2>Attention</h2><div class=card><p class=soft>", of, "</p><div class=maps>",
                figures, "</div></div>\n");
}

std::string baselines_section(const Run& run) {
  std::string html;
  for (const char* split : {"test", "validation"}) {
    const Json& entry = value_at(run.baselines, {split});
    const Json& rows = value_at(entry, {"rows"});
    if (!rows.is_array()) continue;
    struct Row {
      std::string name;
      double bits;
      bool own;
    };
    std::vector<Row> table;
    if (const auto own = number_at(entry, {"model", "bits_per_byte"}); own && std::abs(*own) < 1000)
      table.push_back({concat("this model, ", text_at(entry, {"model", "checkpoint"}), " of step ",
                              format_count(std::llround(std::clamp(
                                  number_at(entry, {"model", "step"}).value_or(0), 0.0, 1e15)))),
                       *own, true});
    for (const Json& row : rows) {
      if (table.size() == kMostBaselines) break;
      const auto value = number_at(row, {"bits_per_byte"});
      if (value && *value > 0 && *value < 1000)
        table.push_back({printable(text_at(row, {"name"}), 80), *value, false});
    }
    if (table.empty()) continue;
    std::stable_sort(table.begin(), table.end(),
                     [](const Row& a, const Row& b) { return a.bits < b.bits; });
    std::string body;
    for (const Row& row : table)
      body +=
          concat("<tr", row.own ? " class=own" : "", "><td>", escaped(row.name),
                 "</td><td class=num>", bits(row.bits), "</td><td class=meter><i style=\"width:",
                 short_number(std::clamp(100 * row.bits / 8, 0.0, 100.0)), "%\"></i></td></tr>");
    const double bytes = number_at(entry, {"bytes"}).value_or(0);
    html +=
        concat("<div class=card><p class=soft>On the same ",
               format_count(std::llround(std::clamp(bytes, 0.0, 1e18))), " ", split,
               " bytes; what programs need for the compressed file, models for each byte.</p>"
               "<table class=wide><thead><tr><th></th><th class=num>bits/byte</th><th></th></tr>"
               "</thead><tbody>",
               body, "</tbody></table></div>\n");
  }
  return html.empty() ? html : "<h2>Beside compressors and simpler models</h2>\n" + html;
}

std::string settings_section(const Run& run, const std::string& picture) {
  std::string cards;
  const auto add = [&](const std::string& title,
                       const std::vector<std::pair<std::string, std::string>>& rows) {
    if (rows.empty()) return;
    cards += concat("<div class=card><h3>", escaped(title), "</h3>", pairs_table(rows), "</div>");
  };
  std::vector<std::pair<std::string, std::string>> about;
  for (const char* key : {"started", "version", "commit"})
    if (const std::string value = text_at(run.description, {key}); !value.empty())
      about.emplace_back(key, printable(value));
  if (const auto parameters = run.parameters())
    about.emplace_back("parameters", format_count(*parameters));
  for (const char* split : {"train", "validation", "test"})
    if (const auto bytes = number_at(run.description, {"bytes", split}))
      about.emplace_back(concat(split, " bytes"),
                         format_count(std::llround(std::clamp(*bytes, 0.0, 1e18))));
  if (const Json& machine = value_at(run.description, {"machine"}); machine.is_object()) {
    for (const auto& [key, value] : machine.items()) {
      if (about.size() == 24) break;
      const auto bytes = key == "memory_bytes" ? number_at(value, {}) : std::nullopt;
      about.emplace_back(printable(key, 60), bytes ? format_bytes(*bytes)
                                             : value.is_string()
                                                 ? printable(value.get<std::string>())
                                                 : printable(value.dump(), 100));
    }
  }
  add("run", about);
  if (!picture.empty()) cards += concat("<div class=card><h3>pattern</h3>", picture, "</div>");
  for (const RecipeText::Section& section : run.recipe.sections()) {
    std::vector<std::pair<std::string, std::string>> rows;
    for (const RecipeText::Entry& entry : section.entries)
      rows.emplace_back(printable(entry.key, 100), printable(entry.value, 400));
    add(section.name.empty() ? "recipe" : section.name, rows);
  }
  return cards.empty() ? cards : "<h2>Settings</h2><div class=settings>" + cards + "</div>\n";
}

}  // namespace lace::report
