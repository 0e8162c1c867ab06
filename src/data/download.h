#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace lace {

struct DownloadOptions {
  std::string url;            // https://…
  std::string ca_file;        // of certificates to trust in place of the system's, or ""
  int64_t bytes = -1;         // that the file must have; −1: not known
  int stall_s = 30;           // a connection that brings nothing for so long is given up
  int retries = 5;            // after failures in a row that brought nothing new
  double first_wait_s = 0.5;  // before a new connection; doubles up to half a minute
  std::function<void(int64_t done, int64_t total)> progress = [](int64_t, int64_t) {};  // −1: ?
  std::function<void(const std::string& reason, double wait_s)> retrying = [](const std::string&,
                                                                              double) {};
};

// A file that is fetched over HTTPS into PATH.part. What it is a part of (address, ETag or date,
// length) stands beside it in PATH.part.json, so that a later object goes on where this one was
// stopped, killed too: with a range that the server grants only if the file is still the same
// (If-Range); else from the start. While the object lives, no other one of any process has PATH.
class Download {
 public:
  // Throws lace::Error if another one has it, or the file cannot be made.
  explicit Download(const std::string& path);
  ~Download();
  Download(const Download&) = delete;
  Download& operator=(const Download&) = delete;

  // Returns when the file is complete. Certificates and host names are checked; redirects are
  // followed to HTTPS alone. A connection that cannot be made, breaks or stalls, and a server that
  // is not well (5xx, 408, 429), are tried again.
  // Throws lace::Error naming the address and what is wrong: an address that is no https://, a
  // certificate, another status, a file of another length than `options.bytes` (before it is
  // fetched where the server tells); a failure after the last retry, where the parts are kept.
  void fetch(const DownloadOptions& options);

  const std::string& part() const { return part_; }   // the name of the file so far
  int64_t bytes() const { return bytes_; }            // that it has
  int64_t resumed_bytes() const { return resumed_; }  // that were there before fetch()

  // Removes the file and what stands beside it: its content is wrong, or no longer needed.
  void remove();

 private:
  struct Transfer;

  void load_state();
  void restart(const std::string& url, const std::string& validator, int64_t total);
  void append(const char* data, size_t count);
  bool attempt(const DownloadOptions& options, std::string& failure);

  std::string part_, state_;
  int descriptor_ = -1;
  bool removed_ = false;
  int64_t bytes_ = 0, resumed_ = 0;
  // Of what the bytes are: an empty validator, if they cannot be gone on with.
  std::string url_, validator_;
  int64_t total_ = -1;
};

}  // namespace lace
