"""What transformers asks for as a mask, read as a pattern.

Its mask functions are closures of a few named factories of transformers.masking_utils, joined by
and_masks: names and cells tell them apart. Positions are absolute there: row r of the queries is at
q_offset + r, row c of the keys at kv_offset + c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask

from .._attention import packed_sequences, padded_sequences
from .._library import warn_once

Tensor = torch.Tensor
MaskFunction = Callable[..., Any]


class Unreadable(Exception):
    """Why a mask function, or what it needs, has no pattern here."""


@dataclass
class Reading:
    """The intersection of what mask functions say."""

    causal: bool = False
    window: int | None = None  # key > query − window
    half_window: int | None = None  # |query − key| <= half_window
    chunk: int | None = None  # both in one chunk, counted from `chunk_begin` [batch]
    chunk_begin: Tensor | None = None
    documents: Tensor | None = None  # [batch, length]: both in the document of this number
    positions: Tensor | None = None  # [batch, length]: in documents, anew in each

    def pattern(self) -> str:
        """As text, in positions of one document."""
        if self.chunk is not None:
            if self.causal and self.window is None and self.half_window is None:
                return f"block({self.chunk})"
        elif self.causal:
            widths = [w for w in (self.window, _plus_one(self.half_window)) if w is not None]
            return f"local({min(widths)})" if widths else "dense"
        elif self.window is None:
            half = self.half_window
            return "bidirectional(dense)" if half is None else f"bidirectional(local({2 * half}))"
        raise Unreadable("no pattern of lace joins these masks")

    @property
    def shift_invariant(self) -> bool:
        """Whether only differences of positions count."""
        return self.chunk is None


def _plus_one(value: int | None) -> int | None:
    return None if value is None else value + 1


def read_mask_function(function: MaskFunction) -> Reading:
    """Throws Unreadable if it is not made of transformers' own factories."""
    reading = Reading()
    _read_into(function, reading)
    return reading


def _cells(function: MaskFunction) -> dict[str, Any]:
    names = function.__code__.co_freevars
    return dict(
        zip(names, (cell.cell_contents for cell in function.__closure__ or ()), strict=True)
    )


def _read_into(function: MaskFunction, reading: Reading) -> None:
    name = getattr(function, "__qualname__", "").split(".")[0]
    if getattr(function, "__module__", "") != "transformers.masking_utils":
        raise Unreadable(
            f"the mask function {name or function} is not of transformers.masking_utils"
        )
    cells = _cells(function)
    if name == "and_masks":
        for mask_function in cells["mask_functions"]:
            _read_into(mask_function, reading)
    elif name == "causal_mask_function":
        reading.causal = True
    elif name == "bidirectional_mask_function":
        pass
    elif name == "sliding_window_overlay":
        reading.window = _narrower(reading.window, cells["sliding_window"])
    elif name == "sliding_window_bidirectional_overlay":
        reading.half_window = _narrower(reading.half_window, cells["sliding_window"])
    elif name == "chunked_overlay" and reading.chunk is None:
        reading.chunk, reading.chunk_begin = int(cells["chunk_size"]), cells["left_padding"]
    elif name == "packed_sequence_mask_function" and reading.documents is None:
        reading.documents = cells["packed_sequence_mask"]
    elif name == "remap_positions_for_packed_sequence" and reading.positions is None:
        reading.positions = cells["position_ids"]
        _read_into(cells["mask_function"], reading)
    else:
        raise Unreadable(f"no pattern of lace says what {name} says")


def _narrower(a: int | None, b: int) -> int:
    return int(b) if a is None else min(a, int(b))


class LaceMask(BlockMask):
    """What a layer hands from `make_mask` to `attention_forward` in place of a mask tensor.

    A BlockMask for transformers alone, which hands those on as they are, also where generate()
    makes masks before it calls the model; none of its tensors exist.
    """

    def __init__(
        self,
        pattern: str,
        q_length: int,
        kv_length: int,
        last_key: int,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        self.pattern = pattern
        self.q_length, self.kv_length = q_length, kv_length
        # Without sequences: of the keys before last_key, the queries being the last of them.
        self.last_key = last_key
        # Else what padded_sequences or, of documents, packed_sequences made of these lengths.
        self.sequences: Tensor | None = None
        self.packed = False
        self.max_len: int | None = None
        self.arguments = arguments  # of make_mask, for what only a real mask can do

    @property
    def shape(self) -> tuple[int, ...]:
        batch = self.arguments["batch_size"] if self.arguments else 1
        return (batch, 1, self.q_length, self.kv_length)

    def to(self, *args: Any, **kwargs: Any) -> LaceMask:
        return self  # what it has goes to a layer's device there

    def __repr__(self) -> str:
        return f"LaceMask({self.pattern!r}, shape={self.shape})"

    __str__ = __repr__

    def dense(self) -> Tensor:
        """The same as a tensor: bool [batch, 1, q_length, kv_length], True where it takes part."""
        assert self.arguments is not None
        return real_mask(**self.arguments)


def real_mask(**arguments: Any) -> Tensor:
    """transformers' own mask for its sdpa: bool [batch, 1, q_length, kv_length]."""
    from transformers.masking_utils import sdpa_mask

    arguments |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    mask = sdpa_mask(**arguments)
    assert mask is not None  # as nothing may be skipped
    return mask


@torch.compiler.disable
def make_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: MaskFunction | None = None,
    attention_mask: Tensor | None = None,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    config: Any = None,
    **kwargs: Any,
) -> LaceMask | Tensor:
    """The mask interface of transformers. See transformers.masking_utils.sdpa_mask.

    Returns a LaceMask, or a real mask [batch_size, 1, q_length, kv_length]: bool where lace cannot
    say it, float where the model takes masks apart itself (longformer, big_bird, indexers).
    """
    from transformers.masking_utils import causal_mask_function

    arguments: dict[str, Any] = {
        "batch_size": batch_size,
        "q_length": q_length,
        "kv_length": kv_length,
        "q_offset": _offset(q_offset),
        "kv_offset": kv_offset,
        "mask_function": mask_function or causal_mask_function,
        "attention_mask": attention_mask,
        "use_vmap": use_vmap,
        "device": device,
    }
    if _takes_masks_apart(config):
        from transformers.masking_utils import eager_mask

        mask: Tensor = eager_mask(**arguments, **kwargs)
        return mask
    try:
        return _read(arguments)
    except Unreadable as reason:
        warn_once(f"lace.hf: {reason}; a real mask and torch's attention are used")
        return real_mask(**arguments)


