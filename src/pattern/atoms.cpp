#include "pattern/atoms.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "lace/error.h"

#include "pattern/random.h"

namespace lace::pattern {
namespace {

constexpr int64_t kMaxSeed = std::numeric_limits<int64_t>::max();

constexpr std::array<AtomSpec, 11> kSpecs{{
    {AtomKind::kDense, "dense", 0, 0, {}, {}},
    {AtomKind::kLocal, "local", 1, 2, {{{"window", 1}, {"block", 1}}}, {{0, 1}}},
    {AtomKind::kBlock, "block", 1, 1, {{{"length", 1}}}, {}},
    {AtomKind::kStrided, "strided", 1, 1, {{{"length", 1}}}, {}},
    {AtomKind::kSummary, "summary", 2, 3, {{{"length", 1}, {"columns", 1}, {"stripe", 0}}}, {}},
    {AtomKind::kFixed, "fixed", 3, 3, {{{"length", 1}, {"columns", 1}, {"stripes", 1}}}, {}},
    {AtomKind::kDilated, "dilated", 2, 2, {{{"window", 1}, {"dilation", 1}}}, {}},
    {AtomKind::kGlobal, "global", 1, 1, {{{"count", 1}}}, {}},
    {AtomKind::kSinks, "sinks", 1, 1, {{{"count", 1}}}, {}},
    {AtomKind::kRandom, "random", 3, 3, {{{"blocks", 1}, {"block", 1}, {"seed", 0, kMaxSeed}}}, {}},
    {AtomKind::kMask, "mask", 1, 1, {{{"file"}}}, {}},
}};

static_assert(std::ranges::all_of(kSpecs, [](const AtomSpec& spec) {
  return &spec == &kSpecs[static_cast<size_t>(spec.kind)];
}));

std::optional<ArgumentError> check_tokens(const std::vector<TokenRange>& tokens) {
  for (size_t t = 0; t < tokens.size(); ++t) {
    const auto [first, last] = tokens[t];
    const int index = static_cast<int>(t);
    for (const int64_t token : {first, last}) {
      if (token > kMaxArgument || token < -kMaxArgument) {
        return ArgumentError{index,
                             concat("token must be within ±", kMaxArgument, ", got ", token)};
      }
    }
    const bool same_end = (first < 0) == (last < 0);
    if ((same_end && first > last) || (first < 0 && last >= 0)) {
      return ArgumentError{index, concat("range of tokens must ascend, got ", first, "..", last)};
    }
  }
  return std::nullopt;
}

// columns · stripes must fit into one length.
std::optional<ArgumentError> check_columns(const Atom& atom) {
  const auto [length, columns, third] = atom.args;
  if (columns > length) {
    return ArgumentError{1, concat("columns must be at most length (", length, "), got ", columns)};
  }
  const bool stripe = atom.kind == AtomKind::kSummary;
  const int64_t most = length / columns - (stripe ? 1 : 0);
  if (third > most) {
    return ArgumentError{2, concat(stripe ? "stripe" : "stripes", " must be at most ", most,
                                   " (length ", length, ", columns ", columns, "), got ", third)};
  }
  return std::nullopt;
}

bool plain_path(std::string_view path) {
  return std::all_of(path.begin(), path.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("_./~+@=-").find(c) != std::string_view::npos;
  });
}

std::string quoted(std::string_view path) {
  if (plain_path(path)) return std::string(path);
  std::string text = "\"";
  for (const char c : path) {
    if (c == '"' || c == '\\') text += '\\';
    text += c;
  }
  return text + '"';
}

std::string tokens_to_string(const std::vector<TokenRange>& tokens) {
  std::string text = "global{";
  for (size_t t = 0; t < tokens.size(); ++t) {
    if (t > 0) text += ", ";
    text += std::to_string(tokens[t].first);
    if (tokens[t].last != tokens[t].first) text += ".." + std::to_string(tokens[t].last);
  }
  return text + "}";
}

// Non-negative, sorted, disjoint, inside [0, k_len).
std::vector<TokenRange> resolve_tokens(const Atom& atom, int64_t k_len) {
  if (atom.tokens.empty()) return {{0, std::min(atom.args[0], k_len) - 1}};
  std::vector<TokenRange> ranges;
  for (const auto& [first, last] : atom.tokens) {
    const int64_t from = std::max<int64_t>(first < 0 ? first + k_len : first, 0);
    const int64_t to = std::min(last < 0 ? last + k_len : last, k_len - 1);
    LACE_CHECK(from <= to, "[global] tokens must lie inside the ", k_len, " keys, got ",
               tokens_to_string({{first, last}}));
    ranges.push_back({from, to});
  }
  std::sort(ranges.begin(), ranges.end(), [](const TokenRange& a, const TokenRange& b) {
    return std::pair(a.first, a.last) < std::pair(b.first, b.last);
  });
  std::vector<TokenRange> merged;
  for (const TokenRange& range : ranges) {
    if (!merged.empty() && range.first <= merged.back().last + 1) {
      merged.back().last = std::max(merged.back().last, range.last);
    } else {
      merged.push_back(range);
    }
  }
  return merged;
}

Expr resolve_fixed(const Atom& atom, int64_t head) {
  const auto [length, columns, stripes] = atom.args;
  Expr expr{.op = Expr::Op::kUnion, .atom = {}, .operands = {}};
  for (const Atom& part :
       {Atom{AtomKind::kBlock, {length}, {}, {}, {}},
        Atom{AtomKind::kSummary, {length, columns, head % stripes}, {}, {}, {}}}) {
    expr.operands.push_back({.op = Expr::Op::kAtom, .atom = part, .operands = {}});
  }
  return expr;
}

bool in_tokens(const std::vector<TokenRange>& tokens, int64_t position) {
  return std::any_of(tokens.begin(), tokens.end(), [position](const TokenRange& range) {
    return range.first <= position && position <= range.last;
  });
}

// i − j within a window, in steps of `dilation`: behind only, or half to each side.
bool in_window(int64_t distance, int64_t window, int64_t dilation, bool causal) {
  if (causal) return distance < window * dilation;
  return std::max(distance, -distance) <= window / 2 * dilation;
}

bool mask_attends(const BlockMask& mask, int64_t head, int64_t query, int64_t key) {
  const int64_t query_block = query / mask.block_size, key_block = key / mask.block_size;
  return query_block < mask.blocks && key_block < mask.blocks &&
         mask.at(head, query_block, key_block);
}

}  // namespace

