"""What a pattern costs, how far it reaches, and its picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch

from ._pattern import Pattern


class Explanation:
    """The figures of ``lace explain``. ``figures`` has all of them, named as docs/json.md does; the
    commonest are attributes. In a notebook it shows the picture; ``print`` shows a summary.
    """

    def __init__(self, figures: dict[str, Any], svg: str) -> None:
        self.figures = figures
        self.svg = svg
        self.patterns = [Pattern(text) for text in figures["patterns"]]

    @property
    def seq_len(self) -> int:
        return int(self.figures["seq_len"])

    @property
    def heads(self) -> int:
        return int(self.figures["heads"])

    @property
    def live_pairs(self) -> int:
        """(query, key) pairs, summed over the heads, and the layers of a cycle."""
        return int(self.figures["live_pairs"])

    @property
    def computed_pairs(self) -> int:
        """Pairs of the whole tiles that forward computes."""
        return int(self.figures["computed_pairs"])

    @property
    def waste(self) -> float:
        """computed_pairs / live_pairs, forward."""
        return float(self.figures["waste"])

    @property
    def saved(self) -> float:
        """The part of dense attention's pairs that is not live."""
        return float(self.figures["saved"])

    @property
    def mean_keys(self) -> float:
        """Live keys of a query."""
        return float(self.figures["mean_keys"])

    @property
    def max_keys(self) -> int:
        return int(self.figures["max_keys"])

    @property
    def layers_to_full_reach(self) -> int | None:
        """Layers after which every earlier position can influence every query; None: never."""
        layers = self.figures["layers_to_full_reach"]
        return None if layers is None else int(layers)

    def __str__(self) -> str:
        figures, reach = self.figures, self.layers_to_full_reach
        backward = figures["transposed"]
        return "\n".join(
            [
                *figures["patterns"],
                f"seq_len {self.seq_len:,}, heads {self.heads}",
                f"keys of a query   mean {self.mean_keys:.1f}, at most {self.max_keys:,}",
                f"saved of dense    {self.saved:.1%} of {figures['dense_pairs']:,} pairs; "
                f"{figures['saved_computed']:.1%} in whole tiles",
                f"waste             {self.waste:.2f} forward, {backward['waste']:.2f} backward",
                "full reach        "
                + ("never" if reach is None else f"after {reach} layer{'s' if reach > 1 else ''}"),
            ]
        )

    def __repr__(self) -> str:
        texts = ", ".join(repr(pattern.text) for pattern in self.patterns)
        return f"<lace.Explanation of {texts}, seq_len {self.seq_len}, heads {self.heads}>"

    def _repr_svg_(self) -> str:
        return self.svg


def explain(
    pattern: str | Pattern | Sequence[str | Pattern],
    seq_len: int,
    heads: int | None = None,
    *,
    layers: int | None = None,
    tile: tuple[int, int] = (128, 128),
) -> Explanation:
    """What a pattern costs and how far it reaches, before any attention runs.

    pattern: one, or the cycle of a stack of layers. heads: default as many as the patterns tell
    apart. layers: of the stack, for ``figures["full_reach"]``. tile: queries × keys, multiples of
    16 up to 256. Raises RuntimeError if an argument breaks a rule.
    """
    cycle = [pattern] if isinstance(pattern, (str, Pattern)) else list(pattern)
    texts = [Pattern(one).text for one in cycle]
    figures = torch.ops.lace.explain_json(texts, seq_len, heads or 0, list(tile), layers or 0)
    svg = torch.ops.lace.explain_svg(texts, seq_len, heads or 0)
    return Explanation(json.loads(figures), svg)
