#include "data/published.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <string_view>

#include "lace/data.h"

#include "core/safe_text.h"
#include "data/digest.h"
#include "data/download.h"
#include "data/unpack_archive.h"

namespace lace {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMostUnpacked = int64_t{1} << 32;
constexpr int64_t kCifarFile = 30'730'000;

[[noreturn]] void fail(const std::string& what, const std::error_code& error) {
  throw Error(concat("[data get] cannot ", what, ": ", error.message()));
}

// Throws WrongContent unless the file is as published; adds what was looked at to `checked`.
void check_file(const std::string& path, const PublishedFile& published,
                std::vector<std::string>& checked) {
  std::error_code error;
  const auto bytes = fs::file_size(path, error);
  if (error) fail("find " + path_text(path), error);
  if (published.bytes >= 0) {
    if (static_cast<int64_t>(bytes) != published.bytes) {
      throw WrongContent(
          concat("[data get] ", published.name, " has ", published.bytes, " bytes, got ", bytes));
    }
    checked.push_back("size of " + published.name);
  }
  for (const PublishedFile::Digest& digest : published.digests) {
    const std::string got = file_digest(path, digest.algorithm);
    if (got != digest.hex) {
      throw WrongContent(concat("[data get] ", published.name, " has the ", digest.algorithm, " ",
                                digest.hex, ", got ", got));
    }
    checked.push_back(digest.algorithm + " of " + published.name);
  }
}

// The data set with what `options.digest` puts in the place of what is published.
PublishedData expected(const GetOptions& options) {
  const auto& all = published_data();
  const auto found = std::find_if(all.begin(), all.end(),
                                  [&](const auto& data) { return data.name == options.name; });
  LACE_CHECK(found != all.end(), "[data get] there are enwik8 and cifar10, got ",
             printable(options.name));
  PublishedData data = *found;
  if (!options.url.empty()) data.url = options.url;
  if (options.digest.empty()) return data;
  data.archive.bytes = -1;
  data.archive.digests.clear();
  data.files.clear();
  if (options.digest == "none") return data;
  const size_t colon = options.digest.find(':');
  std::string algorithm = options.digest.substr(0, colon), hex;
  if (colon != std::string::npos) hex = options.digest.substr(colon + 1);
  for (char& c : hex) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  const size_t digits = algorithm == "md5" ? 32 : algorithm == "sha1" ? 40 : 64;
  LACE_CHECK((digits != 64 || algorithm == "sha256") && hex.size() == digits &&
                 hex.find_first_not_of("0123456789abcdef") == std::string::npos,
             "[data get] a digest is md5:HEX, sha1:HEX, sha256:HEX or none, got ",
             printable(options.digest));
  data.archive.digests.push_back({algorithm, hex});
  return data;
}

// The published files that `target` holds, or is.
void check_target(const fs::path& target, const PublishedData& data,
                  std::vector<std::string>& checked) {
  for (const PublishedFile& file : data.files) {
    const fs::path path = fs::is_directory(target) ? target / file.name : target;
    check_file(path.string(), file, checked);
  }
}

void unpack_into_place(const Download& download, const PublishedData& data, const fs::path& to,
                       const GetOptions& options, GetResult& result) {
  const fs::path scratch = to / (data.archive.name + ".unpacking");
  std::error_code error;
  fs::remove_all(scratch, error);  // of a call that was killed
  fs::create_directories(scratch, error);
  if (error) fail("make " + path_text(scratch.native()), error);
  const auto clear = [&] {
    std::error_code ignored;
    fs::remove_all(scratch, ignored);
  };
  int64_t total = 0;
  for (const PublishedFile& file : data.files) total += file.bytes;
  try {
    unpack_archive(download.part(), scratch.string(), kMostUnpacked, [&](int64_t done) {
      if (options.progress) options.progress("unpack", done, total > 0 ? total : -1);
    });
    if (!fs::exists(scratch / data.target)) {
      throw WrongContent(concat("[data get] ", data.archive.name, " unpacks to ", data.target,
                                ", this one does not"));
    }
    check_target(scratch / data.target, data, result.checked);
    fs::rename(scratch / data.target, result.path, error);
    if (error) fail("make " + path_text(result.path), error);
  } catch (...) {
    clear();
    throw;
  }
  clear();
}

}  // namespace