def _offset(q_offset: int | Tensor) -> int | Tensor:
    """Of a static cache a tensor, which layers count up: it stays one, so that a compiled step is
    one for all lengths, and nothing waits for the device."""
    return q_offset.clone() if isinstance(q_offset, torch.Tensor) else int(q_offset)


def _takes_masks_apart(config: Any) -> bool:
    """Models that use the tensor for more than attention, or never ask the attention interface."""
    if getattr(config, "model_type", "") in ("longformer", "big_bird"):
        return True
    return "indexed_attention" in (getattr(config, "layer_types", None) or ())


def _read(arguments: dict[str, Any]) -> LaceMask:
    q_length, kv_length = arguments["q_length"], arguments["kv_length"]
    kv_offset, q_offset = int(arguments["kv_offset"]), arguments["q_offset"]
    reading = read_mask_function(arguments["mask_function"])
    mask = LaceMask(reading.pattern(), q_length, kv_length, kv_length, arguments)
    if reading.documents is not None and bool(reading.documents.any()):  # traced: also without
        _pack(reading, mask)
        return mask
    # Chunks are counted from the first token, also where the cache has dropped it.
    dropped = kv_offset if reading.shift_invariant else 0
    # Row r of the queries stands beside the key begin + r. Keys after the last query are rows of a
    # static cache that nothing has been written to.
    end: int | Tensor = q_offset + q_length
    if isinstance(end, int):
        mask.last_key = end - kv_offset
        if mask.last_key < q_length or mask.last_key > kv_length:
            raise Unreadable("the queries stand beside no keys")
    if not reading.causal and (isinstance(end, torch.Tensor) or mask.last_key != kv_length):
        raise Unreadable("there are other numbers of queries and keys in a two-sided layer")
    padding = _padding(arguments["attention_mask"], dropped, kv_offset + mask.last_key)
    first, after = padding or (None, end)
    _check_chunks(reading, first)
    aligned = reading.shift_invariant or kv_offset % (reading.chunk or 1) == 0
    if padding is None and aligned and isinstance(end, int):
        return mask
    before: Tensor | int = 0 if first is None else first
    mask.sequences = padded_sequences(
        arguments["batch_size"],
        q_length,
        kv_length,
        k_lens=_each(after - before),
        q_start=_each(q_offset - before),
        k_start=_each(kv_offset - before),
        device=arguments["device"],
    )
    return mask


def _each(value: Tensor | int) -> Tensor | int:
    """[batch] or [1]; the offset of a static cache may be a scalar."""
    return value.reshape(-1) if isinstance(value, torch.Tensor) else value


def _padding(attention_mask: Tensor | None, begin: int, end: int) -> tuple[Tensor, Tensor] | None:
    """The first position of each batch element, and the one after its last, both [batch]; None:
    no position from begin to end − 1 is padding. Beyond the length of the mask all are."""
    if attention_mask is None:
        return None
    live = attention_mask[:, :end].bool()
    if live.shape[-1] == end and bool(live[:, begin:].all()):
        return None
    positions = torch.arange(live.shape[-1], device=live.device)
    after = torch.where(live, positions + 1, 0).amax(dim=1)
    first = torch.minimum(torch.where(live, positions, live.shape[-1]).amin(dim=1), after)
    if bool((live.sum(dim=1) != after - first).any()):
        raise Unreadable("there is padding between tokens")
    return first, after


def _check_chunks(reading: Reading, first: Tensor | None) -> None:
    """Chunks must begin at the first token of each batch element, which is position 0 here."""
    if reading.chunk is None:
        return
    begin = reading.chunk_begin
    if begin is not None and bool((begin != (0 if first is None else first)).any()):
        raise Unreadable("chunks do not begin at the first token")
    if reading.positions is not None and bool((reading.positions[:, 0] % reading.chunk).any()):
        raise Unreadable("chunks do not begin at the first token")


def _pack(reading: Reading, mask: LaceMask) -> None:
    """One document behind another, through all batch elements."""
    assert reading.documents is not None
    documents = reading.documents
    batch, length = documents.shape
    if mask.q_length != length or mask.kv_length != length:
        raise Unreadable("packed documents have a cache")
    new = torch.ones_like(documents, dtype=torch.bool)
    new[:, 1:] = documents[:, 1:] != documents[:, :-1]
    begins = new.flatten().nonzero()[:, 0]
    if reading.chunk is not None and reading.positions is not None:
        at_begin = reading.positions.expand(batch, -1).flatten()[begins]
        if bool((at_begin % reading.chunk).any()):
            raise Unreadable("a document does not begin with a chunk")
    bounds = torch.cat([begins, begins.new_tensor([batch * length])])
    mask.sequences, mask.packed = packed_sequences(bounds), True
    mask.max_len = int(bounds.diff().max())
