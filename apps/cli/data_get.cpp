// lace data get: fetches, checks and unpacks a published data set.

#include <chrono>
#include <iostream>
#include <memory>
#include <optional>

#include <nlohmann/json.hpp>

#include "lace/data.h"

#include "arguments.h"
#include "commands.h"
#include "data/published.h"
#include "output.h"
#include "terminal.h"

namespace lace::cli {

namespace {

struct Options {
  GetOptions get;
  bool json = false;
};

// A bar for each thing that is done, where its size is known.
class Bars {
 public:
  explicit Bars(const std::string& name) : name_(name) {}

  void show(const std::string& what, int64_t done, int64_t total) {
    if (total <= 0) return;
    if (!bar_ || what != what_) {
      bar_.reset();
      bar_.emplace(what + " " + name_, total);
      what_ = what;
    }
    bar_->update(done, format_bytes(static_cast<double>(done)));
  }
  void clear() { bar_.reset(); }

 private:
  std::string name_, what_;
  std::optional<ProgressBar> bar_;
};

nlohmann::ordered_json to_json(const GetOptions& options, const GetResult& result,
                               double elapsed_s) {
  nlohmann::ordered_json json = {{"name", options.name},
                                 {"path", result.path},
                                 {"already_there", result.already_there},
                                 {"url", result.url},
                                 {"archive_bytes", nullptr},
                                 {"archive_sha256", nullptr},
                                 {"resumed_bytes", result.resumed_bytes},
                                 {"checked", result.checked},
                                 {"elapsed_s", elapsed_s}};
  if (!result.already_there) {
    json["archive_bytes"] = result.archive_bytes;
    json["archive_sha256"] = result.archive_sha256;
  }
  return json;
}

void print(const GetOptions& options, const GetResult& result, double elapsed_s) {
  std::cout << colored(path_text(result.path), Color::kBold);
  if (result.already_there) {
    std::cout << " is there already";
  } else {
    std::cout << ": " << format_bytes(static_cast<double>(result.archive_bytes)) << " fetched from "
              << safe_lines(result.url) << " in " << format_duration(elapsed_s);
    if (result.resumed_bytes > 0) {
      std::cout << " (" << format_count(result.resumed_bytes) << " bytes were there)";
    }
    std::cout << "\nsha256 " << result.archive_sha256;
  }
  std::string checked;
  for (const std::string& what : result.checked) checked += (checked.empty() ? "" : ", ") + what;
  const bool published = options.digest.empty();
  std::cout << "\n"
            << (checked.empty() ? "nothing was checked: there is nothing to check it against"
                                : concat("checked", published ? " as published: " : ": ", checked))
            << "\n";
}

void run(const Options& options) {
  const auto start = std::chrono::steady_clock::now();
  Bars bars(options.get.name);
  GetOptions get = options.get;
  get.progress = [&](const std::string& what, int64_t done, int64_t total) {
    bars.show(what, done, total);
  };
  get.retrying = [&](const std::string& reason, double wait_s) {
    bars.clear();
    std::cerr << "lace: " << safe_lines(reason) << "; trying again in " << format_duration(wait_s)
              << std::endl;
  };
  const GetResult result = get_data(get);
  bars.clear();
  const double elapsed_s =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (options.json) {
    print_json(to_json(get, result, elapsed_s));
  } else {
    print(get, result, elapsed_s);
  }
}

void add_data_get(CLI::App& app) {
  auto options = std::make_shared<Options>();
  GetOptions& get = options->get;
  CLI::App* command = data_group(app)->add_subcommand(
      "get", "Fetches a data set over HTTPS, checks and unpacks it");
  std::vector<std::string> names;
  for (const PublishedData& data : published_data()) names.push_back(data.name);
  command
      ->add_option("name", get.name, "enwik8 (a file) or cifar10 (a folder): it becomes DIR/name")
      ->required()
      ->check(CLI::IsMember(names));
  command->add_option("--to", get.to, "The folder to put it into")
      ->type_name("DIR")
      ->transform(path())
      ->capture_default_str();
  command->add_option("--url", get.url, "Another address of the same archive, https://…")
      ->type_name("URL");
  command
      ->add_option("--digest", get.digest,
                   "What the archive must be instead of what is published: md5:HEX, sha1:HEX, "
                   "sha256:HEX or none")
      ->type_name("DIGEST");
  command
      ->add_option("--cacert", get.ca_file, "Trust the certificates of this file, not the system's")
      ->type_name("FILE")
      ->transform(path())
      ->check(CLI::ExistingFile);
  command
      ->add_option("--stall", get.stall_s,
                   "Seconds without a byte after which a connection is given up")
      ->transform(whole_number(1, 3600))
      ->capture_default_str();
  command->add_option("--retries", get.retries, "Failures in a row, without a new byte, to bear")
      ->transform(whole_number(0, 1000))
      ->capture_default_str();
  command->add_flag("--json", options->json, "Print JSON");
  command->footer(examples({"lace data get enwik8", "lace data get cifar10 --to /data",
                            "lace data get enwik8 --url https://mirror.example/enwik8.zip",
                            "lace data get cifar10 --url https://mirror.example/cifar10.tar.xz "
                            "--digest none"}));
  command->callback([options] { run(*options); });
}

const Command kDataGet(Order::kData, add_data_get);

}  // namespace

}  // namespace lace::cli
