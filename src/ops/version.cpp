#include "lace/version.h"

#include "lace_commit.h"

namespace lace {

std::string_view version() { return LACE_VERSION; }
std::string_view commit() { return LACE_COMMIT; }

}  // namespace lace
