// render_page RUN: prints the page of a run's report, for the tests that look at pages.

#include <exception>
#include <iostream>

#include "report/report.h"

int main(int argc, char** argv) try {
  if (argc != 2) return 2;
  std::cout << lace::report::Report(argv[1]).html();
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
