"""The compiled library, the errors, and what its kernels can do."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

import torch


class Error(RuntimeError):
    """A wrong argument, named before any work is done: ``[operation] rule, got value``.

    Errors of the compiled library come as ``RuntimeError`` with the same kind of text, so that
    ``except RuntimeError`` takes both.
    """


class NotSupportedError(Error, NotImplementedError):
    """Something that this version does not compute; it never computes something else instead."""


def _load() -> Path | None:
    """Loads the library of this package, unless the operation is there already.

    ``LACE_LIBRARY=path`` names another one. Else it is ``_C_cuda.so`` where torch has CUDA and the
    package has that file, and ``_C.so`` otherwise.
    """
    if hasattr(torch.ops.lace, "attention"):
        return None
    if not re.match(r"2\.11(\.|$)", torch.__version__):
        raise ImportError(
            f"lace needs torch 2.11, whose ABI it was built for, got {torch.__version__}"
        )
    given = os.environ.get("LACE_LIBRARY")
    here = Path(__file__).parent
    names = ["_C_cuda.so", "_C.so"] if torch.version.cuda else ["_C.so"]
    paths = [Path(given)] if given else [here / name for name in names]
    for path in paths:
        if path.exists():
            torch.ops.load_library(str(path))
            return path
    raise ImportError(f"lace: there is no compiled library at {' or '.join(map(str, paths))}")


library_path = _load()


_warned: set[str] = set()


def warn_once(message: str) -> None:
    """A warning that a process sees once, whoever calls."""
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, UserWarning, stacklevel=3)
