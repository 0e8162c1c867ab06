#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define LACE_HOST_DEVICE __host__ __device__
#else
#define LACE_HOST_DEVICE
#endif

namespace lace::cuda {

// In which order the tiles of several heads are worked on.

// Heads [0, heads) in sections of `size`, of each head tiles [0, tiles), of which later ones may
// wait for the first `first`.
struct SectionOrder {
  int32_t heads = 0, size = 0, first = 0, tiles = 0;
};
struct HeadTile {
  int32_t head = 0, tile = 0;
};

// Item `item` of heads · tiles: the first tiles of section 0; those of section 1, the other tiles
// of section 0; and so on, so that what is waited for has long been begun. Within either a tile of
// all heads of the section, then the next tile: neighbours work on tiles of the same length.
LACE_HOST_DEVICE inline HeadTile find_head_tile(const SectionOrder& order, int32_t item) {
  const int32_t size = order.size, first = order.first, last = order.tiles - first;
  const int32_t sections = (order.heads + size - 1) / size;
  const int32_t last_heads = order.heads - (sections - 1) * size;
  int32_t section = 0, tile = 0, section_heads = sections == 1 ? last_heads : size;
  int32_t rest = item;
  if (rest >= section_heads * first) {
    rest -= section_heads * first;
    tile = first;
    if (sections > 1) {
      const int32_t pairs = rest / (size * order.tiles);
      const int32_t pair = pairs < sections - 2 ? pairs : sections - 2;
      rest -= pair * size * order.tiles;
      const int32_t next_heads = pair + 2 == sections ? last_heads : size;
      section = pair;
      if (rest < next_heads * first) {
        section = pair + 1, tile = 0, section_heads = next_heads;
      } else if ((rest -= next_heads * first) >= size * last) {
        rest -= size * last;
        section = sections - 1, section_heads = last_heads;
      }
    }
  }
  return {section * size + rest % section_heads, tile + rest / section_heads};
}

// How many heads of `heads` shall be worked on together: as many as leave `bytes_of_head` each in
// `bytes` of L2, and enough that a multiprocessor's share is `share` times the longest item, in
// tiles of others, of which all items of a head have `of_head`: else that stands alone at the end.
// All sections are of one size, so that none stands alone at the end either.
int32_t section_size(int64_t heads, int64_t bytes_of_head, int64_t bytes, int64_t share,
                     int64_t longest, int64_t of_head);

// Of the current device.
int multiprocessors();

}  // namespace lace::cuda
