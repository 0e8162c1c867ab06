"""Patterns read off mask tensors, exactly: a mask either is one of lace's patterns or is not.

What is looked for: a band of constant width along the diagonal (causal, a window, everything), of
all keys or of those that are no padding; and masks of square blocks, two-sided or cut at the
diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from ._attention import attention, packed_sequences
from ._pattern import Pattern

Tensor = torch.Tensor

BLOCK_SIZES = (256, 128, 64, 32, 16)


@dataclass
class Reading:
    """What a mask says, for all batch elements or those of `elements`."""

    pattern: Pattern
    bounds: Tensor | None = None  # of documents one behind another, from 0 to the length
    elements: Tensor | None = None


def run_reading(
    q: Tensor, k: Tensor, v: Tensor, reading: Reading, options: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """out and lse of attention(q, k, v) with a mask that was read: [batch, heads, seq_len, …].
    options: others of attention."""
    if reading.bounds is None:
        return attention(q, k, v, reading.pattern, return_lse=True, **options)
    batch, _, length, _ = q.shape
    begins = torch.arange(batch)[:, None] * length + reading.bounds[:-1]
    bounds = torch.cat([begins.flatten(), torch.tensor([batch * length])])
    q, k, v = (tensor.transpose(1, 2).flatten(0, 1) for tensor in (q, k, v))
    out, lse = attention(
        q,
        k,
        v,
        reading.pattern,
        sequences=packed_sequences(bounds.to(q.device, non_blocking=True)),
        max_len=int(reading.bounds.diff().max()),
        return_lse=True,
        **options,
    )
    out = out.unflatten(0, (batch, length)).transpose(1, 2)
    return out, lse.unflatten(1, (batch, length)).transpose(0, 1)


MOST_GROUPS = 16


def joined(readings: list[Reading]) -> tuple[list[Reading], str]:
    """Readings of batch elements 0, 1, … (of one: of all), each different one once with its
    elements; or why there are too many."""
    elements: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for number, reading in enumerate(readings):
        bounds = () if reading.bounds is None else tuple(reading.bounds.tolist())
        elements.setdefault((reading.pattern.text, bounds), []).append(number)
    if len(elements) > MOST_GROUPS:
        return [], f"there are more than {MOST_GROUPS} different masks in a batch"
    return [
        replace(readings[some[0]], elements=torch.tensor(some)) for some in elements.values()
    ], ""


def run_readings(
    q: Tensor, k: Tensor, v: Tensor, readings: list[Reading], **options: Any
) -> tuple[Tensor, Tensor]:
    """As run_reading, of a batch whose elements have masks of their own."""
    if len(readings) == 1:
        return run_reading(q, k, v, readings[0], options)
    elements = [reading.elements for reading in readings if reading.elements is not None]
    order = torch.cat(elements).argsort().to(q.device)
    parts = []
    for reading, some in zip(readings, elements, strict=True):
        some = some.to(q.device)
        parts.append(run_reading(q[some], k[some], v[some], reading, options))
    return torch.cat([out for out, _ in parts])[order], torch.cat([lse for _, lse in parts])[order]


def bounds_of(furthest: Tensor) -> Tensor:
    """Where documents begin and the last ends, if position i is in one with positions up to
    furthest[i] >= i."""
    before = furthest.cummax(0).values[:-1]
    begins = (before < torch.arange(1, len(furthest), device=furthest.device)).nonzero()[:, 0] + 1
    return torch.cat([begins.new_tensor([0]), begins, begins.new_tensor([len(furthest)])])


def band_text(lowest: int, highest: int, least: int, most: int) -> str | None:
    """The pattern whose live pairs have lowest <= query − key <= highest, of all that have
    least <= query − key <= most, which the bounds are in; None: no pattern says that."""
    after_all, before_all = lowest == least, highest == most
    if after_all and before_all:
        return "bidirectional(dense)"
    if lowest == 0:
        return "dense" if before_all else f"local({highest + 1})"
    if highest > 0 and (lowest == -highest or (after_all and -highest < least)):
        return f"bidirectional(local({2 * highest}))"
    return None


def read_mask(mask: Tensor) -> Reading | None:
    """The pattern of a mask: bool [heads or 1, q_len, k_len], queries the last of the positions.

    None: it is not one that is looked for. Reads the mask a few times, on its device, and waits.
    """
    text = _band_text(mask)
    if text is not None:
        return Reading(Pattern(text))
    for block_size in BLOCK_SIZES:
        if block_size < mask.shape[-1]:
            pattern = _blocks(mask, block_size)
            if pattern is not None:
                return Reading(pattern)
    return _documents(mask)


def _differences(mask: Tensor) -> Tensor:
    """Query − key: [q_len, k_len]."""
    q_len, k_len = mask.shape[-2:]
    query = torch.arange(k_len - q_len, k_len, device=mask.device)
    return query[:, None] - torch.arange(k_len, device=mask.device)


def _band_text(mask: Tensor) -> str | None:
    """The text of a band along the diagonal over keys side by side, for all heads alike."""
    columns = mask.any(dim=0).any(dim=0).nonzero()
    if len(columns) == 0:
        return None
    first, last, length = int(columns[0]), int(columns[-1]), mask.shape[-1]
    differences = _differences(mask)
    # Keys that no query sees may be outside the band, or padding.
    for begin in dict.fromkeys([0, first]):
        for end in dict.fromkeys([length - 1, last]):
            inside = slice(begin, end + 1)
            text = _band_of(mask[:, :, inside], differences[:, inside])
            text = None if text is None else of_keys(text, begin, end, length)
            if text is not None:
                return text
    return None


def _band_of(live: Tensor, difference: Tensor) -> str | None:
    least, most = int(difference.min()), int(difference.max())
    lowest = int(difference.masked_fill(~live[0], most).min())
    highest = int(difference.masked_fill(~live[0], least).max())
    if not bool((live == ((difference >= lowest) & (difference <= highest))).all()):
        return None
    return band_text(lowest, highest, least, most)


def of_keys(text: str, first: int, last: int, length: int) -> str | None:
    """The pattern of a band, kept to keys first … last; None: no pattern says that."""
    if first == 0 and last == length - 1:
        return text
    two_sided = text.startswith("bidirectional(")
    if two_sided and first > 0:
        return None  # global{…} has rows too there
    keys = f"sinks({last + 1})" if first == 0 else f"global{{{first}..{last}}}"
    band = text.removeprefix("bidirectional(").removesuffix(")") if two_sided else text
    band = band + ")" if band.count("(") > band.count(")") else band
    both = keys if band == "dense" else f"{band} & {keys}"
    return f"bidirectional({both})" if two_sided else both


def _blocks(mask: Tensor, size: int) -> Pattern | None:
    """The block mask of blocks of this size that `mask` is, two-sided or cut at the diagonal."""
    heads, q_len, k_len = mask.shape
    begin = k_len - q_len
    blocks = -(-k_len // size)
    # Rows before the first query, and positions past the end, are dead; they fill whole blocks.
    padded = mask.new_zeros((heads, blocks * size, blocks * size))
    padded[:, begin:k_len, :k_len] = mask
    tiles = padded.view(heads, blocks, size, blocks, size)
    live = tiles.any(dim=4).any(dim=2)
    spread = live.repeat_interleave(size, 1)[:, begin:k_len]
    spread = spread.repeat_interleave(size, 2)[:, :, :k_len]
    if bool((spread == mask).all()):
        return Pattern.from_blocks(live, size, causal=False)
    causal = _differences(mask) >= 0
    if bool(((spread & causal) == mask).all()):
        return Pattern.from_blocks(live, size)
    return None


def _documents(mask: Tensor) -> Reading | None:
    """Documents one behind another, each with the same band, for all heads alike."""
    _, q_len, length = mask.shape
    live = mask.any(dim=0)
    if q_len != length or not bool(live.any()):
        return None
    position = torch.arange(length, device=mask.device)
    furthest = torch.where(live, position, 0).amax(dim=1)
    furthest = torch.maximum(furthest, torch.where(live, position[:, None], 0).amax(dim=0))
    bounds = bounds_of(torch.maximum(furthest, position))
    number = torch.repeat_interleave(position[: len(bounds) - 1], bounds.diff())
    difference = _differences(mask)
    lowest, highest = int(difference[live].min()), int(difference[live].max())
    longest = int(bounds.diff().max())
    text = band_text(lowest, highest, 1 - longest, longest - 1)
    same = number[:, None] == number
    band = same & (difference >= lowest) & (difference <= highest)
    if text is None or not bool((mask == band).all()):
        return None
    return Reading(Pattern(text), bounds.cpu())
