#include <algorithm>

#include "lace/distributed.h"
#include "lace/train.h"

#include "train/sitting.h"

namespace lace {

TextData load_data(const Recipe& recipe) {
  LACE_CHECK(!recipe.data.paths.empty(),
             "[train] the recipe names no data: set data.paths to files or folders");
  return load_text({.paths = recipe.data.paths,
                    .validation_fraction = recipe.data.validation_fraction,
                    .test_fraction = recipe.data.test_fraction,
                    .record_bytes = std::max<int64_t>(1, recipe.data.record_bytes)});
}

RunResult train_run(const Recipe& recipe, const RunOptions& options) {
  recipe.check();
  try {
    return train::Sitting(recipe, options).train();
  } catch (const std::exception& error) {
    if (options.group) options.group->fail(error.what());
    throw;
  }
}

}  // namespace lace
