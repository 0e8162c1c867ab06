// get_data() as a program that starts at once: NAME TO URL CA_FILE DIGEST STALL_S RETRIES. Prints
// JSON; errors and retries go to stderr, with exit code 1 and 0.
#include <cstdlib>
#include <iostream>

#include <nlohmann/json.hpp>

#include "lace/error.h"

#include "data/published.h"

int main(int argc, char** argv) {
  if (argc != 8) return 2;
  lace::GetOptions options;
  options.name = argv[1];
  options.to = argv[2];
  options.url = argv[3];
  options.ca_file = argv[4];
  options.digest = argv[5];
  options.stall_s = std::atoi(argv[6]);
  options.retries = std::atoi(argv[7]);
  options.first_wait_s = 0.01;
  options.retrying = [](const std::string& reason, double) {
    std::cerr << "retry: " << reason << "\n";
  };
  try {
    const lace::GetResult got = lace::get_data(options);
    std::cout << nlohmann::json{{"path", got.path},
                                {"already_there", got.already_there},
                                {"archive_bytes", got.archive_bytes},
                                {"archive_sha256", got.archive_sha256},
                                {"resumed_bytes", got.resumed_bytes},
                                {"checked", got.checked}};
    return 0;
  } catch (const lace::Error& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