const std::vector<PublishedData>& published_data() {
  // enwik8: size of the zip, size and SHA-1 of what it holds stand in Matt Mahoney's "About the
  // Test Data" (mattmahoney.net/dc/textdata.html, last update 1 Sept 2011), which publishes no
  // digest of the zip.
  // CIFAR-10: the MD5 of the binary version, and the size of its files (10,000 records of 3,073
  // bytes), stand on Alex Krizhevsky's page (www.cs.toronto.edu/~kriz/cifar.html); size and
  // SHA-256 of the archive in TensorFlow Datasets (tensorflow/datasets on GitHub,
  // tensorflow_datasets/url_checksums/cifar10.txt).
  static const std::vector<PublishedData> all = {
      {"enwik8",
       "https://mattmahoney.net/dc/enwik8.zip",
       "mattmahoney.net/dc/textdata.html",
       {"enwik8.zip", 36'445'475, {}},
       "enwik8",
       {{"enwik8", 100'000'000, {{"sha1", "57b8363b814821dc9d47aa4d41f58733519076b2"}}}}},
      {"cifar10",
       "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
       "www.cs.toronto.edu/~kriz/cifar.html and TensorFlow Datasets",
       {"cifar-10-binary.tar.gz",
        170'052'171,
        {{"md5", "c32a1d4ab5d03f1284b67883e8d87530"},
         {"sha256", "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"}}},
       "cifar-10-batches-bin",
       {{"data_batch_1.bin", kCifarFile, {}},
        {"data_batch_2.bin", kCifarFile, {}},
        {"data_batch_3.bin", kCifarFile, {}},
        {"data_batch_4.bin", kCifarFile, {}},
        {"data_batch_5.bin", kCifarFile, {}},
        {"test_batch.bin", kCifarFile, {}}}}};
  return all;
}

GetResult get_data(const GetOptions& options) {
  const PublishedData data = expected(options);
  const fs::path to = options.to;
  GetResult result;
  result.path = (to / data.name).string();
  result.url = data.url;
  std::error_code error;
  const auto there = [&] {
    if (!fs::exists(fs::symlink_status(result.path))) return false;
    try {
      check_target(result.path, data, result.checked);
    } catch (const Error& wrong) {
      throw Error(concat(wrong.what(), ": ", path_text(result.path),
                         " is there already and something else; move it away"));
    }
    return result.already_there = true;
  };
  if (there()) return result;
  fs::create_directories(to, error);
  if (error) fail("make the folder " + path_text(to.native()), error);

  Download download((to / data.archive.name).string());
  if (there()) return result;  // another process was faster
  DownloadOptions fetch;
  fetch.url = data.url;
  fetch.ca_file = options.ca_file;
  fetch.bytes = data.archive.bytes;
  fetch.stall_s = options.stall_s;
  fetch.retries = options.retries;
  fetch.first_wait_s = options.first_wait_s;
  if (options.progress) {
    fetch.progress = [&](int64_t done, int64_t total) { options.progress("fetch", done, total); };
  }
  if (options.retrying) fetch.retrying = options.retrying;
  download.fetch(fetch);
  result.archive_bytes = download.bytes();
  result.resumed_bytes = download.resumed_bytes();
  try {
    check_file(download.part(), data.archive, result.checked);
    result.archive_sha256 = file_digest(download.part(), "sha256");
    unpack_into_place(download, data, to, options, result);
  } catch (const WrongContent& wrong) {
    download.remove();
    throw Error(
        concat(wrong.what(), "; what was fetched from ", printable(data.url), " is removed"));
  }
  download.remove();
  return result;
}

}  // namespace lace
