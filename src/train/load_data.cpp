#include <filesystem>

#include "lace/train.h"

namespace lace {
namespace {

// All that [data] says, of these paths.
Dataset load_kind(const Recipe& recipe, const std::vector<std::string>& paths,
                  double validation_fraction, double test_fraction, bool whole,
                  const std::string& cache) {
  const DataConfig& config = recipe.data;
  const ModelConfig& model = recipe.model;
  switch (config.kind) {
    case DataKind::kText:
      return load_text({.paths = paths,
                        .validation_fraction = validation_fraction,
                        .test_fraction = test_fraction,
                        .split = config.split,
                        .record_bytes = config.record_bytes,
                        .whole = whole,
                        .cache = cache});
    case DataKind::kAudio:
      return load_audio({.paths = paths,
                         .validation_fraction = validation_fraction,
                         .test_fraction = test_fraction,
                         .sample_rate = config.sample_rate,
                         .whole = whole,
                         .cache = cache});
    case DataKind::kImages:
      return load_images({.paths = paths,
                          .height = model.image_height,
                          .width = model.image_width,
                          .channels = model.image_channels,
                          .validation_fraction = validation_fraction,
                          .test_fraction = test_fraction,
                          .resize = config.resize,
                          .whole = whole,
                          .cache = cache});
  }
  throw Error("[data] kind is none that there is");
}

}  // namespace

std::string cache_beside(const std::string& run_folder) {
  const auto folder = std::filesystem::absolute(run_folder).lexically_normal();
  const auto named = folder.has_filename() ? folder : folder.parent_path();
  return (named.parent_path() / ".lace-cache").native();
}

Dataset load_data(const Recipe& recipe, const std::string& cache) {
  const DataConfig& config = recipe.data;
  LACE_CHECK(!config.paths.empty(),
             "[train] the recipe names no data: set data.paths to files or folders, as by "
             "--set data.paths=FILE");
  const std::string& folder = config.cache.empty() ? cache : config.cache;
  Dataset data = load_kind(recipe, config.paths,
                           config.validation_paths.empty() ? config.validation_fraction : 0,
                           config.test_paths.empty() ? config.test_fraction : 0, false, folder);
  const auto add = [&](const std::vector<std::string>& paths, DataSplit& split) {
    if (paths.empty()) return;
    Dataset more = load_whole(recipe, paths, cache);
    split = std::move(more.train);
    data.files += more.files;
    data.notes.insert(data.notes.end(), more.notes.begin(), more.notes.end());
  };
  add(config.validation_paths, data.validation);
  add(config.test_paths, data.test);
  return data;
}

Dataset load_whole(const Recipe& recipe, const std::vector<std::string>& paths,
                   const std::string& cache) {
  const std::string& folder = recipe.data.cache.empty() ? cache : recipe.data.cache;
  return load_kind(recipe, paths, 0, 0, true, folder);
}

}  // namespace lace
