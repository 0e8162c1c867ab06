"""lace.attention and lace.varlen_attention: the operation, with its arguments by name."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch.nn.attention.flex_attention import BlockMask

from . import _functorch
from ._library import Error
from ._pattern import Pattern, pattern_text

Tensor = torch.Tensor


def padded_sequences(
    batch: int,
    q_rows: int,
    k_rows: int,
    *,
    k_lens: Tensor | int | None = None,
    q_start: Tensor | int | None = None,
    k_start: Tensor | int | None = None,
    k_first: Tensor | int | None = None,
    k_end: Tensor | int | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Where the sequences of a padded batch stand, for ``attention(…, sequences=…)``: made once, it
    serves all layers of a model. Nothing waits for the device.

    batch, q_rows, k_rows: the batch, and seq_len of q and of k. int32 or int64 ``[batch]``, or a
    number for all, at least one:

    - k_lens: positions of the sequence; default up to the last row of k
    - q_start: position of q's first row; default such that q is the last rows of k
    - k_start: position of k's first row; default 0
    - k_first, k_end: the position of the first key that is no padding, and that behind the last

    Positions below 0, or from k_lens on, are padding of both q and k: such queries give 0. Keys
    before k_first or from k_end on are not seen either, but queries there have results. So padding
    on the right is k_lens; padding on the left ``k_start = -padding``; a static cache k_lens and
    ``q_start = k_lens - q_rows``; a cache that has dropped its first keys k_start, how many; a mask
    of keys k_first and k_end. device: of numbers.
    """
    places = {"k_lens": k_lens, "q_start": q_start, "k_start": k_start}
    places |= {"k_first": k_first, "k_end": k_end}
    tensors = [value for value in places.values() if isinstance(value, Tensor)]
    where = tensors[0].device if tensors else device
    given = {
        name: value if isinstance(value, Tensor) else torch.tensor([value], device=where)
        for name, value in places.items()
        if value is not None
    }
    return torch.ops.lace.padded_sequences(batch, q_rows, k_rows, **given)


def packed_sequences(
    cu_seqlens_q: Tensor, cu_seqlens_k: Tensor | None = None, *, q_start: Tensor | None = None
) -> Tensor:
    """Where packed documents stand, for ``attention(…, sequences=…)`` of tensors ``[rows, heads,
    head_dim]``. See varlen_attention; q_start ``[documents]``: the position of each document's
    first query, default such that its queries are the last of its keys.
    """
    cu_seqlens_k = cu_seqlens_q if cu_seqlens_k is None else cu_seqlens_k
    return torch.ops.lace.packed_sequences(cu_seqlens_q, cu_seqlens_k, q_start=q_start)


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: str | Pattern,
    sinks: Tensor | None,
    sequences: Tensor | None,
    block_mask: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """The operation. options: those of _functorch.Call."""
    text = pattern_text(pattern)
    if _functorch.is_active():
        call = _functorch.Call(text, **{"block_size": None, **options})
        out, lse = _functorch.Attention.apply(q, k, v, sinks, sequences, block_mask, call)
    else:
        more = {"sinks": sinks, "sequences": sequences, "block_mask": block_mask}
        out, lse = torch.ops.lace.attention(q, k, v, text, **more, **options)
    return out, lse


