// What the Python layer (python/lace) asks of the rooms besides attention, as operations of
// torch.ops.lace on texts, so that a package needs no binding library of its own. Only the shared
// library has them.
//   pattern_info(pattern)                        JSON: text (canonical), causal, heads (the fewest
//                                                that show all of it)
//   pattern_mask(pattern, heads, q_len, k_len)   bool [heads, q_len, k_len]: the definition
//   explain_json(patterns, seq_len, heads, tile) JSON as docs/json.md; heads 0: what they ask for
//   explain_svg(patterns, seq_len, heads)        the drawing
//   attention_kernel(q, k, v)                    the name of the kernel that would run
//   version()                                    JSON: version, commit
// All throw lace::Error as the functions that they call.

#include <cstring>

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>
#include <torch/library.h>

#include "lace/attention.h"
#include "lace/error.h"
#include "lace/pattern.h"
#include "lace/version.h"

#include "plan/explain.h"
#include "plan/explain_json.h"
#include "plan/explain_svg.h"

namespace lace::ops {
namespace {

using Json = nlohmann::ordered_json;

std::string to_text(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);  // names are bytes
}

std::string pattern_info(const std::string& text) {
  const Pattern pattern = Pattern::parse(text);
  return to_text({{"text", pattern.to_string()},
                  {"causal", pattern.causal()},
                  {"heads", heads_told_apart({pattern})}});
}

at::Tensor pattern_mask(const std::string& text, int64_t heads, int64_t q_len, int64_t k_len) {
  const BoundPattern bound = Pattern::parse(text).bind(heads, q_len, k_len);
  at::Tensor mask = at::empty({heads, q_len, k_len}, at::kBool);
  bool* live = mask.data_ptr<bool>();
  for (int64_t head = 0; head < heads; ++head) {
    const int64_t first = bound.group_head(bound.group(head));
    bool* matrix = live + head * q_len * k_len;
    if (first < head) {
      std::memcpy(matrix, live + first * q_len * k_len, static_cast<size_t>(q_len * k_len));
      continue;
    }
    for (int64_t row = 0; row < q_len; ++row) {
      for (int64_t key = 0; key < k_len; ++key) {
        matrix[row * k_len + key] = bound.attends(head, k_len - q_len + row, key);
      }
    }
  }
  return mask;
}

std::vector<Pattern> parse_cycle(const std::vector<std::string>& texts) {
  LACE_CHECK(!texts.empty(), "[explain] at least one pattern is needed, got none");
  std::vector<Pattern> cycle;
  for (const std::string& text : texts) cycle.push_back(Pattern::parse(text));
  return cycle;
}

int64_t heads_of(const std::vector<Pattern>& cycle, int64_t heads) {
  LACE_CHECK(0 <= heads && heads <= kMostExplainedHeads, "[explain] heads must be from 1 to ",
             kMostExplainedHeads, ", got ", heads);
  return heads > 0 ? heads : heads_told_apart(cycle);
}

std::string explain_json_op(const std::vector<std::string>& patterns, int64_t seq_len,
                            int64_t heads, at::IntArrayRef tile, int64_t layers) {
  const std::vector<Pattern> cycle = parse_cycle(patterns);
  LACE_CHECK(1 <= seq_len && seq_len <= int64_t{1} << 30,
             "[explain] seq_len must be from 1 to 2^30, got ", seq_len);
  const auto fits = [](int64_t size) { return 16 <= size && size <= 256 && size % 16 == 0; };
  LACE_CHECK(tile.size() == 2 && fits(tile[0]) && fits(tile[1]),
             "[explain] tile must be queries and keys, multiples of 16 up to 256, got ", tile);
  LACE_CHECK(layers >= 0, "[explain] layers must be positive, got ", layers);
  const TileShape shape{static_cast<int32_t>(tile[0]), static_cast<int32_t>(tile[1])};
  return to_text(explain_json(explain(cycle, heads_of(cycle, heads), seq_len, shape), layers));
}

std::string explain_svg_op(const std::vector<std::string>& patterns, int64_t seq_len,
                           int64_t heads) {
  const std::vector<Pattern> cycle = parse_cycle(patterns);
  return explain_svg(cycle, heads_of(cycle, heads), seq_len);
}

std::string version_op() {
  return to_text({{"version", std::string(version())}, {"commit", std::string(commit())}});
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(lace, library) {
  library.def("pattern_info(str pattern) -> str", pattern_info);
  library.def("pattern_mask(str pattern, int heads, int q_len, int k_len) -> Tensor", pattern_mask);
  library.def(
      "explain_json(str[] patterns, int seq_len, int heads=0, int[] tile=[128, 128], "
      "int layers=0) -> str",
      explain_json_op);
  library.def("explain_svg(str[] patterns, int seq_len, int heads=0) -> str", explain_svg_op);
  library.def("attention_kernel(Tensor q, Tensor k, Tensor v) -> str", attention_kernel);
  library.def("version() -> str", version_op);
}

}  // namespace lace::ops
