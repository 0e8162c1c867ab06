#include "lace/distributed.h"
#include "lace/train.h"

#include "train/sitting.h"

namespace lace {

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
