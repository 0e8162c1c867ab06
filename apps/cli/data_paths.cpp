#include "data_paths.h"

#include <algorithm>
#include <filesystem>

#include "lace/error.h"

#include "data/published.h"

namespace lace::cli {

namespace {

// "lace data get enwik8 --to data" for a path of that name; "" for one that nothing fetches.
std::string command_that_fetches(const std::string& path) {
  const std::filesystem::path file = std::filesystem::path(path + "/").lexically_normal();
  const std::filesystem::path target = file.parent_path();  // without a slash at its end
  const auto& all = published_data();
  const bool known = std::any_of(all.begin(), all.end(), [&](const PublishedData& data) {
    return data.name == target.filename().native();
  });
  if (!known) return "";
  const std::string folder = target.parent_path().native();
  return concat("lace data get ", target.filename().native(), " --to ",
                folder.empty() ? "." : path_text(folder));
}

void check(const std::string& path, const std::string& instead) {
  std::error_code failure;
  if (path.find('\0') != std::string::npos ||
      std::filesystem::symlink_status(path, failure).type() !=
          std::filesystem::file_type::not_found)
    return;  // what else is wrong with it, loading tells
  const std::string command = command_that_fetches(path);
  throw Error(concat("[data] no such file or folder: ", path_text(path),
                     command.empty() ? "" : concat("; `", command, "` fetches it"),
                     instead.empty() ? "" : concat("; ", instead)));
}

}  // namespace

void check_data_paths(const DataConfig& data, const std::string& instead) {
  for (const auto* paths : {&data.paths, &data.validation_paths, &data.test_paths})
    for (const std::string& path : *paths) check(path, instead);
}

}  // namespace lace::cli
