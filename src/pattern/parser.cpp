#include <algorithm>
#include <charconv>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lace/error.h"
#include "lace/pattern.h"

#include "core/edit_distance.h"
#include "core/safe_text.h"
#include "pattern/atoms.h"
#include "pattern/expr.h"
#include "pattern/mask.h"

namespace lace {
namespace pattern {
namespace {

constexpr size_t kMaxText = 65536;
constexpr size_t kShownBefore = 60, kShownAfter = 36;  // of a long text, around the caret

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool is_digit(char c) { return '0' <= c && c <= '9'; }
bool is_letter(char c) { return ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z') || c == '_'; }
bool continues_utf8(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

// The known name nearest to `name`, or none.
std::string_view near_miss(std::string_view name) {
  std::string lower(name.substr(0, 32));
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](char c) { return 'A' <= c && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  std::string_view best;
  size_t best_distance = 3;
  const auto consider = [&](std::string_view known) {
    const size_t distance = edit_distance(lower, known);
    if (distance < best_distance && distance < known.size() / 2) {
      best = known;
      best_distance = distance;
    }
  };
  for (const AtomSpec& spec : atom_specs()) consider(spec.name);
  consider("bidirectional");
  consider("heads");
  return best;
}

std::string known_names() {
  std::string text;
  for (const AtomSpec& spec : atom_specs()) text += concat(text.empty() ? "" : ", ", spec.name);
  return text;
}

// The text around `at` on a line of its own, and a caret below the character at `at`. Control
// characters become spaces, and so does each byte that is no UTF-8.
std::string show(std::string_view text, size_t at) {
  size_t begin = at > kShownBefore ? at - kShownBefore : 0;
  size_t end = std::min(text.size(), at + kShownAfter);
  for (int more = 0; more < 3 && begin > 0 && continues_utf8(text[begin]); ++more) --begin;
  for (int more = 0; more < 3 && end < text.size() && continues_utf8(text[end]); ++more) ++end;
  std::string line = begin > 0 ? "…" : "";
  size_t column = begin > 0 ? 1 : 0;
  SafeText safe;
  const auto show = [&](const std::string& shown) {  // "", a character, or escapes of 4 each
    const bool escapes = shown.size() % 4 == 0 && shown.starts_with("\\x");
    line += escapes ? std::string(shown.size() / 4, ' ') : shown;
    return escapes ? shown.size() / 4 : size_t{!shown.empty()};
  };
  for (size_t p = begin; p < end; ++p) {
    const bool space = is_space(text[p]);
    const size_t width =
        space ? show(safe.finish()) + show(" ") : show(safe.add(static_cast<uint8_t>(text[p])));
    if (p < at) column += width;
  }
  show(safe.finish());
  if (end < text.size()) line += "…";
  return "\n  " + line + "\n  " + std::string(column, ' ') + "^";
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  // pattern := 'bidirectional' '(' per_head ')' | per_head
  Pattern parse() {
    if (text_.size() > kMaxText) {
      throw Error(
          concat("[pattern] text must be at most ", kMaxText, " characters, got ", text_.size()));
    }
    const size_t start = skip_spaces();
    const bool causal = name() != "bidirectional";
    if (!causal) {
      take_name();
      expect('(', "after bidirectional");
    }
    std::vector<Pattern::HeadEntry> entries = per_head();
    if (!causal) expect(')', "to close bidirectional(…)");
    if (skip_spaces() < text_.size()) {
      fail(at_, concat("expected '|', '&' or the end, got ", here()));
    }
    try {
      return Pattern(std::move(entries), causal);
    } catch (const Error& error) {  // nesting: every other rule has been checked on the way
      throw Error(error.what() + show(text_, start));
    }
  }

 private:
  [[noreturn]] void fail(size_t at, const std::string& rule, std::string_view room = "pattern") {
    throw Error(concat("[", room, "] ", rule, show(text_, at)));
  }

  size_t skip_spaces() {
    while (at_ < text_.size() && is_space(text_[at_])) ++at_;
    return at_;
  }

  char peek() { return skip_spaces() < text_.size() ? text_[at_] : '\0'; }

  // The character at at_ as an error names it.
  std::string here() {
    if (at_ >= text_.size()) return "the end";
    size_t end = at_ + 1;
    while (end < text_.size() && end < at_ + 4 && continues_utf8(text_[end])) ++end;
    return concat("'", printable(text_.substr(at_, end - at_)), "'");
  }

  bool accept(char c) {
    if (skip_spaces() >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  void expect(char c, const std::string& where) {
    if (!accept(c)) fail(at_, concat("expected '", c, "' ", where, ", got ", here()));
  }

  // The name that starts here, not taken; empty if none does.
  std::string_view name() {
    size_t end = skip_spaces();
    while (end < text_.size() && (is_letter(text_[end]) || is_digit(text_[end]))) ++end;
    return text_.substr(at_, end - at_);
  }

  void take_name() { at_ += name().size(); }

  int64_t number(const std::string& what) {
    const size_t start = skip_spaces();
    size_t end = start;
    if (end < text_.size() && text_[end] == '-') ++end;
    const size_t digits = end;
    while (end < text_.size() && is_digit(text_[end])) ++end;
    if (end == digits) {
      fail(start, concat("expected ", what, ", a whole number, got ", here()));
    }
    int64_t value = 0;
    const auto [stop, error] = std::from_chars(text_.data() + start, text_.data() + end, value);
    if (error != std::errc{}) fail(start, concat(what, " must fit into 64 bits"));
    if (end < text_.size() && (is_letter(text_[end]) || (text_[end] == '.' && !range_at(end)))) {
      at_ = end;
      fail(end, concat("expected ", what, ", a whole number, got ", here(), " in it"));
    }
    at_ = end;
    return value;
  }

  bool range_at(size_t at) const { return text_.substr(at, 2) == ".."; }

  // per_head := 'heads' '(' number '*' union { ',' number '*' union } ')' | union
  std::vector<Pattern::HeadEntry> per_head() {
    if (name() != "heads") return {{0, union_expr()}};
    take_name();
    expect('(', "after heads");
    std::vector<Pattern::HeadEntry> entries;
    do {
      const size_t start = skip_spaces();
      const int64_t count = number("the count of heads");
      if (count < 1 || count > kMaxArgument) {
        fail(start, concat("count must be from 1 to ", kMaxArgument, ", got ", count), "heads");
      }
      expect('*', "between a count of heads and its pattern");
      entries.push_back({count, union_expr()});
    } while (accept(','));
    expect(')', "or ',' in heads(…)");
    return entries;
  }

  // union := intersection { '|' intersection }
  Expr union_expr() {
    std::vector<Expr> operands;
    do {
      operands.push_back(intersection());
    } while (accept('|'));
    return combine(Expr::Op::kUnion, std::move(operands));
  }

  // intersection := primary { '&' primary }
  Expr intersection() {
    std::vector<Expr> operands;
    do {
      operands.push_back(primary());
    } while (accept('&'));
    return combine(Expr::Op::kIntersection, std::move(operands));
  }

  // primary := '(' union ')' | atom
  Expr primary() {
    const size_t start = skip_spaces();
    if (!accept('(')) return atom_expr(atom());
    if (++open_ > kMaxDepth) {
      fail(start, concat("parentheses must nest at most ", kMaxDepth, " deep"));
    }
    Expr expr = union_expr();
    expect(')', concat("to close '(' at character ", start + 1));
    --open_;
    return expr;
  }

  Atom atom() {
    const size_t start = skip_spaces();
    const std::string_view word = name();
    if (word.empty() || is_digit(word[0])) fail(start, "expected a pattern, got " + here());
    const AtomSpec* spec = find_atom_spec(word);
    if (spec == nullptr) unknown(start, word);
    take_name();
    if (spec->kind == AtomKind::kMask) return mask_atom(start);
    if (spec->kind == AtomKind::kGlobal && peek() == '{') return token_atom();
    Atom atom{spec->kind, spec->defaults, {}, {}, {}};
    if (spec->count > 0) arguments(*spec, atom);
    return atom;
  }

  [[noreturn]] void unknown(size_t start, std::string_view word) {
    if (word == "bidirectional" || word == "heads") {
      fail(start, concat(word, "(…) must be outermost", word == "heads" ? "" : " and once"));
    }
    const std::string_view near = near_miss(word);
    const std::string shown(word.substr(0, 32));
    if (!near.empty()) {
      fail(start, concat("unknown pattern '", shown, "', did you mean '", near, "'?"));
    }
    fail(start, concat("unknown pattern '", shown, "', known are ", known_names()));
  }

  void arguments(const AtomSpec& spec, Atom& atom) {
    expect('(', concat("after ", spec.name, ": ", usage(spec)));
    std::vector<size_t> places;
    do {
      const size_t index = places.size();
      const size_t place = skip_spaces();
      if (index == static_cast<size_t>(spec.count)) {
        fail(place, concat("too many arguments, expected ", usage(spec)), spec.name);
      }
      atom.args[index] = number(std::string(spec.arguments[index].name));
      places.push_back(place);
    } while (accept(','));
    const size_t end = skip_spaces();
    expect(')', concat("or ',' in ", usage(spec)));
    if (places.size() < static_cast<size_t>(spec.required)) {
      fail(end, concat(spec.arguments[places.size()].name, " is missing, expected ", usage(spec)),
           spec.name);
    }
    check(atom, places);
  }

  void check(const Atom& atom, const std::vector<size_t>& places) {
    if (const auto error = check_arguments(atom)) {
      fail(places[static_cast<size_t>(error->index)], error->text, atom_spec(atom.kind).name);
    }
  }

  // 'global' '{' number [ '..' number ] { ',' … } '}'
  Atom token_atom() {
    Atom atom{AtomKind::kGlobal, {}, {}, {}, {}};
    std::vector<size_t> places;
    expect('{', "after global");
    do {
      places.push_back(skip_spaces());
      TokenRange range;
      range.first = range.last = number("a token");
      skip_spaces();
      if (range_at(at_)) {
        at_ += 2;
        range.last = number("the last token of a range");
      }
      atom.tokens.push_back(range);
    } while (accept(','));
    expect('}', "or ',' in global{…}");
    check(atom, places);
    return atom;
  }

  // 'mask' '(' file ')': the file in double quotes, or bare up to a space or ')'.
  Atom mask_atom(size_t start) {
    expect('(', "after mask: mask(file)");
    Atom atom{AtomKind::kMask, {}, {}, {}, {}};
    const size_t place = skip_spaces();
    if (accept('"')) {
      while (at_ < text_.size() && text_[at_] != '"') {
        if (text_[at_] == '\\' && at_ + 1 < text_.size()) ++at_;
        atom.file += text_[at_++];
      }
      if (!accept('"')) fail(place, "expected '\"' after the file's name, got the end");
    } else {
      while (at_ < text_.size() && text_[at_] != ')' && !is_space(text_[at_])) {
        atom.file += text_[at_++];
      }
    }
    check(atom, {place});
    expect(')', "after mask(file");
    try {
      atom.mask = read_mask(atom.file);
    } catch (const Error& error) {
      throw Error(error.what() + show(text_, start));
    }
    return atom;
  }

  std::string_view text_;
  size_t at_ = 0;
  int open_ = 0;
};

}  // namespace
}  // namespace pattern

Pattern Pattern::parse(std::string_view text) { return pattern::Parser(text).parse(); }

}  // namespace lace
