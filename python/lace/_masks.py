"""Patterns read off mask tensors, exactly: a mask either is one of lace's patterns or is not.

What is looked for: a band of constant width along the diagonal (causal, a window, everything), of
all keys or of those that are no padding, or in each of several documents one behind another; and
masks of square blocks, two-sided or cut at the diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from ._attention import attention, packed_sequences, padded_sequences
from ._pattern import Pattern

Tensor = torch.Tensor

BLOCK_SIZES = (256, 128, 64, 32, 16)


@dataclass
class Reading:
    """What a mask says, for all batch elements or those of `elements`."""

    pattern: Pattern
    bounds: Tensor | None = None  # of documents one behind another, from 0 to the length
    keys: tuple[int, int] | None = None  # the first that is no padding, and the end
    elements: Tensor | None = None
    # The table of padded_sequences: a row for each of `elements`, or one for the whole batch; None
    # without padding.
    sequences: Tensor | None = None

    def group(self) -> tuple[str, tuple[int, ...]]:
        """What readings have in common that one call computes."""
        return (self.pattern.text, () if self.bounds is None else tuple(self.bounds.tolist()))


def run_reading(
    q: Tensor, k: Tensor, v: Tensor, reading: Reading, options: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """out and lse of attention(q, k, v) with a mask that was read: [batch, heads, seq_len, …].
    options: others of attention."""
    if reading.bounds is None:
        if reading.sequences is not None:
            table = reading.sequences.to(q.device).expand(q.shape[0], -1).contiguous()
            options = options | {"sequences": table, "max_len": k.shape[2]}
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
TOO_MANY = f"a batch has more than {MOST_GROUPS} masks that differ in more than padding"


def joined(
    readings: list[Reading], q_len: int, k_len: int, device: torch.device
) -> tuple[list[Reading], str]:
    """Readings of batch elements 0, 1, … (of one: of all), each different one once with its
    elements, whatever their padding is; or why there are too many."""
    elements: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for number, reading in enumerate(readings):
        elements.setdefault(reading.group(), []).append(number)
    if len(elements) > MOST_GROUPS:
        return [], TOO_MANY
    result = []
    for some in elements.values():
        keys = [readings[number].keys or (0, k_len) for number in some]
        table = None
        if any(of != (0, k_len) for of in keys):
            first, end = torch.tensor(keys).unbind(1)
            table = padded_sequences(len(some), q_len, k_len, k_first=first, k_end=end).to(device)
        result.append(replace(readings[some[0]], elements=torch.tensor(some), sequences=table))
    return result, ""


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


def read_mask(mask: Tensor, q_len: int) -> Reading | None:
    """The pattern of a mask: bool [heads or 1, q_len, k_len], queries the last of the positions;
    or [heads or 1, 1, k_len], the same for all queries, of which there may be one.

    None: it is not one that is looked for. Reads the mask a few times, on its device, and waits.
    """
    if mask.shape[1] == 1:
        return _same_keys(mask[:, 0], q_len)
    reading = _band(mask)
    if reading is not None:
        return reading
    for block_size in BLOCK_SIZES:
        if block_size < mask.shape[-1]:
            pattern = _blocks(mask, block_size)
            if pattern is not None:
                return Reading(pattern)
    return _documents(mask)


def _all_alike(mask: Tensor) -> bool:
    """Whether all heads of bool [heads, …] have the same."""
    return len(mask) == 1 or bool((mask[1:] == mask[:1]).all())


def of_keys(text: str, begin: int, end: int) -> Reading:
    """A band of keys begin … end − 1 alone."""
    return Reading(Pattern(text), keys=(begin, end))


def read_padding(live: Tensor) -> list[Reading] | None:
    """Of each batch element keys side by side, or none, that all of its queries see: bool [batch,
    k_len]. None if the keys of one have a gap."""
    begins, ends = _ends(live)
    keys = torch.stack([begins, ends + 1, live.sum(dim=1)], 1).tolist()
    if any(end - begin != count for begin, end, count in keys if count > 0):
        return None
    bounds = [(begin, end) if count > 0 else (0, 0) for begin, end, count in keys]
    return [of_keys("bidirectional(dense)", *of) for of in bounds]


def _same_keys(live: Tensor, q_len: int) -> Reading | None:
    """What says that all queries see the same keys: bool [heads or 1, k_len]. Rows that are all
    alike are neither a band nor documents unless every query sees the same keys side by side."""
    heads, k_len = live.shape
    padding = read_padding(live[:1]) if _all_alike(live) else None
    if padding is not None:
        return padding[0]
    for size in BLOCK_SIZES:
        if size >= k_len:
            continue
        blocks = -(-k_len // size)
        padded = F.pad(live, (0, blocks * size - k_len))
        live_blocks = padded.view(heads, blocks, size).any(dim=2)
        if bool((live_blocks.repeat_interleave(size, 1)[:, :k_len] == live).all()):
            has_query = torch.arange(1, blocks + 1, device=live.device) * size > k_len - q_len
            spread = live_blocks[:, None, :] & has_query[:, None]
            return Reading(Pattern.from_blocks(spread, size, causal=False))
    return None


def _ends(live: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row of bool [rows, columns] the first and the last that is live; columns and -1 where
    none is."""
    columns = live.shape[1]
    first = live.view(torch.uint8).argmax(dim=1)
    last = columns - 1 - live.flip(1).view(torch.uint8).argmax(dim=1)
    some = live.any(dim=1)
    return torch.where(some, first, columns), torch.where(some, last, -1)


