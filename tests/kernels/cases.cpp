#include "kernels/cases.h"

#include <cctype>
#include <ostream>
#include <set>
#include <utility>

#include "lace/error.h"

namespace lace::test {
namespace {

constexpr DType kDTypes[] = {DType::kFloat32, DType::kBFloat16};

// Every atom, both directions, compositions, several passes, groups of heads.
const std::vector<std::string> kPatterns = {
    "dense",
    "local(40)",
    "local(3, 16)",
    "block(48)",
    "strided(7)",
    "strided(64)",
    "summary(32, 4)",
    "summary(32, 4, 2)",
    "fixed(32, 4, 2)",
    "block(32) | summary(32, 8)",
    "local(16) | strided(16)",
    "local(50) | strided(3)",
    "dilated(20, 5)",
    "local(10) | global(3)",
    "global{0..2, -3..-1}",
    "local(30) | sinks(4)",
    "random(2, 16, 7) | local(16)",
    "random(3, 5, 1)",
    "local(100) & strided(7)",
    "summary(32, 8) | summary(20, 3)",
    "strided(6) | strided(7)",
    "(local(60) & strided(3)) | block(10)",
    "bidirectional(dense)",
    "bidirectional(local(40) | global(3))",
    "bidirectional(local(3, 16) | random(2, 16, 0) | global{0..3, -4..-1})",
    "bidirectional(strided(9) | block(20))",
    "bidirectional(dilated(21, 4) | summary(16, 2))",
    "heads(2*local(24), 2*strided(8))",
    "heads(1*dense, 1*summary(32, 4), 2*local(16) | strided(16))",
};

void add_patterns(std::vector<Case>& cases) {
  for (const std::string& pattern : kPatterns) {
    for (const DType dtype : kDTypes) {
      cases.push_back({.pattern = pattern,
                       .dtype = dtype,
                       .heads = 4,
                       .kv_heads = dtype == DType::kFloat32 ? 4 : 2,
                       .q_len = 197,
                       .k_len = 197,
                       .qk_dim = 24,
                       .v_dim = 32});
    }
    cases.push_back({.pattern = pattern,
                     .heads = 4,
                     .kv_heads = 1,
                     .q_len = 77,
                     .k_len = 230,
                     .tile = {32, 48}});
  }
}

void add_dims(std::vector<Case>& cases) {
  const std::pair<int64_t, int64_t> dims[] = {{8, 8},   {16, 24},  {32, 64},   {40, 72},
                                              {64, 64}, {64, 128}, {128, 64},  {128, 128},
                                              {8, 256}, {256, 8},  {256, 256}, {88, 104}};
  for (const auto& [qk_dim, v_dim] : dims) {
    for (const DType dtype : kDTypes) {
      cases.push_back({.dtype = dtype,
                       .batch = 2,
                       .q_len = 130,
                       .k_len = 130,
                       .qk_dim = qk_dim,
                       .v_dim = v_dim});
    }
  }
  // Dims that fill no vector, odd ones, and the largest.
  const std::pair<int64_t, int64_t> odd_dims[] = {{1, 1},   {3, 7},    {2, 20},   {33, 36},
                                                  {36, 36}, {36, 33},  {100, 12}, {20, 100},
                                                  {7, 264}, {264, 90}, {512, 512}};
  for (const auto& [qk_dim, v_dim] : odd_dims) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
      cases.push_back({.pattern = "local(20) | strided(20)",
                       .dtype = dtype,
                       .q_len = 83,
                       .k_len = 83,
                       .qk_dim = qk_dim,
                       .v_dim = v_dim,
                       .layout = Layout::kUnaligned});
    }
  }
  // float16, in each way that passes and heads meet.
  for (const char* pattern : {"dense", "local(24) | strided(8)", "strided(20)",
                              "heads(2*local(24), 2*block(25) | summary(25, 4))"}) {
    cases.push_back({.pattern = pattern,
                     .dtype = DType::kFloat16,
                     .batch = 2,
                     .heads = 4,
                     .kv_heads = 2,
                     .q_len = 130,
                     .k_len = 150,
                     .qk_dim = 64,
                     .v_dim = 40});
  }
  // Several passes, and queries that are each in one tile alone, where head_dims differ.
  for (const auto& [qk_dim, v_dim] : {std::pair<int64_t, int64_t>{64, 128}, {128, 64}}) {
    for (const char* pattern : {"local(20) | strided(20)", "strided(20)"}) {
      for (const DType dtype : kDTypes) {
        cases.push_back({.pattern = pattern,
                         .dtype = dtype,
                         .q_len = 130,
                         .k_len = 130,
                         .qk_dim = qk_dim,
                         .v_dim = v_dim});
      }
    }
  }
}

