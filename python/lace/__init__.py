"""Sparse attention from one line of text, exact, forward and backward.

>>> import torch, lace
>>> q, k, v = torch.randn(3, 2, 8, 4096, 64)  # each [batch, heads, seq_len, head_dim]
>>> out = lace.attention(q, k, v, "local(256) | sinks(4)")

``lace.nn`` has a layer, ``lace.hf`` stands in models of transformers; docs/python.md tells of all.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from ._library import Error, NotSupportedError, library_path
from ._attention import attention, packed_sequences, padded_sequences, varlen_attention
from ._block_masks import live_blocks
from ._explain import Explanation, explain
from ._flex import flex_attention
from ._pattern import Pattern
from ._sdpa import scaled_dot_product_attention
from . import nn

_version: dict[str, str] = json.loads(torch.ops.lace.version())
__version__ = _version["version"]
__commit__ = _version["commit"]


def attention_kernel(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> str:
    """The name of the kernel that ``attention(q, k, v, …)`` would run now."""
    name: str = torch.ops.lace.attention_kernel(q, k, v)
    return name


def __getattr__(name: str) -> Any:
    if name == "hf":  # which imports nothing of transformers before it is asked to
        import importlib

        return importlib.import_module("lace.hf")
    raise AttributeError(f"module 'lace' has no attribute {name!r}")


__all__ = [
    "Error",
    "Explanation",
    "NotSupportedError",
    "Pattern",
    "attention",
    "attention_kernel",
    "explain",
    "flex_attention",
    "library_path",
    "live_blocks",
    "nn",
    "packed_sequences",
    "padded_sequences",
    "scaled_dot_product_attention",
    "varlen_attention",
]