def _run_block_mask(
    q: Tensor, k: Tensor, v: Tensor, block_mask: BlockMask, **options: Any
) -> tuple[Tensor, Tensor]:
    """As _run, of what a BlockMask of FlexAttention says: read once, on the host, where it has a
    mask_mod."""
    from ._block_masks import is_of_whole_blocks
    from ._flex import read_once, run_whole_blocks
    from ._masks import run_readings

    if is_of_whole_blocks(block_mask, q.shape[-2], k.shape[-2]):
        return run_whole_blocks(q, k, v, block_mask, **options)
    readings, reason = read_once(block_mask, q, k)
    if reason:
        raise Error(f"[attention] {reason}: lace.flex_attention hands it to torch's")
    return run_readings(q, k, v, readings, **options)


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: str | Pattern | BlockMask,
    *,
    scale: float | None = None,
    sinks: Tensor | None = None,
    k_lens: Tensor | int | None = None,
    q_start: Tensor | int | None = None,
    k_start: Tensor | int | None = None,
    sequences: Tensor | None = None,
    max_len: int | None = None,
    softcap: float | None = None,
    block_mask: Tensor | None = None,
    block_size: int | None = None,
    return_lse: Literal[False] = False,
    deterministic: bool = False,
) -> Tensor: ...
@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: str | Pattern | BlockMask,
    *,
    scale: float | None = None,
    sinks: Tensor | None = None,
    k_lens: Tensor | int | None = None,
    q_start: Tensor | int | None = None,
    k_start: Tensor | int | None = None,
    sequences: Tensor | None = None,
    max_len: int | None = None,
    softcap: float | None = None,
    block_mask: Tensor | None = None,
    block_size: int | None = None,
    return_lse: Literal[True],
    deterministic: bool = False,
) -> tuple[Tensor, Tensor]: ...


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: str | Pattern | BlockMask,
    *,
    scale: float | None = None,
    sinks: Tensor | None = None,
    k_lens: Tensor | int | None = None,
    q_start: Tensor | int | None = None,
    k_start: Tensor | int | None = None,
    sequences: Tensor | None = None,
    max_len: int | None = None,
    softcap: float | None = None,
    block_mask: Tensor | None = None,
    block_size: int | None = None,
    return_lse: bool = False,
    deterministic: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """``out = softmax(scale · q kᵀ, kept to the pattern's pairs) v``

    ::

        q    [batch, heads,    q_len, head_dim]    float32, bfloat16, float16, float64; any strides
        k    [batch, kv_heads, k_len, head_dim]    heads is a multiple of kv_heads, q_len <= k_len
        v    [batch, kv_heads, k_len, v_head_dim]
        out  [batch, heads,    q_len, v_head_dim]
        lse  [batch, heads,    q_len]              with return_lse: natural log of a row's sum,
                                                   -inf for a row without keys

    With q_len < k_len the queries are the last of the positions. A row without keys gives 0.
    On a GPU dtypes are bfloat16 and float16, and head_dims up to 256.

    scale: default 1 / sqrt(head_dim). sinks: ``[heads]``, one more logit without a value in each
    row's softmax. k_lens, q_start, k_start: padding, and queries anywhere in the keys, as
    padded_sequences has them; or sequences, what it or packed_sequences returned. Rows that are
    padding are never read, and give 0. max_len: positions that sequences have at most; of use on a
    GPU, which is not asked. softcap: logits become ``softcap · tanh(logits / softcap)``.
    deterministic: bitwise repeatable gradients on a GPU, slower.

    block_mask: bool ``[heads or 1, blocks, blocks]`` or ``[blocks, blocks]``, queries by keys, in
    blocks of block_size positions: of the pattern's pairs those in live blocks. It may be another
    at every call: torch.compile takes it as an input, and a GPU reads it where it is, without
    waiting. One that stays may be a pattern (Pattern.from_blocks), whose plan is made once. pattern
    may also be a BlockMask of FlexAttention that a pattern of lace says (lace.flex_attention tells
    which), read once.

    Differentiable once; works under autocast and torch.compile, and with torch.func's grad, vjp,
    jacrev and vmap (over more batch; sinks that are mapped, too, and packed documents take a call
    for each). Raises RuntimeError (lace.Error where Python finds it) that names the argument,
    before any work.
    """
    if isinstance(block_mask, BlockMask):
        raise Error(
            "[attention] block_mask is a bool tensor, as lace.live_blocks makes one; a BlockMask "
            "stands for the pattern"
        )
    if isinstance(pattern, BlockMask):
        others = (k_lens, q_start, k_start, sequences, max_len, block_mask, block_size)
        if any(value is not None for value in others):
            raise Error("[attention] a BlockMask says where keys are: no other mask, no lengths")
        more = {"scale": scale, "sinks": sinks, "softcap": softcap, "deterministic": deterministic}
        out, lse = _run_block_mask(q, k, v, pattern, **more)
        return (out, lse) if return_lse else out
    if k_lens is not None or q_start is not None or k_start is not None:
        if sequences is not None:
            raise Error("[attention] sequences and k_lens, q_start or k_start exclude each other")
        if q.dim() != 4 or k.dim() != 4:
            raise Error(
                "[attention] q and k must have the shape [batch, heads, seq_len, head_dim], got "
                f"{list(q.shape)} and {list(k.shape)}"
            )
        sequences = padded_sequences(
            q.shape[0],
            q.shape[2],
            k.shape[2],
            k_lens=k_lens,
            q_start=q_start,
            k_start=k_start,
            device=q.device,
        )
    options: dict[str, Any] = {"scale": scale, "deterministic": deterministic, "max_len": max_len}
    options |= {"softcap": softcap, "block_size": block_size}
    out, lse = _run(q, k, v, pattern, sinks, sequences, block_mask, **options)
    return (out, lse) if return_lse else out


def varlen_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: str | Pattern,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor | None = None,
    *,
    max_seqlen: int | None = None,
    q_start: Tensor | None = None,
    scale: float | None = None,
    sinks: Tensor | None = None,
    softcap: float | None = None,
    return_lse: bool = False,
    deterministic: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of packed documents: each sees itself alone, and its positions start at 0.

    ::

        q             [rows, heads,    head_dim]
        k             [rows, kv_heads, head_dim]
        v             [rows, kv_heads, v_head_dim]
        cu_seqlens_q  int32 or int64 [documents + 1], ascending: document d has rows cu_seqlens[d]
        cu_seqlens_k  to cu_seqlens[d + 1] - 1, of q and of k; that of k as that of q by default
        out           [rows, heads,    v_head_dim]
        lse           [heads, rows]              with return_lse

    A document's queries are the last of its keys, or begin at position q_start ``[documents]``.
    max_seqlen: the longest document or more, in keys; of use on a GPU, which is not asked. Rows of
    no document are never read, and give 0. A pattern that counts from the end of the keys
    (``global{-1}``; ``random`` where it is bidirectional) is an error. The rest as lace.attention.
    """
    if q.dim() != 3 or k.dim() != 3 or v.dim() != 3:
        raise Error(
            "[varlen_attention] q, k and v must have the shape [rows, heads, head_dim], got "
            f"{list(q.shape)}, {list(k.shape)} and {list(v.shape)}"
        )
    sequences = packed_sequences(cu_seqlens_q, cu_seqlens_k, q_start=q_start)
    options: dict[str, Any] = {"scale": scale, "deterministic": deterministic, "max_len": max_seqlen}
    out, lse = _run(q, k, v, pattern, sinks, sequences, softcap=softcap, **options)
    return (out, lse) if return_lse else out
