#pragma once

#include <iostream>

#include "lace/data.h"

namespace lace::cli {

// Says on stderr what of the data was left out, and how it was split where that is special.
inline void print_notes(const Dataset& data) {
  for (const std::string& note : data.notes) std::cerr << "data left out: " << note << "\n";
  for (const std::string& remark : data.remarks) std::cerr << "data: " << remark << "\n";
}

}  // namespace lace::cli