void add_lengths(std::vector<Case>& cases) {
  const std::pair<int64_t, int64_t> lengths[] = {
      {1, 1},     {2, 2},   {3, 3},    {15, 15}, {17, 17},  {63, 63},   {64, 64},   {65, 65},
      {127, 127}, {1, 200}, {50, 200}, {64, 65}, {65, 129}, {192, 192}, {199, 200}, {333, 333},
  };
  for (const auto& [q_len, k_len] : lengths) {
    for (const char* pattern : {"dense", "local(12) | strided(12)"}) {
      for (const DType dtype : kDTypes) {
        cases.push_back({.pattern = pattern, .dtype = dtype, .q_len = q_len, .k_len = k_len});
      }
    }
  }
}

void add_layouts(std::vector<Case>& cases) {
  for (const Layout layout : {Layout::kRowsFirst, Layout::kFused, Layout::kUnaligned,
                              Layout::kReversed, Layout::kShared}) {
    for (const DType dtype : kDTypes) {
      cases.push_back({.pattern = "local(20) | strided(20)",
                       .dtype = dtype,
                       .batch = 2,
                       .heads = 4,
                       .kv_heads = 2,
                       .q_len = 101,
                       .k_len = 101,
                       .qk_dim = 32,
                       .v_dim = 40,
                       .layout = layout});
    }
  }
}

void add_special(std::vector<Case>& cases) {
  for (const DType dtype : kDTypes) {
    // Logits far beyond what exp can take without the maximum, and rows without keys.
    cases.push_back({.dtype = dtype, .q_len = 150, .k_len = 150, .magnitude = 8});
    cases.push_back({.pattern = "summary(40, 3) | strided(11)",
                     .dtype = dtype,
                     .q_len = 150,
                     .k_len = 150,
                     .magnitude = 8});
    cases.push_back({.pattern = "summary(64, 5)", .dtype = dtype, .q_len = 60, .k_len = 60});
    // Grouped heads of different plans that share a key head.
    cases.push_back({.pattern = "heads(3*local(30), 5*block(25) | summary(25, 4))",
                     .dtype = dtype,
                     .heads = 8,
                     .kv_heads = 2,
                     .q_len = 140,
                     .k_len = 140});
    // The same, each query in one tile alone.
    cases.push_back({.pattern = "heads(1*strided(7), 1*strided(9))",
                     .dtype = dtype,
                     .heads = 2,
                     .kv_heads = 1,
                     .q_len = 140,
                     .k_len = 140});
    // Three passes, of which the second joins what the first left in some of its tiles only.
    for (const char* pattern :
         {"local(16) | summary(32, 4) & local(96) | strided(32)",
          "bidirectional(local(20) | strided(32) & local(512) | global(7) & local(900))"}) {
      cases.push_back({.pattern = pattern,
                       .dtype = dtype,
                       .heads = 2,
                       .kv_heads = 1,
                       .q_len = 1100,
                       .k_len = 1100});
    }
    // Wide queries and narrow values, and the reverse: what passes leave is as wide as the kernel.
    for (const auto& [qk_dim, v_dim] : {std::pair(96, 40), std::pair(40, 96)}) {
      cases.push_back({.pattern = "bidirectional(sinks(14) | strided(64))",
                       .dtype = dtype,
                       .batch = 3,
                       .heads = 12,
                       .kv_heads = 3,
                       .q_len = 308,
                       .k_len = 308,
                       .qk_dim = qk_dim,
                       .v_dim = v_dim});
    }
    // Scales that are negative, 0, subnormal, and 0 as a float; in partly masked tiles, over
    // several passes, and with rows without keys.
    for (const double scale : {0.0, -0.2, 1e-46, -1e-46, 4.9e-324, 1e-40, -1e-40, 2e-38, -1e-30}) {
      cases.push_back({.pattern = "local(20) | summary(30, 3)",
                       .dtype = dtype,
                       .q_len = 100,
                       .k_len = 100,
                       .scale = scale});
      cases.push_back({.pattern = "summary(30, 3)",
                       .dtype = dtype,
                       .q_len = 100,
                       .k_len = 100,
                       .scale = scale});
    }
    // Losses of lse, over one pass and several, with rows without keys.
    for (const char* pattern : {"dense", "local(20) | summary(30, 3)", "strided(20)",
                                "summary(30, 3)", "heads(1*local(24), 1*block(25))"}) {
      cases.push_back({.pattern = pattern,
                       .dtype = dtype,
                       .batch = 2,
                       .kv_heads = 1,
                       .q_len = 130,
                       .k_len = 150,
                       .dlse = true});
    }
    // Long enough for runs of many tiles.
    for (const char* pattern : {"local(128) | strided(128)", "block(128) | summary(128, 32)"}) {
      cases.push_back({.pattern = pattern,
                       .dtype = dtype,
                       .heads = 1,
                       .kv_heads = 1,
                       .q_len = 1100,
                       .k_len = 1100,
                       .qk_dim = 64,
                       .v_dim = 64});
    }
  }
}

