#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace lace {

// What its publisher says of a file: bytes −1 and no digests, where nothing.
struct PublishedFile {
  struct Digest {
    std::string algorithm, hex;  // "md5", "sha1", "sha256"
  };
  std::string name;
  int64_t bytes = -1;
  std::vector<Digest> digests;
};

// A data set that others publish, as an archive.
struct PublishedData {
  std::string name, url, source;  // source: of the sizes and digests
  PublishedFile archive;
  std::string target;                // file or folder that it unpacks to
  std::vector<PublishedFile> files;  // what is known of it, or of files in it
};

// enwik8 and cifar10, the names under which they are put.
const std::vector<PublishedData>& published_data();

struct GetOptions {
  std::string name;         // of published_data()
  std::string to = "data";  // a folder, made if need be
  std::string url;          // "": as published
  std::string ca_file;      // as DownloadOptions, like what follows
  // What the archive must be: "" as published; "ALGORITHM:HEX"; "none". In the last two cases
  // nothing that is published is asked for, as another address may have another archive.
  std::string digest;
  int stall_s = 30, retries = 5;
  double first_wait_s = 0.5;
  std::function<void(const std::string& what, int64_t done, int64_t total)>
      progress;  // total −1: ?
  std::function<void(const std::string& reason, double wait_s)> retrying;
};

struct GetResult {
  std::string path;            // of the file or folder
  bool already_there = false;  // then nothing was fetched
  std::string url;
  int64_t archive_bytes = 0, resumed_bytes = 0;
  std::string archive_sha256;
  std::vector<std::string> checked;  // "size of enwik8.zip", "sha1 of enwik8"; empty: nothing was
};

// Fetches a data set (data/download.h), checks it, unpacks it (data/unpack_archive.h), and gives it
// its name last: under that name there is never a part of it. What is there already is compared
// with what is published, and stays.
// Throws lace::Error: an unknown name; a file or folder of that name that is something else; what
// fetching and unpacking throw; a size or digest that is wrong. What was fetched is removed if it
// is wrong, and kept for the next call if it could not be unpacked for another reason.
GetResult get_data(const GetOptions& options);

}  // namespace lace
