"""lace.flex_attention: FlexAttention's signature, with a BlockMask."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.attention.flex_attention import flex_attention as torch_flex_attention

from ._block_masks import is_of_whole_blocks, live_blocks, read_block_mask
from ._library import Error, warn_once
from ._masks import Reading, run_readings
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
    (causal, a window), also with key padding or in each of several documents, or made of square
    blocks of 16 positions or more (two-sided, or cut at the diagonal), with as many queries as
    keys; batch elements may have masks of their own, up to 16 that differ in more than padding.
    Anything else is computed by torch's flex_attention, with one warning. A BlockMask is read once, when it
    is first used, on the host: reuse the object, and keep the tensors that its mask_mod reads as
    they are.
    One without a mask_mod (BlockMask.from_kv_blocks), of square blocks of any size and one batch
    element, is not read: the device takes its index tensors as they are at each call.

    Raises lace.Error for score_mod: use scale for a factor, a pattern for a mask, and
    torch's flex_attention for anything else.
    """
    if score_mod is not None:
        raise Error(
            "[flex_attention] score_mod is not computed: a factor goes into scale, a mask into "
            "block_mask or a pattern, and lace.attention has softcap; for anything else call "
            "torch's flex_attention"
        )
    if not enable_gqa and key.shape[-3] != query.shape[-3]:
        raise Error(
            f"[flex_attention] key has {key.shape[-3]} heads, query {query.shape[-3]}: "
            "give enable_gqa=True"
        )
    if block_mask is not None and is_of_whole_blocks(
        block_mask, query.shape[-2], key.shape[-2]
    ):
        out, lse = run_whole_blocks(query, key, value, block_mask, scale=scale)
        return (out, lse) if return_lse else out
    readings = [Reading(Pattern("bidirectional(dense)"))]
    reason = "there are more queries than keys" if query.shape[-2] > key.shape[-2] else ""
    if block_mask is not None and not reason:
        readings, reason = read_once(block_mask, query, key)
    if reason:
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
    out, lse = run_readings(query, key, value, readings, scale=scale)
    return (out, lse) if return_lse else out


_Read = tuple[tuple[int, int], list[Reading], str]
_read: weakref.WeakKeyDictionary[BlockMask, _Read] = weakref.WeakKeyDictionary()


@torch.compiler.disable
def read_once(block_mask: BlockMask, query: Tensor, key: Tensor) -> tuple[list[Reading], str]:
    """As read_block_mask; a BlockMask is read when it is first used."""
    lengths = (query.shape[-2], key.shape[-2])
    known = _read.get(block_mask)
    if known is None or known[0] != lengths:
        with torch.inference_mode(False):  # what is kept may serve training later on
            readings, reason = read_block_mask(block_mask, *lengths)
        known = (lengths, readings, reason)
        _read[block_mask] = known
    _check_heads(block_mask, query, "flex_attention")
    return known[1], known[2]


def run_whole_blocks(
    query: Tensor, key: Tensor, value: Tensor, block_mask: BlockMask, **options: Any
) -> tuple[Tensor, Tensor]:
    """out and lse with a BlockMask that is_of_whole_blocks(). options: those of lace.attention."""
    from ._attention import attention

    _check_heads(block_mask, query, "attention")
    live, size = live_blocks(block_mask)
    more: dict[str, Any] = {"block_mask": live, "block_size": size, "return_lse": True}
    result: tuple[Tensor, Tensor] = attention(
        query, key, value, "bidirectional(dense)", **more, **options
    )
    return result


def _check_heads(block_mask: BlockMask, query: Tensor, operation: str) -> None:
    batch, heads = block_mask.kv_num_blocks.shape[:2]
    if batch not in (1, query.shape[0]) or heads not in (1, query.shape[1]):
        raise Error(
            f"[{operation}] block_mask is of {batch} batch elements and {heads} heads, query "
            f"has {query.shape[0]} and {query.shape[1]}"
        )
