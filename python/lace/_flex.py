"""lace.flex_attention: FlexAttention's signature, with a BlockMask."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.attention.flex_attention import flex_attention as torch_flex_attention

from ._attention import attention
from ._library import Error, warn_once
from ._masks import BLOCK_SIZES, band_text
from ._pattern import Pattern

Tensor = torch.Tensor


def flex_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: Callable[..., Tensor] | None = None,
    block_mask: BlockMask | None = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """``torch.nn.attention.flex_attention.flex_attention`` on lace where a pattern says the mask.

    ::

        query  [batch, heads,    q_len, head_dim]
        key    [batch, kv_heads, k_len, head_dim]   kv_heads = heads unless enable_gqa
        value  [batch, kv_heads, k_len, v_head_dim]
        out    [batch, heads,    q_len, v_head_dim]; with return_lse also lse [batch, heads, q_len]

    block_mask: its index tensors say which blocks are whole; of the others mask_mod is evaluated,
    and of those only. What they say together is run by lace if it is a band along the diagonal
    (causal, a window) or made of square blocks of 16 positions or more (two-sided, or cut at the
    diagonal), for all batch elements alike and with as many queries as keys. Anything else is
    computed by torch's flex_attention, with one warning. A BlockMask is read once, when it is first
    used, on the host: reuse the object, and keep the tensors that its mask_mod reads as they are.

    Raises lace.Error for score_mod: use scale for a factor, a pattern for a mask, and
    torch's flex_attention for anything else.
    """
    if score_mod is not None:
        raise Error(
            "[flex_attention] score_mod is not computed: a factor goes into scale, a mask into "
            "block_mask or a pattern; for anything else call torch's flex_attention"
        )
    if not enable_gqa and key.shape[-3] != query.shape[-3]:
        raise Error(
            f"[flex_attention] key has {key.shape[-3]} heads, query {query.shape[-3]}: "
            "give enable_gqa=True"
        )
    pattern: Pattern | str | None = "bidirectional(dense)"
    reason = "there are more queries than keys" if query.shape[-2] > key.shape[-2] else ""
    if block_mask is not None and not reason:
        pattern, reason = _pattern_of(block_mask, query, key)
    if reason or pattern is None:
        warn_once(f"lace.flex_attention: {reason}; torch's flex_attention computes this")
        result: Any = torch_flex_attention(
            query,
            key,
            value,
            block_mask=block_mask,
            scale=scale,
            enable_gqa=enable_gqa,
            return_lse=return_lse,
        )
        return result
    if return_lse:
        return attention(query, key, value, pattern, scale=scale, return_lse=True)
    return attention(query, key, value, pattern, scale=scale)


_Read = tuple[tuple[int, int], Pattern | None, str]
_read: weakref.WeakKeyDictionary[BlockMask, _Read] = weakref.WeakKeyDictionary()


@torch.compiler.disable
def _pattern_of(block_mask: BlockMask, query: Tensor, key: Tensor) -> tuple[Pattern | None, str]:
    """What a BlockMask is for these lengths, or None and why no pattern says it."""
    lengths = (query.shape[-2], key.shape[-2])
    known = _read.get(block_mask)
    if known is None or known[0] != lengths:
        known = (lengths, *_look(block_mask, *lengths))
        _read[block_mask] = known
    if known[1] is not None and known[1].heads not in (1, query.shape[1]):
        raise Error(
            f"[flex_attention] block_mask is of {known[1].heads} heads, query has {query.shape[1]}"
        )
    return known[1], known[2]


def _look(block_mask: BlockMask, q_len: int, k_len: int) -> tuple[Pattern | None, str]:
    q_block, k_block = block_mask.BLOCK_SIZE
    if q_len != k_len:
        return None, "queries and keys of a BlockMask differ in number"
    if tuple(block_mask.seq_lengths) != (q_len, k_len):
        return None, "the BlockMask was made for other lengths"
    if q_block != k_block or q_block % BLOCK_SIZES[-1] != 0:
        return None, f"the blocks are {q_block} × {k_block}: not squares of a multiple of 16"
    partial = _dense(block_mask.kv_num_blocks, block_mask.kv_indices)
    full = torch.zeros_like(partial)
    if block_mask.full_kv_num_blocks is not None and block_mask.full_kv_indices is not None:
        full = _dense(block_mask.full_kv_num_blocks, block_mask.full_kv_indices)
    if not bool(((partial == partial[:1]) & (full == full[:1])).all()):
        return None, "the BlockMask differs between batch elements"
    batches, heads, blocks = partial.shape[:3]
    where = partial[0].nonzero()  # [partial blocks, 3]: head, block of queries, block of keys
    bits = _evaluate(block_mask, where, 0, q_block, q_len)
    for batch in range(1, batches):
        if not torch.equal(bits, _evaluate(block_mask, where, batch, q_block, q_len)):
            return None, "the BlockMask differs between batch elements"
    text = _band(full[0], where, bits, q_block, q_len)
    if text is not None:
        return Pattern(text), ""
    for size in BLOCK_SIZES:
        if q_block % size == 0:
            pattern = _blocks(full[0], where, bits, q_block, size, q_len)
            if pattern is not None:
                return pattern, ""
    return None, "no pattern of lace says what the BlockMask says"


def _dense(count: Tensor, indices: Tensor) -> Tensor:
    """bool [batch, heads, blocks, blocks] of rows' first `count` `indices`."""
    count, indices = count.cpu().long(), indices.cpu().long()
    columns = indices.shape[-1]
    live = torch.zeros((*count.shape, columns + 1), dtype=torch.bool)
    valid = torch.arange(columns) < count[..., None]
    live.scatter_(-1, torch.where(valid, indices, columns), True)
    return live[..., :columns]


