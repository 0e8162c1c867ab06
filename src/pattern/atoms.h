#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "lace/pattern.h"

namespace lace::pattern {

// The largest length, window, count or token: products of two stay inside int64_t.
inline constexpr int64_t kMaxArgument = (int64_t{1} << 31) - 1;

struct ArgumentSpec {
  std::string_view name;
  int64_t min = 0;
  int64_t max = kMaxArgument;
};

// How an atom is written. kGlobal is also written with braces, kMask with a file name.
struct AtomSpec {
  AtomKind kind;
  std::string_view name;
  int required = 0;  // the arguments that have no default
  int count = 0;     // all arguments
  std::array<ArgumentSpec, 3> arguments{};
  std::array<int64_t, 3> defaults{};
};

// All atoms, in the order of AtomKind.
std::span<const AtomSpec> atom_specs();
const AtomSpec& atom_spec(AtomKind kind);
// nullptr if there is no atom of that name.
const AtomSpec* find_atom_spec(std::string_view name);

// "summary(length, columns, stripe = 0)"
std::string usage(const AtomSpec& spec);

// The argument that breaks a rule: its index (of a token range for global{…}) and the text
// "columns must be at most length (128), got 200".
struct ArgumentError {
  int index = 0;
  std::string text;
};
std::optional<ArgumentError> check_arguments(const Atom& atom);

// Canonical text of one atom.
std::string to_string(const Atom& atom);

// What an atom means for one head of a bound pattern (BoundPattern::expr). Throws lace::Error if an
// argument does not fit the lengths or the heads.
Expr resolve(const Atom& atom, int64_t head, int64_t heads, int64_t k_len);

// Heads that draw or read masks apart are told apart by `head`: true if resolved atoms mean the
// same pairs for both heads.
bool same_pairs(const Atom& a, int64_t head_a, const Atom& b, int64_t head_b);

// Whether resolved `atom` lets `query` see `key`; causality is the caller's.
bool attends(const Atom& atom, int64_t head, bool causal, int64_t k_len, int64_t query,
             int64_t key);

}  // namespace lace::pattern
