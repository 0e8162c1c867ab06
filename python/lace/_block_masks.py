"""What a BlockMask of FlexAttention says, as a pattern or as a tensor of blocks.

Read from its index tensors, and from mask_mod on the blocks that it cuts, and those alone: nothing
of size length² is made.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.attention.flex_attention import BlockMask, noop_mask

from ._library import Error
from ._masks import BLOCK_SIZES, Reading, band_text, bounds_of, joined, of_keys
from ._pattern import Pattern

Tensor = torch.Tensor

_PAIRS_AT_ONCE = 1 << 24


def live_blocks(block_mask: BlockMask) -> tuple[Tensor, int]:
    """The blocks that a BlockMask names, whole or cut, as ``lace.attention`` takes them: bool
    ``[heads or 1, blocks, blocks]`` on its device, and the positions of a block.

    Made of its index tensors by the device, which nobody waits for. mask_mod is not asked: what it
    cuts of blocks the pattern has to say, such as ``"dense"`` what is behind the diagonal::

        live, size = lace.live_blocks(block_mask)
        out = lace.attention(q, k, v, "dense", block_mask=live, block_size=size)

    Raises lace.Error unless it is of one batch element, and its blocks are square.
    """
    reason = _unlike_a_tensor(block_mask)
    if reason:
        raise Error(f"[live_blocks] {reason}")
    live = _dense(block_mask.kv_num_blocks, block_mask.kv_indices)
    if block_mask.full_kv_num_blocks is not None and block_mask.full_kv_indices is not None:
        live = live | _dense(block_mask.full_kv_num_blocks, block_mask.full_kv_indices)
    return live[0], block_mask.BLOCK_SIZE[0]


def is_of_whole_blocks(block_mask: BlockMask, q_len: int, k_len: int) -> bool:
    """Whether for these lengths live_blocks() is all that it says."""
    lengths = q_len == k_len and tuple(block_mask.seq_lengths) == (q_len, k_len)
    return lengths and block_mask.mask_mod is noop_mask and not _unlike_a_tensor(block_mask)


def _unlike_a_tensor(block_mask: BlockMask) -> str:
    """Why no tensor of blocks says what its index tensors say; empty if one does."""
    q_block, k_block = block_mask.BLOCK_SIZE
    batch, _, rows, columns = block_mask.kv_indices.shape
    if batch != 1:
        return f"the BlockMask is of {batch} batch elements, not of 1"
    if q_block != k_block or rows != columns:
        return f"the BlockMask has {rows} × {columns} blocks of {q_block} × {k_block}: not squares"
    return ""


def read_block_mask(block_mask: BlockMask, q_len: int, k_len: int) -> tuple[list[Reading], str]:
    """Its patterns for these lengths, or the reason why there are none. On the host."""
    q_block, k_block = block_mask.BLOCK_SIZE
    if q_len != k_len:
        return [], "queries and keys of a BlockMask differ in number"
    if tuple(block_mask.seq_lengths) != (q_len, k_len):
        return [], "the BlockMask was made for other lengths"
    if q_block != k_block or q_block % BLOCK_SIZES[-1] != 0:
        return [], f"the blocks are {q_block} × {k_block}: not squares of a multiple of 16"
    partial = _dense(block_mask.kv_num_blocks, block_mask.kv_indices).cpu()
    full = torch.zeros_like(partial)
    if block_mask.full_kv_num_blocks is not None and block_mask.full_kv_indices is not None:
        full = _dense(block_mask.full_kv_num_blocks, block_mask.full_kv_indices).cpu()
    readings = []
    for element in range(len(partial)):
        where = partial[element].nonzero()
        bits = _evaluate(block_mask, where, element, q_block, q_len)
        reading = _read(_Blocks(full[element], where, bits, q_block, q_len))
        if reading is None:
            return [], "no pattern of lace says what the BlockMask says"
        readings.append(reading)
    return joined(readings, q_len, k_len, block_mask.kv_indices.device)


def _read(blocks: _Blocks) -> Reading | None:
    keys = blocks.live_keys()
    if keys is None:
        return of_keys("bidirectional(dense)", 0, 0)
    # Keys that no query sees may be outside the band, or padding.
    for begin in dict.fromkeys([0, keys[0]]):
        for end in dict.fromkeys([blocks.length - 1, keys[1]]):
            text = _band(blocks, begin, end)
            if text is not None:
                return of_keys(text, begin, end + 1)
    for size in BLOCK_SIZES:
        if blocks.size % size == 0:
            pattern = _blocks(blocks, size)
            if pattern is not None:
                return Reading(pattern)
    return _documents(blocks)


def _dense(count: Tensor, indices: Tensor) -> Tensor:
    """bool [batch, heads, blocks, blocks] of rows' first `count` `indices`, on their device."""
    indices, device = indices.long(), indices.device
    columns = indices.shape[-1]
    live = torch.zeros((*count.shape, columns + 1), dtype=torch.bool, device=device)
    valid = torch.arange(columns, device=device) < count[..., None]
    live.scatter_(-1, torch.where(valid, indices, columns), True)
    return live[..., :columns]


