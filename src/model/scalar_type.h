#pragma once

#include <c10/core/ScalarType.h>

#include "lace/model.h"

namespace lace::model {

// libtorch's name of a precision's numbers.
at::ScalarType scalar_type(Precision precision);

}  // namespace lace::model
