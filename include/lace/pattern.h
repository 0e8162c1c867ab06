#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace lace {

// Which queries attend to which keys. docs/design.md, "Patterns, by name", defines every atom.
// Positions are 0-based and absolute: with q_len < k_len the queries are the last q_len of the
// k_len positions. Unless bidirectional, every set also needs key <= query.

// Which blocks of queries see which blocks of keys: bool [heads or 1, blocks, blocks], read from a
// safetensors file, or from memory (block_mask). Beyond the blocks nothing is live.
struct BlockMask {
  int64_t heads = 1;
  int64_t blocks = 0;
  int64_t block_size = 0;
  std::vector<uint8_t> live;  // [heads, blocks (query), blocks (key)], 0 or 1
  uint64_t content_hash = 0;
  bool at(int64_t head, int64_t query_block, int64_t key_block) const {
    const int64_t h = heads == 1 ? 0 : head;
    return live[static_cast<size_t>((h * blocks + query_block) * blocks + key_block)] != 0;
  }
};

enum class AtomKind {
  kDense,    // dense
  kLocal,    // local(window), local(window, block)
  kBlock,    // block(length)
  kStrided,  // strided(length)
  kSummary,  // summary(length, columns, stripe)
  kFixed,    // fixed(length, columns, stripes): block | summary(length, columns, head mod stripes)
  kDilated,  // dilated(window, dilation)
  kGlobal,   // global(count), global{…}
  kSinks,    // sinks(count)
  kRandom,   // random(blocks, block, seed)
  kMask,     // mask(file)
};

// Tokens first..last, both included; negative counts from the end of the keys.
struct TokenRange {
  int64_t first = 0;
  int64_t last = 0;
  bool operator==(const TokenRange&) const = default;
};

struct Atom {
  AtomKind kind = AtomKind::kDense;
  // The arguments in the order above; unused ones are 0. local(w) has block = 1.
  std::array<int64_t, 3> args{};
  std::vector<TokenRange> tokens;         // kGlobal
  std::string file;                       // kMask, as written
  std::shared_ptr<const BlockMask> mask;  // kMask
  bool operator==(const Atom& other) const;
};

// A tree of unions and intersections over atoms.
struct Expr {
  enum class Op { kAtom, kUnion, kIntersection };
  Op op = Op::kAtom;
  Atom atom;                   // of kAtom
  std::vector<Expr> operands;  // of the others, at least two
  bool operator==(const Expr& other) const;
};

class BoundPattern;

// An immutable value. The same text form always means the same pattern.
class Pattern {
 public:
  // The grammar of docs/design.md. Throws lace::Error with the text and a caret under the
  // character that is wrong.
  static Pattern parse(std::string_view text);

  // Canonical text: parse(to_string()) == *this.
  std::string to_string() const;

  bool causal() const { return causal_; }

  // Whether the keys that two positions see depend on how many keys there are: tokens that are
  // counted from the end, and random(…) where it is bidirectional.
  bool depends_on_length() const;

  // Throws lace::Error if the lengths, the head count, or arguments that depend on them are wrong:
  // 1 <= q_len <= k_len; heads divides into the counts of heads(…).
  BoundPattern bind(int64_t heads, int64_t q_len, int64_t k_len) const;

  bool operator==(const Pattern& other) const;

  // One entry for all heads (count 0), or the entries of heads(…).
  struct HeadEntry {
    int64_t count = 0;
    Expr expr;
    bool operator==(const HeadEntry&) const = default;
  };
  const std::vector<HeadEntry>& entries() const { return entries_; }

  Pattern(std::vector<HeadEntry> entries, bool causal);

 private:
  std::vector<HeadEntry> entries_;
  bool causal_ = true;
};

// A pattern with its heads and lengths: the definition of which pairs are live.
class BoundPattern {
 public:
  // 0 <= head < heads; query and key are absolute positions in [0, k_len).
  bool attends(int64_t head, int64_t query, int64_t key) const;

