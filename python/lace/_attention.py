"""lace.attention and lace.varlen_attention: the operation, with its arguments by name."""

from __future__ import annotations

from typing import Literal, overload

import torch

from ._library import Error, NotSupportedError, require_argument
from ._pattern import Pattern, pattern_text

Tensor = torch.Tensor


def _run(
    operation: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: str | Pattern,
    scale: float | None,
    deterministic: bool,
    softcap: float | None,
    **tensors: Tensor | int | None,
) -> tuple[Tensor, Tensor]:
    """Calls the operation with those arguments that are given, each of which it must have."""
    if softcap:
        require_argument(operation, "softcap")
        tensors["softcap"] = softcap  # type: ignore[assignment]
    options = {name: value for name, value in tensors.items() if value is not None}
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
    k_lens: Tensor | None = None,
    q_start: Tensor | int | None = None,
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
    k_lens: Tensor | None = None,
    q_start: Tensor | int | None = None,
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
    k_lens: Tensor | None = None,
    q_start: Tensor | int | None = None,
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
    row's softmax. k_lens: ``[batch]``, the keys of each batch element that count. q_start: the
    position of the first query. softcap: logits become ``softcap · tanh(logits / softcap)``.
    deterministic: bitwise repeatable gradients on a GPU, slower.

    Differentiable once; works under autocast and torch.compile. Raises RuntimeError (lace.Error
    where Python finds it) that names the argument, before any work; lace.NotSupportedError for an
    argument that the loaded library does not have.
    """
    out, lse = _run(
        "attention",
        q,
        k,
        v,
        pattern,
        scale,
        deterministic,
        softcap,
        sinks=sinks,
        k_lens=k_lens,
        q_start=q_start,
    )
    return (out, lse) if return_lse else out


def varlen_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: str | Pattern,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor | None = None,
    *,
    scale: float | None = None,
    sinks: Tensor | None = None,
    softcap: float | None = None,
    return_lse: bool = False,
    deterministic: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of packed documents: each sees itself alone, and its positions start at 0.

    ::

        q             [total, heads,    head_dim]
        k             [total, kv_heads, head_dim]
        v             [total, kv_heads, v_head_dim]
        cu_seqlens_q  int32 [documents + 1]    where each document begins, then total
        out           [total, heads,    v_head_dim]
        lse           [heads, total]           with return_lse

    cu_seqlens_k: default cu_seqlens_q, and it must be equal to it: documents of another length in
    the keys are not computed. The rest as lace.attention.
    """
    require_argument("varlen_attention", "cu_seqlens")
    if cu_seqlens_k is not None and cu_seqlens_k is not cu_seqlens_q:
        if cu_seqlens_k.shape != cu_seqlens_q.shape or not torch.equal(cu_seqlens_q, cu_seqlens_k):
            raise NotSupportedError("[varlen_attention] cu_seqlens_k must equal cu_seqlens_q")
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.dim() != 3:
            raise Error(
                f"[varlen_attention] {name} must have the shape [total, heads, head_dim], got "
                f"{list(tensor.shape)}"
            )
    q, k, v = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (q, k, v))
    out, lse = _run(
        "varlen_attention",
        q,
        k,
        v,
        pattern,
        scale,
        deterministic,
        softcap,
        sinks=sinks,
        cu_seqlens=cu_seqlens_q,
    )
    out = out[0].transpose(0, 1)
    return (out, lse[0]) if return_lse else out
