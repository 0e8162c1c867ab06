#include "lace/data.h"

namespace lace {

Dataset load_audio(const AudioOptions&) {
  throw Error("[audio] data of kind \"audio\" cannot be read yet");
}

}  // namespace lace