  int64_t heads() const { return heads_; }
  int64_t q_len() const { return q_len_; }
  int64_t k_len() const { return k_len_; }
  bool causal() const { return causal_; }
  const Pattern& pattern() const { return pattern_; }

  // The expression of one head, with head-dependent atoms resolved: `fixed` became
  // block | summary, global tokens are non-negative, sorted, disjoint and inside [0, k_len).
  const Expr& expr(int64_t head) const { return exprs_[static_cast<size_t>(group(head))]; }

  // Heads with equal sets share a group: group(head) in [0, groups()), first seen first.
  // `random` draws for each head apart, so each of its heads is a group of its own.
  int64_t groups() const { return static_cast<int64_t>(exprs_.size()); }
  int64_t group(int64_t head) const { return head_group_[static_cast<size_t>(head)]; }
  // The lowest head of a group.
  int64_t group_head(int64_t group) const { return group_head_[static_cast<size_t>(group)]; }

  // This pattern as if `random` drew for all heads that differ in nothing else what it draws for
  // the lowest of them, which are then one group: other pairs, at about the same cost.
  BoundPattern with_one_draw() const;

 private:
  friend class Pattern;
  explicit BoundPattern(Pattern pattern) : pattern_(std::move(pattern)) {}
  Pattern pattern_;
  int64_t heads_ = 0, q_len_ = 0, k_len_ = 0;
  bool causal_ = true;
  std::vector<Expr> exprs_;
  std::vector<int64_t> head_group_, group_head_;
};

// The blocks that random(count, block, seed) draws for one block of queries, ascending.
// blocks: how many there are in the keys. Causal: from those at or before query_block.
std::vector<int64_t> random_blocks(int64_t count, uint64_t seed, int64_t head, int64_t query_block,
                                   int64_t blocks, bool causal);

// Constructors named as the atoms. Each throws lace::Error naming the argument that is wrong.
Pattern dense();
Pattern local(int64_t window, int64_t block = 1);
Pattern block(int64_t length);
Pattern strided(int64_t length);
Pattern summary(int64_t length, int64_t columns, int64_t stripe = 0);
Pattern fixed(int64_t length, int64_t columns, int64_t stripes);
Pattern dilated(int64_t window, int64_t dilation);
Pattern global(int64_t count);
Pattern global(std::vector<TokenRange> tokens);
Pattern sinks(int64_t count);
Pattern random(int64_t blocks, int64_t block, int64_t seed);
Pattern mask(const std::string& file);

// A block mask of `live`, [heads, blocks, blocks] of 0 and 1. Throws lace::Error if the numbers do
// not fit.
std::shared_ptr<const BlockMask> block_mask(int64_t heads, int64_t blocks, int64_t block_size,
                                            std::vector<uint8_t> live);
// Of the pairs of any pattern those in live blocks. Equal if the contents are; its text names the
// mask by its hash, and cannot be parsed.
Pattern within(const Pattern& pattern, std::shared_ptr<const BlockMask> mask);

// Union and intersection of patterns that are neither bidirectional(…) nor heads(…).
Pattern operator|(const Pattern& a, const Pattern& b);
Pattern operator&(const Pattern& a, const Pattern& b);

// Outermost only.
Pattern bidirectional(const Pattern& pattern);
struct HeadCount {
  int64_t count;
  Pattern pattern;
};
Pattern heads(const std::vector<HeadCount>& entries);

// After how many layers every earlier position (bidirectional: every position) can influence every
// query, for a stack that cycles through `layers`: exact up to k_len 16,384, beyond it from sampled
// queries, in a time that grows with k_len whatever the patterns.
struct Reach {
  int64_t layers = -1;  // -1: never
  bool exact = true;
  bool at_least =
      false;  // a query's search was cut, as it took too long: it needs `layers` or more
};
Reach reach(const std::vector<Pattern>& layers, int64_t heads, int64_t seq_len);

}  // namespace lace
