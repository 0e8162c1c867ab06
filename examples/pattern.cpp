// A pattern of one's own: composed from atoms, drawn, asked who sees whom, run.

#include <iostream>

#include <ATen/ATen.h>

#include "lace/attention.h"

int main() {
  // Two heads look at whole words of 8, and at the last byte of every earlier word; two at a
  // dilated window; all of them at the first two positions.
  const auto words = lace::block(8) | lace::summary(8, 1) | lace::sinks(2);
  const auto gaps = lace::dilated(6, 3) | lace::sinks(2);
  const lace::Pattern pattern = lace::heads({{2, words}, {2, gaps}});

  // The text form means the same pattern, and is what `lace explain` and recipes take.
  std::cout << pattern.to_string() << "\n\n";
  if (!(lace::Pattern::parse(pattern.to_string()) == pattern)) return 1;

  const int64_t heads = 4, seq_len = 24;
  const lace::BoundPattern bound = pattern.bind(heads, seq_len, seq_len);
  for (int64_t i = 0; i < seq_len; ++i) {
    for (const int64_t head : {0, 2}) {
      for (int64_t j = 0; j < seq_len; ++j) std::cout << (bound.attends(head, i, j) ? "■" : "·");
      std::cout << (head == 0 ? "   " : "\n");
    }
  }
  const int64_t layers = lace::reach({pattern}, heads, seq_len).layers;
  std::cout << "\nAfter " << layers << " layers every query has heard from all before it.\n";

  const at::Tensor x = at::randn({1, heads, seq_len, 16});
  const at::Tensor out = lace::attention(x, x, x, pattern);
  std::cout << "out " << out.sizes() << "\n";

  // A mistake is named with its place.
  try {
    lace::Pattern::parse("block(8) | sumary(8, 1)");
  } catch (const lace::Error& error) {
    std::cout << "\n" << error.what() << "\n";
  }
  return 0;
}
