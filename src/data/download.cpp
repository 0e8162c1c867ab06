#include "data/download.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <memory>
#include <string_view>
#include <thread>

#include <fcntl.h>
#include <unistd.h>

#include <curl/curl.h>
#include <nlohmann/json.hpp>
#include <sys/file.h>
#include <sys/stat.h>

#include "lace/data.h"

#include "core/bounded_json.h"
#include "core/safe_text.h"

namespace lace {
namespace {

constexpr double kLongestWait_s = 30;

// A whole number of decimal digits, or −1.
int64_t number(std::string_view text) {
  int64_t value = -1;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && stop == text.data() + text.size() && value >= 0 ? value : -1;
}

// What a server says of its answer.
struct Answer {
  int64_t length = -1;  // of the body
  std::string etag, last_modified;
  int64_t range_begin = -1, range_total = -1;

  // What a later If-Range may name: a weak ETag does not promise the same bytes.
  std::string validator() const {
    return !etag.empty() && !etag.starts_with("W/") ? etag : last_modified;
  }

  void take(std::string_view line) {
    while (!line.empty() && std::isspace(static_cast<unsigned char>(line.back()))) {
      line.remove_suffix(1);
    }
    if (line.starts_with("HTTP/")) {  // of the next answer, after a redirect
      *this = {};
      return;
    }
    const size_t colon = std::min(line.find(':'), line.size());
    std::string name(line.substr(0, colon));
    for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    std::string_view value = line.substr(std::min(colon + 1, line.size()));
    value.remove_prefix(std::min(value.find_first_not_of(" \t"), value.size()));
    if (name == "content-length") length = number(value);
    if (name == "etag") etag = value;
    if (name == "last-modified") last_modified = value;
    if (name == "content-range" && value.starts_with("bytes ")) take_range(value.substr(6));
  }

  // "100-199/1000", "100-199/*"
  void take_range(std::string_view range) {
    const size_t dash = range.find('-'), slash = range.find('/');
    if (dash < slash) range_begin = number(range.substr(0, dash));
    if (slash < range.size()) range_total = number(range.substr(slash + 1));
  }
};

// Whether another connection may do better.
bool may_pass(CURLcode code, long status) {
  switch (code) {
    case CURLE_HTTP_RETURNED_ERROR:
      return status >= 500 || status == 408 || status == 429;
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_URL_MALFORMAT:
    case CURLE_TOO_MANY_REDIRECTS:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_INVALIDCERTSTATUS:
    case CURLE_OUT_OF_MEMORY:
    case CURLE_WRITE_ERROR:
      return false;
    default:
      return true;
  }
}

}  // namespace

// One connection. What its callbacks throw is kept for after it.
struct Download::Transfer {
  Download& file;
  const DownloadOptions& options;
  CURL* curl;
  bool ranged;  // asked to go on where the file ends
  Answer answer{};
  bool begun = false, stalled = false;
  std::chrono::steady_clock::time_point last_byte = std::chrono::steady_clock::now();
  std::exception_ptr error{};

  // The file as the answer wants it, before the first byte of its body.
  void begin() {
    begun = true;
    long status = 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    const std::string shown = printable(options.url);
    LACE_CHECK(status == 200 || (status == 206 && ranged), "[download] ", shown,
               " gives a file with status 200, got ", status);
    const int64_t total = status == 200 ? answer.length : answer.range_total;
    LACE_CHECK(options.bytes < 0 || total < 0 || total == options.bytes, "[download] ", shown,
               " has ", options.bytes, " bytes as published, the server has ", total);
    if (status == 200) {
      file.restart(options.url, answer.validator(), total);
      return;
    }
    LACE_CHECK(answer.range_begin == file.bytes_, "[download] ", shown, " goes on at byte ",
               file.bytes_, " as asked, the server goes on at ", answer.range_begin);
    if (file.total_ < 0) file.total_ = total;
    LACE_CHECK(total < 0 || total == file.total_, "[download] ", shown, " has ", file.total_,
               " bytes as its first part said, its next part says ", total);
  }