// Caps that hardly show, that bend, and that all logits reach; over one pass and several, with rows
// without keys, dead pairs in every tile, scales of both signs, and losses of lse.
void add_softcaps(std::vector<Case>& cases) {
  for (const DType dtype : kDTypes) {
    for (const char* pattern : {"dense", "local(20) | strided(20)", "summary(30, 3)",
                                "bidirectional(local(40) | global(3))"}) {
      for (const double softcap : {0.5, 3.0, 50.0}) {
        cases.push_back({.pattern = pattern,
                         .dtype = dtype,
                         .batch = 2,
                         .kv_heads = 1,
                         .q_len = 130,
                         .k_len = 150,
                         .magnitude = softcap == 3 ? 4.0 : 1.0,
                         .softcap = softcap,
                         .dlse = softcap == 3});
      }
    }
    for (const double scale : {0.0, -0.2, 1e-46, 0x1p-100, -1e30}) {
      cases.push_back({.pattern = "local(20) | summary(30, 3)",
                       .dtype = dtype,
                       .q_len = 100,
                       .k_len = 100,
                       .scale = scale,
                       .softcap = scale == 0x1p-100 ? 0x1p-64 : 4.0});
    }
    for (const auto& [qk_dim, v_dim] :
         {std::pair(64, 64), std::pair(64, 128), std::pair(128, 128), std::pair(256, 200)}) {
      cases.push_back({.pattern = "local(64) | strided(32)",
                       .dtype = dtype,
                       .kv_heads = 1,
                       .q_len = 301,
                       .k_len = 301,
                       .qk_dim = qk_dim,
                       .v_dim = v_dim,
                       .softcap = 2});
    }
  }
}

struct Lengths {
  int32_t q, k;
};

// Sequences one behind another, with a few rows before, between and after them that are of none.
Case packed_case(const std::string& pattern, const std::vector<Lengths>& lengths) {
  Case made{.pattern = pattern, .batch = static_cast<int64_t>(lengths.size()), .packed = true};
  int32_t q_row = 3, k_row = 5;
  for (const auto& [q, k] : lengths) {
    made.sequences.push_back({{k - q, k, q_row - (k - q)}, {0, k, k_row}});
    made.plan_len = std::max<int64_t>(made.plan_len, k);
    q_row += q + 2;
    k_row += k + 1;
  }
  made.q_len = q_row;
  made.k_len = k_row;
  return made;
}

// Of each sequence: its length in positions, and the positions of the first rows of q and k, which
// have `rows` rows. Positions before 0 are padding, as those from the length on.
struct Placed {
  int32_t length, q_first, k_first;
};
Case padded_case(const std::string& pattern, int32_t q_rows, int32_t k_rows,
                 const std::vector<Placed>& placed) {
  Case made{.pattern = pattern,
            .batch = static_cast<int64_t>(placed.size()),
            .q_len = q_rows,
            .k_len = k_rows};
  const auto extent = [](int32_t first, int32_t rows, int32_t length) -> Extent {
    const int32_t begin = std::min(std::max(first, 0), length);
    return {begin, std::max(begin, std::min(first + rows, length)), -first};
  };
  for (const auto& [length, q_first, k_first] : placed) {
    made.sequences.push_back({extent(q_first, q_rows, length), extent(k_first, k_rows, length)});
    made.plan_len = std::max<int64_t>(made.plan_len, length);
  }
  return made;
}