def _evaluate(block_mask: BlockMask, where: Tensor, batch: int, size: int, length: int) -> Tensor:
    """mask_mod on each pair of these blocks: bool [blocks, size, size]; past the end False."""
    mask_mod, device = block_mask.mask_mod, block_mask.kv_indices.device
    over_keys = torch.vmap(mask_mod, in_dims=(None, None, None, 0))
    over_pairs = torch.vmap(over_keys, in_dims=(None, None, 0, None))
    over_blocks = torch.vmap(over_pairs, in_dims=(None, 0, 0, 0))
    parts = [torch.zeros((0, size, size), dtype=torch.bool)]
    for some in where.split(max(1, _PAIRS_AT_ONCE // size**2)):
        query = some[:, 1, None] * size + torch.arange(size)
        keys = some[:, 2, None] * size + torch.arange(size)
        inside = (query < length)[:, :, None] & (keys < length)[:, None, :]
        pairs = (query.clamp(max=length - 1), keys.clamp(max=length - 1))
        indices = [tensor.to(device) for tensor in (torch.tensor(batch), some[:, 0], *pairs)]
        parts.append(over_blocks(*indices).to(device="cpu", dtype=torch.bool) & inside)
    return torch.cat(parts)


@dataclass
class _Blocks:
    """full: bool [heads, blocks, blocks]. where [cut, 3]: head, block of queries, block of keys of
    those that are cut; bits: bool [cut, size, size], their pairs. Positions end at `length`."""

    full: Tensor
    where: Tensor
    bits: Tensor
    size: int
    length: int

    def __post_init__(self) -> None:
        offset = torch.arange(self.size)
        self.query = (self.where[:, 1, None] * self.size + offset)[:, :, None]
        self.keys = (self.where[:, 2, None] * self.size + offset)[:, None, :]
        self.inside = (self.query < self.length) & (self.keys < self.length)
        self.difference = self.query.int() - self.keys.int()  # of every pair: as few bytes as may be
        self.cut = torch.zeros_like(self.full)
        self.cut[self.where[:, 0], self.where[:, 1], self.where[:, 2]] = True
        # Of each block its first position and its last, and of pairs of them what query − key is.
        self.first = torch.arange(self.full.shape[-1]) * self.size
        self.last = (self.first + self.size).clamp(max=self.length) - 1
        self.least = (self.first[:, None] - self.last).expand_as(self.full)
        self.most = (self.last[:, None] - self.first).expand_as(self.full)

    def live_keys(self) -> tuple[int, int] | None:
        """The first key that is seen, and the last."""
        whole = self.full.any(dim=0).any(dim=0)
        cut = self.keys[:, 0][self.bits.any(dim=1)]
        first, last = torch.cat([self.first[whole], cut]), torch.cat([self.last[whole], cut])
        return (int(first.min()), int(last.max())) if len(first) > 0 else None

    def band(self) -> tuple[int, int]:
        """Of all live pairs the least and the highest query − key."""
        least = torch.where(self.bits, self.difference, self.length).flatten(1).amin(dim=1)
        most = torch.where(self.bits, self.difference, -self.length).flatten(1).amax(dim=1)
        low = torch.cat([self.least[self.full], least]).min()
        high = torch.cat([self.most[self.full], most]).max()
        return int(low), int(high)


def _band(blocks: _Blocks, begin: int, end: int) -> str | None:
    """The text of a band along the diagonal of keys begin … end, if the mask is one, for all heads
    alike."""
    low, high = blocks.band()
    filled = (blocks.least >= low) & (blocks.most <= high)
    filled &= (blocks.first >= begin) & (blocks.last <= end)
    first_key, last_key = blocks.first.clamp(min=begin), blocks.last.clamp(max=end)
    most, least = blocks.last[:, None] - first_key, blocks.first[:, None] - last_key
    empty = (most < low) | (least > high) | (last_key < first_key)
    if bool((blocks.full & ~filled).any()) or bool((~blocks.full & ~blocks.cut & ~empty).any()):
        return None
    band = (blocks.difference >= low) & (blocks.difference <= high)
    band &= (blocks.keys >= begin) & (blocks.keys <= end)
    if not torch.equal(blocks.bits, band & blocks.inside):
        return None
    return band_text(low, high, -end, blocks.length - 1 - begin)


def _blocks(blocks: _Blocks, fine: int) -> Pattern | None:
    """The mask of blocks of `fine` positions that it is, two-sided or cut at the diagonal."""
    full, where = blocks.full, blocks.where
    heads, count = full.shape[:2]
    ratio = blocks.size // fine
    some = blocks.bits.view(-1, ratio, fine, ratio, fine).any(dim=4).any(dim=2)
    live = full.repeat_interleave(ratio, 1).repeat_interleave(ratio, 2)
    at = live.view(heads, count, ratio, count, ratio)
    at[where[:, 0], where[:, 1], :, where[:, 2], :] = some
    spread = some.repeat_interleave(fine, 1).repeat_interleave(fine, 2) & blocks.inside
    if torch.equal(spread, blocks.bits):
        return Pattern.from_blocks(live, fine, causal=False)
    above = torch.ones(count, count, dtype=torch.bool).triu()  # whole blocks that causality cuts
    if not bool((full & above).any()) and torch.equal(
        spread & (blocks.difference >= 0), blocks.bits
    ):
        return Pattern.from_blocks(live, fine)
    return None


def _documents(blocks: _Blocks) -> Reading | None:
    """Documents one behind another, each with the same band, for all heads alike."""
    # The last position that pairs with this one, or one before it, have.
    length, first, last = blocks.length, blocks.first, blocks.last
    furthest = torch.arange(length)
    _, rows, columns = blocks.full.nonzero().unbind(1)
    for begin, end in ((first[rows], last[columns]), (first[columns], last[rows])):
        furthest.scatter_reduce_(0, begin, end, "amax")
    pairs = blocks.bits.nonzero()
    query = blocks.query[pairs[:, 0], pairs[:, 1], 0]
    keys = blocks.keys[pairs[:, 0], 0, pairs[:, 2]]
    furthest.scatter_reduce_(0, torch.minimum(query, keys), torch.maximum(query, keys), "amax")
    bounds = bounds_of(furthest)
    if len(bounds) == 2:
        return None
    number = torch.repeat_interleave(torch.arange(len(bounds) - 1), bounds.diff())
    longest = int(bounds.diff().max())
    low, high = blocks.band()
    text = band_text(low, high, 1 - longest, longest - 1)
    if text is None:
        return None
    # Whole blocks lie in one document and in the band; blocks that are neither whole nor cut hold
    # no pair of one document that is in the band. Where a block is too coarse to tell: None.
    from_first, from_last = number[first], number[last]
    one = (from_first[:, None] == from_last) & (from_last[:, None] == from_first)
    apart = (from_last[:, None] < from_first) | (from_first[:, None] > from_last)
    filled = one & (blocks.least >= low) & (blocks.most <= high)
    empty = apart | (blocks.most < low) | (blocks.least > high)
    if bool((blocks.full & ~filled).any()) or bool((~blocks.full & ~blocks.cut & ~empty).any()):
        return None
    query, keys = (p.clamp(max=length - 1) for p in (blocks.query, blocks.keys))
    band = (blocks.difference >= low) & (blocks.difference <= high)
    same = number[query] == number[keys]
    if not torch.equal(blocks.bits, band & same & blocks.inside):
        return None
    return Reading(Pattern(text), bounds)