  size_t take(const char* data, size_t count) {
    last_byte = std::chrono::steady_clock::now();
    try {
      if (!begun) begin();
      LACE_CHECK(options.bytes < 0 || static_cast<int64_t>(count) <= options.bytes - file.bytes_,
                 "[download] ", printable(options.url), " has ", options.bytes,
                 " bytes as published, the server sends more");
      file.append(data, count);
      return count;
    } catch (...) {
      error = std::current_exception();
      return 0;
    }
  }

  static size_t on_header(char* data, size_t, size_t count, void* self) {
    auto* transfer = static_cast<Transfer*>(self);
    transfer->last_byte = std::chrono::steady_clock::now();
    transfer->answer.take({data, count});
    return count;
  }
  static size_t on_body(char* data, size_t, size_t count, void* self) {
    return static_cast<Transfer*>(self)->take(data, count);
  }
  static int on_progress(void* self, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
    // Called about once a second also where nothing comes. libcurl's own limit is one on the mean
    // speed of the last seconds, which falls slowly.
    auto* transfer = static_cast<Transfer*>(self);
    if (transfer->begun) transfer->options.progress(transfer->file.bytes_, transfer->file.total_);
    transfer->stalled = std::chrono::steady_clock::now() - transfer->last_byte >
                        std::chrono::seconds(transfer->options.stall_s);
    return transfer->stalled ? 1 : 0;
  }
};

Download::Download(const std::string& path) : part_(path + ".part"), state_(path + ".part.json") {
  for (;;) {
    descriptor_ = ::open(part_.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    LACE_CHECK(descriptor_ >= 0, "[download] cannot make ", path_text(part_), ": ",
               std::strerror(errno));
    const bool taken = ::flock(descriptor_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    // Whoever had the lock before may have removed the file since it was opened here.
    struct stat own {
    }, named{};
    ::fstat(descriptor_, &own);
    bytes_ = own.st_size;
    if (!taken && ::stat(part_.c_str(), &named) == 0 && own.st_ino == named.st_ino) break;
    ::close(descriptor_);
    LACE_CHECK(!taken, "[download] another process is fetching ", path_text(part_));
  }
  load_state();
  resumed_ = validator_.empty() ? 0 : bytes_;
}

Download::~Download() {
  if (bytes_ == 0) remove();
  ::close(descriptor_);
}

void Download::load_state() {
  try {
    const nlohmann::json state = read_json(state_, "download");
    url_ = state.at("url").get<std::string>();
    validator_ = state.at("validator").get<std::string>();
    total_ = state.at("bytes").get<int64_t>();
  } catch (const std::exception&) {  // none, or nobody knows whose: begin anew
    validator_.clear();
  }
}

// Empty, and of what the server has now.
void Download::restart(const std::string& url, const std::string& validator, int64_t total) {
  // The old state goes before the old bytes, the new one comes before the new ones.
  ::unlink(state_.c_str());
  LACE_CHECK(::ftruncate(descriptor_, 0) == 0, "[download] cannot empty ", path_text(part_), ": ",
             std::strerror(errno));
  bytes_ = resumed_ = 0;
  url_ = url;
  validator_ = validator;
  total_ = total;
  if (validator.empty()) return;
  const nlohmann::json state = {{"url", url}, {"validator", validator}, {"bytes", total}};
  std::ofstream(state_) << state.dump(2, ' ', true, nlohmann::json::error_handler_t::replace)
                        << "\n";
}

void Download::append(const char* data, size_t count) {
  while (count > 0) {
    const ssize_t written = ::write(descriptor_, data, count);
    if (written < 0 && errno == EINTR) continue;
    LACE_CHECK(written >= 0, "[download] cannot write ", path_text(part_), ": ",
               std::strerror(errno));
    data += written;
    count -= static_cast<size_t>(written);
    bytes_ += written;
  }
}

void Download::remove() {
  if (removed_) return;  // and the names may be another one's by now
  removed_ = true;
  ::unlink(state_.c_str());
  ::unlink(part_.c_str());
}

// Whether the file is complete after one more connection; if not, `failure` is why.
bool Download::attempt(const DownloadOptions& options, std::string& failure) {
  const std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> handle(curl_easy_init(),
                                                                   curl_easy_cleanup);
  CURL* curl = handle.get();
  LACE_CHECK(curl != nullptr, "[download] libcurl cannot start");
  Transfer transfer{*this, options, curl, bytes_ > 0 && !validator_.empty() && url_ == options.url};
  char message[CURL_ERROR_SIZE] = "";
  const std::string range = concat(bytes_, "-"), condition = "If-Range: " + validator_;
  curl_slist* headers = nullptr;
  if (transfer.ranged) {
    headers = curl_slist_append(nullptr, condition.c_str());
    curl_easy_setopt(curl, CURLOPT_RANGE, range.c_str());
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
  }
  const std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)> held(headers,
                                                                         curl_slist_free_all);
  curl_easy_setopt(curl, CURLOPT_URL, options.url.c_str());
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "https");
  curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, "https");
  curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(curl, CURLOPT_MAXREDIRS, 10L);
  curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, 1L);
  curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, 2L);
  curl_easy_setopt(curl, CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2));
  if (!options.ca_file.empty()) {
    curl_easy_setopt(curl, CURLOPT_CAINFO, options.ca_file.c_str());
    curl_easy_setopt(curl, CURLOPT_CAPATH, nullptr);
  }
  curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L);
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_USERAGENT, "lace");
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, message);
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, &Transfer::on_header);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, &Transfer::on_body);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, &Transfer::on_progress);
  curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &transfer);

  const CURLcode code = curl_easy_perform(curl);
  if (transfer.error) std::rethrow_exception(transfer.error);
  long status = 0;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
  if (code == CURLE_HTTP_RETURNED_ERROR && status == 416 && transfer.ranged) {
    restart(options.url, "", -1);  // the server has not even as much: begin anew
    failure = "the server has another file by now";
    return false;
  }
  if (code == CURLE_OK) {
    if (!transfer.begun) transfer.begin();  // no body
    const int64_t wanted = std::max(total_, options.bytes);
    if (wanted < 0 || bytes_ == wanted) return true;
    failure = concat("the connection ended after ", bytes_, " of ", wanted, " bytes");
    return false;
  }
  failure = transfer.stalled ? concat("nothing came for ", options.stall_s, " s")
                             : printable(*message != '\0' ? message : curl_easy_strerror(code));
  LACE_CHECK(may_pass(code, status), "[download] cannot fetch ", printable(options.url), ": ",
             failure);
  return false;
}

void Download::fetch(const DownloadOptions& options) {
  LACE_CHECK(options.url.starts_with("https://"),
             "[download] an address begins with https://, got ", printable(options.url));
  if (!validator_.empty() && url_ == options.url && total_ >= 0 && bytes_ == total_) return;
  int64_t longest = bytes_;
  double wait_s = options.first_wait_s;
  std::string failure;
  for (int failures = 0; !attempt(options, failure);) {
    if (bytes_ > longest) {
      longest = bytes_;
      failures = 0;
      wait_s = options.first_wait_s;
    }
    LACE_CHECK(failures++ < options.retries, "[download] cannot fetch ", printable(options.url),
               ": ", failure, validator_.empty() || bytes_ == 0 ? "" : "; what is there is kept");
    options.retrying(failure, wait_s);
    std::this_thread::sleep_for(std::chrono::duration<double>(wait_s));
    wait_s = std::min(2 * wait_s, kLongestWait_s);
  }
}

}  // namespace lace
