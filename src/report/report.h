#pragma once

#include <string>
#include <vector>

#include "report/chart.h"
#include "report/run.h"

namespace lace::report {

// A run as a page of HTML that needs nothing else: curves, samples, pictures, settings. Every value
// of the run's files is escaped, the page's policy lets no script run but its own, and its size
// does not grow with the run's length. Made anew while the run goes, it reads what has been added
// alone.
class Report {
 public:
  explicit Report(std::string folder) : reader_(std::move(folder)) {}

  // Throws lace::Error as RunReader::update.
  std::string html();

 private:
  RunReader reader_;
  std::string pictured_, picture_;  // what the picture of patterns was drawn of; it
};

// Curves of a run, as charts and tables have them. smoothed: a mean over about a 25th of the curve.
std::vector<Point> training_curve(const History& history, bool smoothed);
std::vector<Point> validation_curve(const History& history);

}  // namespace lace::report
