#include "output.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <iostream>

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <sys/stat.h>

#include "lace/error.h"

#include "core/safe_text.h"

namespace lace::cli {

namespace {

using Json = nlohmann::ordered_json;

// Opens the standard streams that are closed, each so that using it fails.
void occupy_closed_streams() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(fd, F_GETFD) >= 0) continue;
    [[maybe_unused]] const int lowest =
        ::open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
  }
}

// Every string that is no UTF-8, keys included, becomes safe text.
Json escaped(const Json& json) {
  if (json.is_string()) {
    const auto& text = json.get_ref<const std::string&>();
    try {
      (void)json.dump();
      return text;
    } catch (const Json::type_error&) {
      return safe_lines(text);
    }
  }
  if (!json.is_structured()) return json;
  Json result = json.is_array() ? Json::array() : Json::object();
  for (const auto& [key, value] : json.items()) {
    if (json.is_array()) {
      result.push_back(escaped(value));
    } else {
      result[escaped(key).get<std::string>()] = escaped(value);
    }
  }
  return result;
}

}  // namespace

OutputError::OutputError(int error)
    : std::runtime_error(concat("standard output cannot be written: ", std::strerror(error))),
      error_(error) {}

bool OutputError::closed_pipe() const { return error_ == EPIPE; }

StandardOutput::StandardOutput() : buffer_(1 << 16) {
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);
  occupy_closed_streams();
  setp(buffer_.data(), buffer_.data() + buffer_.size());
  old_ = std::cout.rdbuf(this);
  std::cout.exceptions(std::ios::badbit);
  std::cerr.tie(nullptr);  // or a message would throw what is wrong with std::cout
}

StandardOutput::~StandardOutput() {
  std::cout.exceptions(std::ios::goodbit);
  std::cout.rdbuf(old_);
}

StandardOutput::int_type StandardOutput::overflow(int_type c) {
  sync();
  return traits_type::eq_int_type(c, traits_type::eof()) ? traits_type::not_eof(c)
                                                         : sputc(traits_type::to_char_type(c));
}

int StandardOutput::sync() {
  const std::string_view text(pbase(), static_cast<size_t>(pptr() - pbase()));
  setp(buffer_.data(), buffer_.data() + buffer_.size());
  if (const int error = write_all(STDOUT_FILENO, text); error != 0) throw OutputError(error);
  return 0;
}

int write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written >= 0) {
      bytes.remove_prefix(static_cast<size_t>(written));
    } else if (errno == EAGAIN) {  // somebody made it non-blocking
      pollfd writable{fd, POLLOUT, 0};
      ::poll(&writable, 1, -1);
    } else if (errno != EINTR) {
      return errno;
    }
  }
  return 0;
}

void print_json(const Json& json) {
  std::string text;
  try {
    text = json.dump(2);
  } catch (const Json::type_error&) {
    text = escaped(json).dump(2);
  }
  std::cout << text << "\n";
}

std::string safe_lines(std::string_view text) {
  SafeText safe;
  std::string shown;
  for (const char c : text) shown += safe.add(static_cast<uint8_t>(c));
  return shown + safe.finish();
}

void write_file(std::string_view what, const std::string& path, std::string_view text) {
  namespace fs = std::filesystem;
  std::error_code failure;
  const fs::file_status status = fs::status(path, failure);
  const auto check = [&](int error) {
    LACE_CHECK(error == 0, "[", what, "] cannot write ", path, ": ", std::strerror(error));
  };
  check(fs::is_directory(status) ? EISDIR : 0);
  if (fs::exists(status) && !fs::is_regular_file(status)) {
    const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
    check(fd < 0 ? errno : 0);
    const int error = write_all(fd, text);
    check(::close(fd) != 0 && error == 0 ? errno : error);
    return;
  }
  // A link stays: what it names is replaced.
  const std::string target = fs::exists(status) ? fs::canonical(path).string() : path;
  std::string temporary = target + ".XXXXXX";
  const int fd = ::mkstemp(temporary.data());
  check(fd < 0 ? errno : 0);
  const mode_t mask = ::umask(0);
  ::umask(mask);
  const auto mode = fs::exists(status) ? static_cast<mode_t>(status.permissions()) : 0666 & ~mask;
  int error = ::fchmod(fd, mode) != 0 ? errno : 0;
  if (error == 0) error = write_all(fd, text);
  if (::close(fd) != 0 && error == 0) error = errno;
  if (error == 0 && ::rename(temporary.c_str(), target.c_str()) != 0) error = errno;
  if (error != 0) ::unlink(temporary.c_str());
  check(error);
}

}  // namespace lace::cli
