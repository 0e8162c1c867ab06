"""lace.scaled_dot_product_attention: torch's signature."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from ._attention import attention
from ._library import Error, has_argument, warn_once
from ._masks import pattern_of_mask
from ._pattern import Pattern

Tensor = torch.Tensor


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``torch.nn.functional.scaled_dot_product_attention`` on lace where a pattern says the mask.

    ::

        query      [..., heads,    q_len, head_dim]
        key        [..., kv_heads, k_len, head_dim]   kv_heads = heads unless enable_gqa
        value      [..., kv_heads, k_len, v_head_dim]
        attn_mask  bool, broadcastable to [..., heads, q_len, k_len]; True: takes part
        out        [..., heads,    q_len, v_head_dim]

    Run by lace: no mask; is_causal; and bool masks that are, in all batch elements alike, causal,
    a window, or a mask of square blocks of 16 to 256 positions (two-sided, or cut at the
    diagonal). The mask is read once a tensor, on the host: reuse the tensor. Any other mask, float
    masks, and more queries than keys are computed by torch's own function, with one warning. A mask
    that depends on the inputs of a compiled function breaks its graph.

    Raises lace.Error if dropout_p > 0 or if both attn_mask and is_causal are given.
    """
    if dropout_p > 0:
        raise Error(f"[scaled_dot_product_attention] dropout_p must be 0, got {dropout_p}")
    if attn_mask is not None and is_causal:
        raise Error("[scaled_dot_product_attention] attn_mask and is_causal exclude each other")
    if query.dim() < 3 or key.dim() != query.dim() or value.dim() != query.dim():
        raise Error(
            "[scaled_dot_product_attention] query, key and value must have the same 3 or more "
            f"dimensions, got {query.dim()}, {key.dim()} and {value.dim()}"
        )
    if not enable_gqa and key.shape[-3] != query.shape[-3]:
        raise Error(
            f"[scaled_dot_product_attention] key has {key.shape[-3]} heads, query "
            f"{query.shape[-3]}: give enable_gqa=True"
        )
    q_len, k_len = query.shape[-2], key.shape[-2]
    reason, pattern = "", None
    if attn_mask is not None:
        pattern, reason = _pattern_of(attn_mask, query, k_len)
    elif is_causal:
        # Torch counts the queries from the first position: keys after the last query are not seen.
        pattern = "dense"
        if q_len < k_len:
            key, value = key[..., :q_len, :], value[..., :q_len, :]
    else:
        pattern = "bidirectional(dense)"
    if q_len > k_len:
        pattern, reason = None, "there are more queries than keys"
    if pattern is None:
        warn_once(
            f"lace.scaled_dot_product_attention: {reason}; torch's own function computes this"
        )
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    lead = query.shape[:-3]
    four = [tensor.reshape(-1, *tensor.shape[-3:]) for tensor in (query, key, value)]
    out = attention(four[0], four[1], four[2], pattern, scale=scale)
    return out.reshape(*lead, *out.shape[-3:])


# By tensor: the shape that it was read for, its version, and what it is.
_Read = tuple[tuple[int, ...], int, Pattern | None, str]
_read: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


@torch.compiler.disable
def _pattern_of(mask: Tensor, query: Tensor, k_len: int) -> tuple[Pattern | None, str]:
    """What a mask is, or None and the reason why no pattern says it. Read once a tensor."""
    if mask.dtype != torch.bool:
        return None, "float masks are added to the logits, which lace does not do"
    shape = (*query.shape[:-1], k_len)
    known: _Read | None = _read.get(mask)
    if known is not None and known[:2] == (shape, mask._version):
        return known[2], known[3]
    pattern, reason = _look(mask, shape)
    _read[mask] = (shape, mask._version, pattern, reason)
    return pattern, reason


def _look(mask: Tensor, shape: tuple[int, ...]) -> tuple[Pattern | None, str]:
    """As _pattern_of, for a bool mask that is broadcast to [..., heads, q_len, k_len]."""
    try:
        torch.broadcast_shapes(mask.shape, shape)
    except RuntimeError:
        raise Error(
            f"[scaled_dot_product_attention] attn_mask must be broadcastable to {list(shape)}, got "
            f"the shape {list(mask.shape)}"
        ) from None
    q_len, k_len = shape[-2:]
    if q_len > k_len:
        return None, "there are more queries than keys"
    mask = mask.detach()
    mask = mask.reshape(*[1] * (len(shape) - mask.dim()), *mask.shape)
    heads = mask.shape[-3]
    mask = mask.expand(*mask.shape[:-2], q_len, k_len).reshape(-1, heads, q_len, k_len)
    if not bool((mask == mask[:1]).all()):
        return None, "the mask differs between batch elements" + (
            "" if has_argument("k_lens") else ", and key padding is not computed by this version"
        )
    if heads > 1 and bool((mask[0] == mask[0, :1]).all()):
        mask = mask[:, :1]
    pattern = pattern_of_mask(mask[0])
    return pattern, "" if pattern is not None else "no pattern of lace says what the mask says"
