"""lace in models of transformers.

>>> import lace
>>> lace.hf.register()
>>> model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="lace")

``register`` serves every model that asks transformers' attention interface; ``patch`` serves
Longformer and BigBird, which do not. Tested with transformers 5.24.
"""

from __future__ import annotations

from ._attention import attention_forward
from ._masks import LaceMask, make_mask
from ._patch import patch


def register(name: str = "lace") -> None:
    """Makes ``attn_implementation=name`` known to transformers, for models made before or after.

    The pattern of each layer is read off the mask functions of transformers: causal, sliding
    windows, chunks, two-sided windows, and what the cache has dropped. What cannot be read, or is
    not computed by this version of lace (docs/python.md lists it), goes to a real mask and torch's
    attention, with one warning for each reason.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(name, attention_forward)
    AttentionMaskInterface.register(name, make_mask)


__all__ = ["LaceMask", "attention_forward", "make_mask", "patch", "register"]
