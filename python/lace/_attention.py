"""lace.attention and lace.varlen_attention: the operation, with its arguments by name."""

from __future__ import annotations

from typing import Literal, overload

import torch

from ._library import Error, require_argument
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
    device: torch.device | str | None = None,
) -> Tensor:
    """Where the sequences of a padded batch stand, for ``attention(…, sequences=…)``: made once, it
    serves all layers of a model. Nothing waits for the device.

    batch, q_rows, k_rows: the batch, and seq_len of q and of k. int32 or int64 ``[batch]``, or a
    number for all, at least one:

    - k_lens: positions of the sequence; default up to the last row of k
    - q_start: position of q's first row; default such that q is the last rows of k
    - k_start: position of k's first row; default 0

    Rows at positions below 0, or from k_lens on, are padding. So padding on the right is k_lens;
    padding on the left ``k_start = -padding``; a static cache k_lens and ``q_start = k_lens -
    q_rows``; a cache that has dropped its first keys k_start, how many. device: of numbers.
    """
    places = {"k_lens": k_lens, "q_start": q_start, "k_start": k_start}
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
    operation: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: str | Pattern,
    scale: float | None,
    deterministic: bool,
    **more: Tensor | float | None,
) -> tuple[Tensor, Tensor]:
    """Calls the operation with those arguments that are given, each of which it must have."""
    options = {name: value for name, value in more.items() if value is not None}
    for name in options:
        require_argument(operation, name)
    out, lse = torch.ops.lace.attention(
        q, k, v, pattern_text(pattern), scale=scale, deterministic=deterministic, **options
    )
    return out, lse


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: str | Pattern,
    *,
    scale: float | None = None,
    sinks: Tensor | None = None,
    k_lens: Tensor | int | None = None,
    q_start: Tensor | int | None = None,
    k_start: Tensor | int | None = None,
    sequences: Tensor | None = None,
    max_len: int | None = None,
    softcap: float | None = None,
    return_lse: Literal[False] = False,
    deterministic: bool = False,
) -> Tensor: ...
@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: str | Pattern,
    *,
    scale: float | None = None,
    sinks: Tensor | None = None,
    k_lens: Tensor | int | None = None,
    q_start: Tensor | int | None = None,
    k_start: Tensor | int | None = None,
    sequences: Tensor | None = None,
    max_len: int | None = None,
    softcap: float | None = None,
    return_lse: Literal[True],
    deterministic: bool = False,
) -> tuple[Tensor, Tensor]: ...


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: str | Pattern,
    *,
    scale: float | None = None,
    sinks: Tensor | None = None,
    k_lens: Tensor | int | None = None,
    q_start: Tensor | int | None = None,
    k_start: Tensor | int | None = None,
    sequences: Tensor | None = None,
    max_len: int | None = None,
    softcap: float | None = None,
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
    On a GPU dtypes are bfloat16 and float16, and head_dims multiples of 8 up to 256.

    scale: default 1 / sqrt(head_dim). sinks: ``[heads]``, one more logit without a value in each
    row's softmax. k_lens, q_start, k_start: padding, and queries anywhere in the keys, as
    padded_sequences has them; or sequences, what it or packed_sequences returned. Rows that are
    padding are never read, and give 0. max_len: positions that sequences have at most; of use on a
    GPU, which is not asked. softcap: logits become ``softcap · tanh(logits / softcap)``.
    deterministic: bitwise repeatable gradients on a GPU, slower.

    Differentiable once; works under autocast and torch.compile. Raises RuntimeError (lace.Error
    where Python finds it) that names the argument, before any work; lace.NotSupportedError for an
    argument that the loaded library does not have.
    """
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
    more = {"sinks": sinks, "sequences": sequences, "max_len": max_len, "softcap": softcap}
    out, lse = _run("attention", q, k, v, pattern, scale, deterministic, **more)
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
    require_argument("varlen_attention", "sequences")
    sequences = packed_sequences(cu_seqlens_q, cu_seqlens_k, q_start=q_start)
    more = {"sinks": sinks, "sequences": sequences, "max_len": max_seqlen, "softcap": softcap}
    out, lse = _run("varlen_attention", q, k, v, pattern, scale, deterministic, **more)
    return (out, lse) if return_lse else out