std::span<const AtomSpec> atom_specs() { return kSpecs; }

const AtomSpec& atom_spec(AtomKind kind) { return kSpecs[static_cast<size_t>(kind)]; }

const AtomSpec* find_atom_spec(std::string_view name) {
  const auto spec = std::find_if(kSpecs.begin(), kSpecs.end(),
                                 [name](const AtomSpec& spec) { return spec.name == name; });
  return spec == kSpecs.end() ? nullptr : &*spec;
}

std::string usage(const AtomSpec& spec) {
  std::string text(spec.name);
  if (spec.count == 0) return text;
  text += '(';
  for (int a = 0; a < spec.count; ++a) {
    const size_t index = static_cast<size_t>(a);
    if (a > 0) text += ", ";
    text += spec.arguments[index].name;
    if (a >= spec.required) text += " = " + std::to_string(spec.defaults[index]);
  }
  return text + ')';
}

std::optional<ArgumentError> check_arguments(const Atom& atom) {
  if (atom.kind == AtomKind::kMask) {
    if (atom.file.empty()) return ArgumentError{0, "file must have a name, got none"};
    return std::nullopt;
  }
  if (!atom.tokens.empty()) return check_tokens(atom.tokens);
  const AtomSpec& spec = atom_spec(atom.kind);
  for (int a = 0; a < spec.count; ++a) {
    const size_t index = static_cast<size_t>(a);
    const ArgumentSpec& argument = spec.arguments[index];
    const int64_t value = atom.args[index];
    if (value < argument.min) {
      return ArgumentError{
          a, concat(argument.name, " must be at least ", argument.min, ", got ", value)};
    }
    if (value > argument.max) {
      return ArgumentError{
          a, concat(argument.name, " must be at most ", argument.max, ", got ", value)};
    }
  }
  const bool has_columns = atom.kind == AtomKind::kSummary || atom.kind == AtomKind::kFixed;
  return has_columns ? check_columns(atom) : std::nullopt;
}

