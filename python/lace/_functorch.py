"""The operation under torch.func's transforms, which the compiled library's autograd does not take.

Its derivatives are written once more, around the same kernels, and vmap is a larger batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ._library import Error

Tensor = torch.Tensor


@dataclass(frozen=True)
class Call:
    """What a call has besides its tensors."""

    pattern: str
    scale: float | None
    deterministic: bool
    max_len: int | None
    softcap: float | None
    block_size: int | None

    def options(self) -> dict[str, Any]:
        names = ("scale", "deterministic", "max_len", "softcap", "block_size")
        return {name: getattr(self, name) for name in names}


def is_active() -> bool:
    """Whether a transform of torch.func is on."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


class Attention(torch.autograd.Function):
    """apply(q, k, v, sinks, sequences, block_mask, call): out and lse."""

    @staticmethod
    def forward(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sinks: Tensor | None,
        sequences: Tensor | None,
        block_mask: Tensor | None,
        call: Call,
    ) -> tuple[Tensor, Tensor]:
        more = {"sinks": sinks, "sequences": sequences, "block_mask": block_mask}
        out, lse = torch.ops.lace.attention(q, k, v, call.pattern, **more, **call.options())
        return out, lse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.call = inputs
        ctx.save_for_backward(*tensors, *output)

    @staticmethod
    def backward(ctx: Any, dout: Tensor, dlse: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        dq, dk, dv, dsinks = AttentionBackward.apply(dout, dlse, *saved, ctx.call)
        return dq, dk, dv, dsinks if saved[3] is not None else None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        raise Error(
            "[attention] forward-mode derivatives (torch.func.jvp, jacfwd) are not computed: use "
            "those of reverse mode (grad, vjp, jacrev)"
        )

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *inputs: Any
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        *tensors, call = inputs
        # Of sinks and of masks a batch has one, and packed rows are no batch.
        whole = _logical_dim(tensors[0], in_dims[0]) == 4 and in_dims[3] is in_dims[5] is None
        apply, shared = Attention.apply, (3, 5)
        results = _over_batch(apply, whole, info.batch_size, in_dims, tensors, shared, call)
        return (results[0], results[1]), (0, 0)


class AttentionBackward(torch.autograd.Function):
    """apply(dout, dlse, q, k, v, sinks, sequences, block_mask, out, lse, call): gradients of q, k,
    v and sinks."""

    @staticmethod
    def forward(
        dout: Tensor,
        dlse: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sinks: Tensor | None,
        sequences: Tensor | None,
        block_mask: Tensor | None,
        out: Tensor,
        lse: Tensor,
        call: Call,
    ) -> tuple[Tensor, ...]:
        more = {"sinks": sinks, "sequences": sequences, "block_mask": block_mask, "dlse": dlse}
        result: tuple[Tensor, ...] = torch.ops.lace.attention_backward(
            dout, q, k, v, out, lse.contiguous(), call.pattern, **more, **call.options()
        )
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise Error(
            "[attention] gradients of gradients are not computed: attention can be differentiated "
            "once"
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        AttentionBackward.backward(ctx)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *inputs: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        *tensors, call = inputs
        # The gradient of sinks is a sum over the batch, of which each mapped element has its own.
        whole = _logical_dim(tensors[2], in_dims[2]) == 4 and tensors[5] is None
        whole = whole and in_dims[7] is None
        apply = AttentionBackward.apply
        results = _over_batch(apply, whole, info.batch_size, in_dims, tensors, (7,), call)
        if whole:  # of no sinks
            results = [*results[:3], tensors[2].new_empty((info.batch_size, 0))]
        return tuple(results), (0, 0, 0, 0)


def _logical_dim(tensor: Tensor, mapped: int | None) -> int:
    return tensor.dim() - (mapped is not None)


def _over_batch(
    apply: Callable[..., tuple[Tensor, ...]],
    whole: bool,
    size: int,
    in_dims: tuple[int | None, ...],
    tensors: list[Tensor | None],
    shared: tuple[int, ...],
    call: Call,
) -> list[Tensor]:
    """apply over a mapped dimension of `size`, which comes first in the results: as one call of a
    batch that is so many times as large where `whole`, else one call after the other. shared: of
    the tensors those that have no batch."""
    if not whole:
        rows = []
        for element in range(size):
            one = [
                tensor if tensor is None or dim is None else tensor.select(dim, element)
                for tensor, dim in zip(tensors, in_dims)
            ]
            rows.append(apply(*one, call))
        return [torch.stack(column) for column in zip(*rows, strict=True)]
    folded = [
        tensor if tensor is None or place in shared else _fold(tensor, dim, size)
        for place, (tensor, dim) in enumerate(zip(tensors, in_dims))
    ]
    results = apply(*folded, call)
    return [result.unflatten(0, (size, result.shape[0] // size)) for result in results]


def _fold(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """[size, batch, …] as [size · batch, …]; of a tensor that is not mapped the same for each."""
    mapped = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    folded = mapped.flatten(0, 1)  # of a batch of 1 perhaps a view, whose rows are one
    return folded if tensor.is_floating_point() else folded.contiguous()  # a table
