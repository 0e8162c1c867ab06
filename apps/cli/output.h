#pragma once

#include <stdexcept>
#include <streambuf>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace lace::cli {

// Standard output cannot be written.
class OutputError : public std::runtime_error {
 public:
  explicit OutputError(int error);
  // Whoever read it has gone: no fault that anybody needs to hear of.
  bool closed_pipe() const;

 private:
  int error_;
};

// While one lives, std::cout writes to standard output through it, and every write that fails
// throws OutputError: from `std::cout << …` where the buffer is full, from std::flush at the
// latest. For that it has signals that end a program by a write (SIGPIPE, SIGXFSZ) ignored, here
// and in child processes, and where a standard stream is closed, its number taken: no file that is
// opened later can get it, and with it what is printed.
class StandardOutput : public std::streambuf {
 public:
  StandardOutput();
  ~StandardOutput() override;  // what was not flushed is lost
  StandardOutput(const StandardOutput&) = delete;
  StandardOutput& operator=(const StandardOutput&) = delete;

 protected:
  int_type overflow(int_type c) override;
  int sync() override;

 private:
  std::vector<char> buffer_;
  std::streambuf* old_;
};

// Prints a document of --json: numbers that are not finite as null, bytes that are no UTF-8 as
// \x and two digits.
void print_json(const nlohmann::ordered_json& json);

// The text of an error or a name as a terminal may get it (core/safe_text.h), line by line.
std::string safe_lines(std::string_view text);

// Writes all bytes to a file descriptor. The number of the error that stopped it, or 0.
int write_all(int fd, std::string_view bytes);

// Writes a file that the user named. A regular file holds either what it held or all of `text`;
// what is none (a device, a pipe) is written as it stands. Throws lace::Error `[what] …` naming the
// file.
void write_file(std::string_view what, const std::string& path, std::string_view text);

}  // namespace lace::cli