def _extent(live: Tensor, query: Tensor) -> list[int]:
    """Of the live pairs of bool [queries, keys] the least and the highest query − key, of the keys
    the first and the last; keys and −1 where there is none."""
    begins, ends = _ends(live)
    some, far = begins <= ends, 2 * live.shape[1]
    lowest = torch.where(some, query - ends, far).min()
    highest = torch.where(some, query - begins, -far).max()
    extent: list[int] = torch.stack([lowest, highest, begins.min(), ends.max()]).tolist()
    return extent


def _is_rows_of(live: Tensor, begin: Tensor, end: Tensor) -> bool:
    """Whether row i of bool [rows, columns] is live from begin[i] to end[i], and nowhere else."""
    column = torch.arange(live.shape[1], dtype=torch.int32, device=live.device)
    band = (column >= begin.int()[:, None]) & (column <= end.int()[:, None])
    return bool((band == live).all())


def _band(mask: Tensor) -> Reading | None:
    """A band along the diagonal over keys side by side, for all heads alike."""
    live, q_len, length = mask[0], *mask.shape[1:]
    if not _all_alike(mask):
        return None
    query = torch.arange(length - q_len, length, device=mask.device)
    lowest, highest, first, last = _extent(live, query)
    if last < 0:
        return of_keys("bidirectional(dense)", 0, 0)
    # Keys that no query sees may be outside the band, or padding.
    for begin in dict.fromkeys([0, first]):
        for end in dict.fromkeys([length - 1, last]):
            text = band_text(lowest, highest, length - q_len - end, length - 1 - begin)
            if text is not None and _is_rows_of(
                live, (query - highest).clamp_min(begin), (query - lowest).clamp_max(end)
            ):
                return of_keys(text, begin, end + 1)
    return None


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
    if bool((spread.tril(begin) == mask).all()):
        return Pattern.from_blocks(live, size)
    return None


def _documents(mask: Tensor) -> Reading | None:
    """Documents one behind another, each with the same band, for all heads alike."""
    live, q_len, length = mask[0], *mask.shape[1:]
    if q_len != length or not _all_alike(mask):
        return None
    position = torch.arange(length, device=mask.device)
    lowest, highest, _, _ = _extent(live, position)
    furthest = torch.maximum(torch.maximum(_ends(live)[1], _ends(live.t())[1]), position)
    bounds = bounds_of(furthest)
    number = torch.repeat_interleave(position[: len(bounds) - 1], bounds.diff())
    longest = int(bounds.diff().max())
    text = band_text(lowest, highest, 1 - longest, longest - 1)
    if text is None or not _is_rows_of(
        live,
        torch.maximum(position - highest, bounds[number]),
        torch.minimum(position - lowest, bounds[number + 1] - 1),
    ):
        return None
    return Reading(Pattern(text), bounds.cpu())