_PAIRS_AT_ONCE = 1 << 24


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


def _band(full: Tensor, where: Tensor, bits: Tensor, size: int, length: int) -> str | None:
    """The text of a band along the diagonal, if the mask is one, for all heads alike."""
    if len(where) == 0 and not bool(full.any()):
        return None
    offset = torch.arange(size)
    query = where[:, 1, None] * size + offset
    keys = where[:, 2, None] * size + offset
    difference = query[:, :, None] - keys[:, None, :]  # [partial blocks, size, size]
    # Of each block: its first position, its last, and what query − key is at least and at most.
    first = torch.arange(full.shape[-1]) * size
    last = (first + size).clamp(max=length) - 1
    least, most = first[:, None] - last, last[:, None] - first
    low = int(torch.cat([least.expand_as(full)[full], difference[bits]]).min())
    high = int(torch.cat([most.expand_as(full)[full], difference[bits]]).max())
    partial = torch.zeros_like(full)
    partial[where[:, 0], where[:, 1], where[:, 2]] = True
    filled, empty = (least >= low) & (most <= high), (most < low) | (least > high)
    if bool((full & ~filled).any()) or bool((~full & ~partial & ~empty).any()):
        return None
    inside = (query < length)[:, :, None] & (keys < length)[:, None, :]
    if not torch.equal(bits, (difference >= low) & (difference <= high) & inside):
        return None
    return band_text(low, high, 1 - length, length - 1)


def _blocks(
    full: Tensor, where: Tensor, bits: Tensor, size: int, fine: int, length: int
) -> Pattern | None:
    """The mask of blocks of `fine` positions that it is, two-sided or cut at the diagonal."""
    heads, blocks = full.shape[:2]
    ratio = size // fine
    tiles = bits.view(-1, ratio, fine, ratio, fine)
    some = tiles.any(dim=4).any(dim=2)
    live = full.repeat_interleave(ratio, 1).repeat_interleave(ratio, 2)
    at = live.view(heads, blocks, ratio, blocks, ratio)
    at[where[:, 0], where[:, 1], :, where[:, 2], :] = some
    offset = torch.arange(size)
    query = where[:, 1, None] * size + offset
    keys = where[:, 2, None] * size + offset
    inside = (query < length)[:, :, None] & (keys < length)[:, None, :]
    spread = some.repeat_interleave(fine, 1).repeat_interleave(fine, 2) & inside
    if torch.equal(spread, bits):
        return Pattern.from_blocks(live, fine, causal=False)
    above = torch.ones(blocks, blocks, dtype=torch.bool).triu()  # whole blocks that causality cuts
    causal = query[:, :, None] >= keys[:, None, :]
    if not bool((full & above).any()) and torch.equal(spread & causal, bits):
        return Pattern.from_blocks(live, fine)
    return None