void add_sequences(std::vector<Case>& cases) {
  const std::vector<std::string> patterns = {
      "dense",
      "local(40) | strided(16)",
      "fixed(32, 4, 2)",
      "summary(32, 4)",
      "local(10) | global(3)",
      "random(2, 16, 7) | local(16)",
      "heads(1*local(30), 3*block(25) | summary(25, 4))",
      "bidirectional(dense)",
      "bidirectional(local(40) | global(3))",
      "bidirectional(strided(9) | block(20))",
  };
  for (size_t p = 0; p < patterns.size(); ++p) {
    std::vector<Case> made = {
        // One long document beside short ones, of fewer queries than keys, of none, of one row.
        packed_case(patterns[p],
                    {{300, 300}, {1, 1}, {20, 70}, {0, 0}, {64, 64}, {0, 9}, {65, 65}}),
        // Padding on the right, on the left, none, all, and on both sides.
        padded_case(patterns[p], 150, 150,
                    {{100, 0, 0}, {90, -60, -60}, {150, 0, 0}, {0, 0, 0}, {37, -3, -3}}),
        // Queries inside the keys, keys that have lost their first ones, and both.
        padded_case(patterns[p], 20, 150, {{150, 64, 0}, {140, 100, -10}, {260, 200, 130}}),
        // Keys that are padding, of queries that are not: on the right, on the left, all, none.
        padded_case(patterns[p], 150, 150, std::vector<Placed>(5, {150, 0, 0})),
    };
    const Extent keys[] = {{0, 70, 0}, {64, 150, 0}, {40, 40, 0}, {0, 150, 0}, {3, 130, 0}};
    for (size_t s = 0; s < std::size(keys); ++s) made[3].sequences[s].k = keys[s];
    made[0].plan_len += 45;
    made[1].softcap = p % 3 == 0 ? 2 : 0;
    made[2].dlse = made[3].dlse = true;
    for (Case& problem : made) {
      problem.heads = 4;
      problem.kv_heads = 4;
      if (p % 2 != 0) {
        problem.dtype = DType::kBFloat16;
        problem.kv_heads = 2;
        problem.layout = Layout::kRowsFirst;
      }
      cases.push_back(problem);
    }
  }
}

}  // namespace

std::string Case::name() const {
  constexpr const char* kLayouts[] = {"",           "_rows_first", "_fused",
                                      "_unaligned", "_reversed",   "_shared"};
  std::string text =
      concat(pattern, "_", lace::name(dtype), "_b", batch, "_h", heads, "x", kv_heads, "_n", q_len,
             "x", k_len, "_d", qk_dim, "x", v_dim, kLayouts[static_cast<int>(layout)]);
  if (tile != TileShape{64, 64}) text += concat("_t", tile.owners, "x", tile.others);
  if (magnitude != 1) text += concat("_m", magnitude);
  if (scale) text += concat("_s", *scale);
  if (softcap != 0) text += concat("_c", softcap);
  if (dlse) text += concat("_dlse");
  if (!sequences.empty()) text += concat(packed ? "_packed" : "_padded", plan_len);
  for (const auto& [q, k] : sequences) {
    text += concat("_", q.begin, "to", q.end, "at", q.row, "x", k.begin, "to", k.end, "at", k.row);
  }
  if (blocks.size != 0) {
    text += concat("_blocks", blocks.size, "x", blocks.heads, "_less", blocks.missing, "_share",
                   blocks.share);
  }
  std::string safe;
  for (const char c : text) {
    const bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
    if (plain) safe += c;
    if (c == '|') safe += "or";
    if (c == '&') safe += "and";
    if (c == ',' || c == '(') safe += '_';
    if (c == '-') safe += 'm';
    if (c == '*') safe += 'x';
  }
  return safe;
}

void PrintTo(const Case& problem, std::ostream* out) { *out << problem.name(); }

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  add_patterns(cases);
  add_dims(cases);
  add_lengths(cases);
  add_layouts(cases);
  add_special(cases);
  add_softcaps(cases);
  add_sequences(cases);
  std::set<std::string> names;
  for (const Case& problem : cases) {
    LACE_CHECK(names.insert(problem.name()).second, "[cases] twice in the list: ", problem.name());
  }
  return cases;
}

}  // namespace lace::test
