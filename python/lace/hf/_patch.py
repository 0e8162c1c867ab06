"""Models that do not ask the attention interface."""

from __future__ import annotations

from typing import TypeVar

import torch

from .._library import NotSupportedError

Model = TypeVar("Model", bound=torch.nn.Module)


def patch(model: Model) -> Model:
    """Not yet."""
    raise NotSupportedError("[lace.hf.patch] no model is known")
