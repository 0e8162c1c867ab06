#pragma once

#include <iostream>

#include "lace/data.h"

namespace lace::cli {

// Says on stderr what of the data was left out.
inline void print_notes(const Dataset& data) {
  for (const std::string& note : data.notes) std::cerr << "data left out: " << note << "\n";
}

}  // namespace lace::cli
