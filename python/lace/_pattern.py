"""Patterns as values: text in, text out; masks of tensors among them."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

import torch

from ._library import Error


class Pattern:
    """Which queries attend to which keys. Immutable; equal if the canonical texts are.

    >>> Pattern("local(256)") | "sinks(4)"
    Pattern('local(256) | sinks(4)')

    Atoms: ``dense``, ``local(w)``, ``block(l)``, ``strided(l)``, ``summary(l, c)``,
    ``fixed(l, c, v)``, ``dilated(w, d)``, ``global(g)``, ``sinks(s)``, ``random(r, b, seed)``,
    ``mask(file)``; ``|`` joins, ``&`` intersects and binds tighter; outermost only,
    ``bidirectional(p)`` and ``heads(4*p, 4*q)``. docs/design.md, "Patterns, by name", defines them.

    Raises RuntimeError with the text and a caret under the character that is wrong.
    """

    __slots__ = ("_causal", "_heads", "_text")

    def __init__(self, text: str | Pattern) -> None:
        if isinstance(text, Pattern):
            text = text.text
        if not isinstance(text, str):
            raise Error(f"[pattern] a pattern is a text, got {type(text).__name__}")
        info: dict[str, Any] = json.loads(torch.ops.lace.pattern_info(text))
        self._text: str = info["text"]
        self._causal: bool = info["causal"]
        self._heads: int = info["heads"]

    @property
    def text(self) -> str:
        """The canonical text."""
        return self._text

    @property
    def causal(self) -> bool:
        """Whether queries see keys up to their own position only: not ``bidirectional(…)``."""
        return self._causal

    @property
    def heads(self) -> int:
        """The fewest heads that show all of it: counts of ``heads(…)``, stripes, masks."""
        return self._heads

    def bidirectional(self) -> Pattern:
        """The two-sided pattern of the same text."""
        return Pattern(f"bidirectional({self._text})")

    @staticmethod
    def per_head(entries: Sequence[tuple[int, str | Pattern]]) -> Pattern:
        """``heads(…)``: each pattern with the number of heads that have it, in their order."""
        return Pattern("heads(" + ", ".join(f"{n}*{_inner(p)}" for n, p in entries) + ")")

    @staticmethod
    def from_blocks(live: torch.Tensor, block_size: int, *, causal: bool = True) -> Pattern:
        """The block mask of a tensor.

        live: bool ``[blocks, blocks]`` or ``[heads or 1, blocks, blocks]``, queries by keys, on any
        device. block_size: positions a block. Beyond ``blocks · block_size`` nothing is live.

        The tensor is read now and on the host; its content is kept for this process alone (as a
        ``mask(file)`` in a temporary folder), so that the pattern's text means nothing elsewhere.
        """
        if live.dtype != torch.bool or live.dim() not in (2, 3) or live.shape[-1] != live.shape[-2]:
            raise Error(
                "[from_blocks] live must be bool [heads or 1, blocks, blocks], got "
                f"{live.dtype} of the shape {list(live.shape)}"
            )
        if block_size < 1:
            raise Error(f"[from_blocks] block_size must be positive, got {block_size}")
        text = f'mask("{_mask_file(live, block_size)}")'
        return Pattern(text if causal else f"bidirectional({text})")

    def mask(self, q_len: int, k_len: int | None = None, heads: int | None = None) -> torch.Tensor:
        """The live pairs: bool ``[heads, q_len, k_len]`` on the CPU, by the pattern's definition.

        With fewer queries than keys the queries are the last of the positions. Takes
        heads · q_len · k_len bytes: for looking and for tests.
        """
        k_len = q_len if k_len is None else k_len
        mask: torch.Tensor = torch.ops.lace.pattern_mask(
            self._text, self._heads if heads is None else heads, q_len, k_len
        )
        return mask

    def __or__(self, other: str | Pattern) -> Pattern:
        return Pattern(f"{self._text} | {Pattern(other).text}")

    def __ror__(self, other: str) -> Pattern:
        return Pattern(other) | self

    def __and__(self, other: str | Pattern) -> Pattern:
        return Pattern(f"({self._text}) & ({Pattern(other).text})")

    def __rand__(self, other: str) -> Pattern:
        return Pattern(other) & self

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Pattern({self._text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> tuple[type[Pattern], tuple[str]]:
        return Pattern, (self._text,)


def _inner(pattern: str | Pattern) -> str:
    text = Pattern(pattern).text
    return f"({text})" if "|" in text or "&" in text else text


def pattern_text(pattern: str | Pattern) -> str:
    """What the operation takes. A text is parsed by the operation itself."""
    if isinstance(pattern, str):
        return pattern
    if isinstance(pattern, Pattern):
        return pattern.text
    raise Error(
        f"[attention] pattern must be a text or a lace.Pattern, got {type(pattern).__name__}"
    )


_folder: str | None = None
_folder_process = -1


def _mask_file(live: torch.Tensor, block_size: int) -> str:
    """A safetensors file of the block mask in a folder of this process, named by its content."""
    global _folder, _folder_process
    if _folder is None or _folder_process != os.getpid():  # not a parent's, which removes its own
        _folder, _folder_process = tempfile.mkdtemp(prefix="lace-masks-"), os.getpid()
        atexit.register(_remove_folder, _folder, _folder_process)
    live = live if live.dim() == 3 else live[None]
    content = live.detach().to("cpu").contiguous().numpy().tobytes()
    header = json.dumps(
        {
            "__metadata__": {"block_size": str(block_size)},
            "mask": {
                "dtype": "BOOL",
                "shape": list(live.shape),
                "data_offsets": [0, len(content)],
            },
        }
    ).encode()
    data = len(header).to_bytes(8, "little") + header + content
    path = os.path.join(_folder, hashlib.sha256(data).hexdigest()[:32] + ".safetensors")
    if not os.path.exists(path):
        with open(path + ".part", "wb") as file:
            file.write(data)
        os.replace(path + ".part", path)
    return path


def _remove_folder(folder: str, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)