std::string to_string(const Atom& atom) {
  const AtomSpec& spec = atom_spec(atom.kind);
  if (!atom.tokens.empty()) return tokens_to_string(atom.tokens);
  if (atom.kind == AtomKind::kMask) return "mask(" + quoted(atom.file) + ")";
  if (spec.count == 0) return std::string(spec.name);
  int shown = spec.count;
  while (shown > spec.required) {
    const size_t last = static_cast<size_t>(shown - 1);
    if (atom.args[last] != spec.defaults[last]) break;
    --shown;
  }
  std::string text = std::string(spec.name) + '(';
  for (int a = 0; a < shown; ++a) {
    if (a > 0) text += ", ";
    text += std::to_string(atom.args[static_cast<size_t>(a)]);
  }
  return text + ')';
}

Expr resolve(const Atom& atom, int64_t head, int64_t heads, int64_t k_len) {
  if (atom.kind == AtomKind::kFixed) return resolve_fixed(atom, head);
  Expr expr{.op = Expr::Op::kAtom, .atom = atom, .operands = {}};
  if (atom.kind == AtomKind::kGlobal) {
    expr.atom.tokens = resolve_tokens(atom, k_len);
    expr.atom.args = {};
  }
  if (atom.kind == AtomKind::kMask) {
    const int64_t mask_heads = atom.mask->heads;
    LACE_CHECK(mask_heads == 1 || mask_heads == heads, "[mask] heads of ", atom.file,
               " must be 1 or ", heads, ", got ", mask_heads);
  }
  return expr;
}

bool same_pairs(const Atom& a, int64_t head_a, const Atom& b, int64_t head_b) {
  if (a.kind != b.kind) return false;
  if (a.kind == AtomKind::kRandom) return head_a == head_b && a == b;
  if (a.kind != AtomKind::kMask) return a == b;
  const BlockMask &x = *a.mask, &y = *b.mask;
  if (x.blocks != y.blocks || x.block_size != y.block_size) return false;
  const auto slice = [](const BlockMask& mask, int64_t head) {
    const int64_t size = mask.blocks * mask.blocks;
    return mask.live.begin() + (mask.heads == 1 ? 0 : head * size);
  };
  const auto begin = slice(x, head_a);
  return std::equal(begin, begin + x.blocks * x.blocks, slice(y, head_b));
}

bool attends(const Atom& atom, int64_t head, bool causal, int64_t k_len, int64_t query,
             int64_t key) {
  const auto& args = atom.args;
  const int64_t distance = query - key;
  switch (atom.kind) {
    case AtomKind::kDense:
      return true;
    case AtomKind::kLocal:
      return in_window(query / args[1] - key / args[1], args[0], 1, causal);
    case AtomKind::kBlock:
      return query / args[0] == key / args[0];
    case AtomKind::kStrided:
      return distance % args[0] == 0;
    case AtomKind::kSummary: {
      const int64_t from_end = args[0] - 1 - key % args[0];
      return from_end / args[1] == args[2];
    }
    case AtomKind::kDilated:
      return distance % args[1] == 0 && in_window(distance, args[0], args[1], causal);
    case AtomKind::kGlobal:
      return in_tokens(atom.tokens, key) || (!causal && in_tokens(atom.tokens, query));
    case AtomKind::kSinks:
      return key < args[0];
    case AtomKind::kRandom:
      return random_attends(atom, head, causal, k_len, query, key);
    case AtomKind::kMask:
      return mask_attends(*atom.mask, head, query, key);
    case AtomKind::kFixed:
      break;  // resolve() leaves none
  }
  return false;
}

}  // namespace lace::pattern
