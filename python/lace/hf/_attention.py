"""The attention interface of transformers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from .._attention import attention, packed_sequences
from .._library import NotSupportedError, warn_once
from ._masks import LaceMask

Tensor = torch.Tensor


def attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: LaceMask | Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    block_indices: Tensor | None = None,
    indices: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query [batch, heads, q_len, head_dim], key and value [batch, kv_heads, k_len, …]; returns
    [batch, q_len, heads, v_head_dim] and None, as there are no weights to return.

    cu_seq_lens_q, cu_seq_lens_k, max_length_k: bounds of packed documents, as for flash-attention.
    Raises lace.NotSupportedError for keys that an indexer chooses.
    """
    if block_indices is not None or indices is not None:
        raise NotSupportedError(
            "[lace.hf] keys that an indexer chooses are not computed: use attn_implementation="
            '"eager" or "sdpa" for this model'
        )
    if kwargs.get("output_attentions"):
        warn_once("lace.hf: attention weights are never made, so none are returned")
    if isinstance(attention_mask, LaceMask):
        reason = _why_not(attention_mask, key, dropout, s_aux, position_bias)
        attention_mask = _documents_given(attention_mask, query, reason, kwargs)
        if not reason:
            return _run(query, key, value, attention_mask, scaling, s_aux, softcap), None
        warn_once(f"lace.hf: {reason}; a real mask and torch's attention are used")
        attention_mask = attention_mask.dense().to(query.device)
    elif attention_mask is None:
        # As transformers' sdpa: nothing was masked but, of a causal module, what comes later.
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        if causal and query.shape[2] > 1:
            key, value = key[:, :, : query.shape[2]], value[:, :, : query.shape[2]]
            pattern = "dense"
        else:
            pattern = "bidirectional(dense)"
        mask = LaceMask(pattern, query.shape[2], key.shape[2], key.shape[2])
        reason = _why_not(mask, key, dropout, s_aux, position_bias)
        mask = _documents_given(mask, query, reason, kwargs)
        if not reason and query.shape[2] <= key.shape[2]:
            return _run(query, key, value, mask, scaling, s_aux, softcap), None
        if pattern == "dense":
            size = (query.shape[2], key.shape[2])
            attention_mask = torch.ones(size, dtype=torch.bool, device=query.device).tril()
    return (
        _masked(query, key, value, attention_mask, dropout, scaling, softcap, s_aux, position_bias),
        None,
    )


def _documents_given(
    mask: LaceMask, query: Tensor, reason: str, kwargs: dict[str, Any]
) -> LaceMask:
    """The mask of documents whose bounds the caller gave as for flash-attention."""
    bounds = kwargs.get("cu_seq_lens_q")
    if bounds is None or mask.packed:
        return mask
    if reason or query.shape[0] != 1 or mask.sequences is not None:
        raise NotSupportedError(
            "[lace.hf] cu_seq_lens_q is for one row of documents without padding or cache, and "
            f"what lace computes; {reason or 'there is more'}"
        )
    packed = LaceMask(mask.pattern, mask.q_length, mask.kv_length, mask.last_key, mask.arguments)
    packed.sequences, packed.packed = packed_sequences(bounds, kwargs.get("cu_seq_lens_k")), True
    longest = kwargs.get("max_length_k")
    packed.max_len = longest if isinstance(longest, int) else None
    return packed


def _why_not(
    mask: LaceMask,
    key: Tensor,
    dropout: float,
    s_aux: Tensor | None,
    position_bias: Tensor | None,
) -> str:
    """Why lace does not compute this, or ""."""
    if mask.kv_length != key.shape[2]:
        return "a layer has other keys than its mask"
    if dropout > 0:
        return "dropout of attention weights is not computed"
    if position_bias is not None:
        return "a bias of positions is not computed"
    if s_aux is not None and s_aux.dim() != 1:
        return "sinks of each token are not computed"
    return ""


def _run(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: LaceMask,
    scaling: float | None,
    sinks: Tensor | None,
    softcap: float | None,
) -> Tensor:
    options: dict[str, Any] = {"scale": scaling, "sinks": sinks, "softcap": softcap}
    if mask.sequences is not None:
        options |= {"sequences": mask.sequences.to(query.device), "max_len": mask.max_len}
    elif mask.last_key < key.shape[2]:
        key, value = key[:, :, : mask.last_key], value[:, :, : mask.last_key]
    if mask.packed:
        batch, _, length, _ = query.shape
        query, key, value = (t.transpose(1, 2).flatten(0, 1) for t in (query, key, value))
        return attention(query, key, value, mask.pattern, **options).unflatten(0, (batch, length))
    out = attention(query, key, value, mask.pattern, **options)
    return out.transpose(1, 2).contiguous()


def _masked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
    position_bias: Tensor | None,
) -> Tensor:
    """With a real mask, bool or float, [batch or 1, heads or 1, q_len, k_len]: any argument."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    if mask is not None:
        mask = mask[..., : key.shape[2]]
    if position_bias is not None:
        bias = torch.zeros((), dtype=query.dtype, device=query.device)
        if mask is not None:
            bias = mask
            if mask.dtype == torch.bool:
                bias = position_bias.new_zeros(()).masked_fill(~mask, torch.finfo(query.dtype).min)
        mask = position_bias + bias
    if softcap is None and sinks is None:
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling
        )
        return out.transpose(1, 2).contiguous()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    logits = query @ key.transpose(2, 3) * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    if mask is not None:
        lowest = torch.finfo(logits.dtype).min
        logits = logits.masked_fill(~mask, lowest) if mask.dtype == torch.bool else logits + mask
    if sinks is not None:
        column = sinks.to(logits.dtype).reshape(1, -1, 1, 1)
        logits = torch.cat([logits, column.expand(*logits.shape[:3], 1)], dim=-1)
    weights = torch.softmax(logits, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights[..., : key.shape[2]], p=dropout)
    return (weights @ value).transpose(1, 2).contiguous()
