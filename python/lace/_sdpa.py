"""lace.scaled_dot_product_attention: torch's signature."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from ._library import Error, warn_once
from ._masks import (
    MOST_GROUPS,
    TOO_MANY,
    Reading,
    joined,
    read_mask,
    read_padding,
    run_readings,
)
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

    Run by lace: no mask; is_causal; and bool masks that are causal, a window or everything, also
    with key padding on either side (another for each batch element, in one call) or in each of
    several documents one behind another; or a mask of square blocks of 16 to 256 positions
    (two-sided, or cut at the diagonal). Batch elements whose masks differ in more than padding are
    calls of their own, up to 16 different ones. The mask is read once a tensor, on the host: reuse
    the tensor. Any other mask, float masks, and more queries than keys are computed by torch's own
    function, with one warning. A mask that depends on the inputs of a compiled function breaks its
    graph.

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
    if query.shape[-3] > 0 and 0 in (*query.shape, k_len):  # nothing to compute
        return F.scaled_dot_product_attention(query, key, value, attn_mask, enable_gqa=enable_gqa)
    reason = "there are more queries than keys" if q_len > k_len else ""
    groups: list[Reading] = []
    if reason:
        pass
    elif attn_mask is not None:
        groups, reason = _read_once(attn_mask, query, k_len)
    elif is_causal:
        # Torch counts the queries from the first position: keys after the last query are not seen.
        key, value = key[..., :q_len, :], value[..., :q_len, :]
        groups = [Reading(Pattern("dense"))]
    else:
        groups = [Reading(Pattern("bidirectional(dense)"))]
    if reason:
        warn_once(
            f"lace.scaled_dot_product_attention: {reason}; torch's own function computes this"
        )
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    q, k, v = (tensor.reshape(-1, *tensor.shape[-3:]) for tensor in (query, key, value))
    out, _ = run_readings(q, k, v, groups, scale=scale)
    return out.reshape(*query.shape[:-3], *out.shape[-3:])


# By tensor: the shape that it was read for, its version, and what it is.
_Read = tuple[tuple[int, ...], int, list[Reading], str]
_read: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


@torch.compiler.disable
def _read_once(mask: Tensor, query: Tensor, k_len: int) -> tuple[list[Reading], str]:
    """What a mask is, or the reason why no pattern says it. Read once a tensor."""
    if mask.dtype != torch.bool:
        return [], "float masks are added to the logits, which lace does not do"
    shape = (*query.shape[:-1], k_len)
    # What is kept may serve training later on.
    with torch.inference_mode(False):
        if mask.is_inference():  # without a version
            return _look(mask.clone(), shape, query.device)
        known: _Read | None = _read.get(mask)
        if known is None or known[:2] != (shape, mask._version):
            known = (shape, mask._version, *_look(mask, shape, query.device))
            _read[mask] = known
    return known[2], known[3]


def _look(
    mask: Tensor, shape: tuple[int, ...], device: torch.device
) -> tuple[list[Reading], str]:
    """As _read_once, for a bool mask that is broadcast to [..., heads, q_len, k_len]."""
    try:
        fits = torch.broadcast_shapes(mask.shape, shape) == shape
    except RuntimeError:
        fits = False
    if not fits:
        raise Error(
            f"[scaled_dot_product_attention] attn_mask must be broadcastable to {list(shape)}, got "
            f"the shape {list(mask.shape)}"
        )
    mask = mask.detach()
    mask = mask.reshape(*[1] * (len(shape) - mask.dim()), *mask.shape)
    for dim in range(len(shape) - 1):  # what was expanded is read once
        if mask.stride(dim) == 0 and mask.shape[dim] > 1:
            mask = mask.narrow(dim, 0, 1)
    heads, rows = mask.shape[-3:-1]
    lead = [1] * (len(shape) - 3) if mask.shape[:-3].numel() == 1 else shape[:-3]
    mask = mask.expand(*lead, heads, rows, shape[-1]).reshape(-1, heads, rows, shape[-1])
    if heads > 1 and bool((mask == mask[:, :1]).all()):
        mask = mask[:, :1]
    if mask.shape[1] == rows == 1:
        padded = read_padding(mask[:, 0, 0])
        if padded is not None:
            return joined(padded, shape[-2], shape[-1], device)
    # Masks are compared before they are read: most batches have few.
    readings: list[Reading] = [Reading(Pattern("dense"))] * len(mask)
    left = torch.arange(len(mask), device=mask.device)
    groups = set()
    while len(left) > 0:
        same = (mask[left] == mask[left[:1]]).flatten(1).all(dim=1)
        reading = read_mask(mask[left[0]], shape[-2])
        if reading is None:
            return [], "no pattern of lace says what the mask says"
        groups.add(reading.group())
        if len(groups) > MOST_GROUPS:
            return [], TOO_MANY
        for element in left[same].tolist():
            readings[element] = reading
        left = left[~same]
    return joined(readings, shape[-2], shape[-1], device)
