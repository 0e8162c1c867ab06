#pragma once

#include "lace/pattern.h"

namespace lace::model {

// `global` names positions of the whole sequence, of which decoding has only a part: its patterns
// are bound to seq_len once, and what lies beyond the keys so far is left out at each call.

// `pattern` with its tokens counted from the start.
Pattern resolve_tokens(const Pattern& pattern, int64_t heads, int64_t seq_len);

// The same without tokens at or after `keys`.
Pattern clip_tokens(const Pattern& pattern, int64_t keys);

}  // namespace lace::model
