"""Layers: sparse self-attention with its projections, and rotary positions."""

from __future__ import annotations

import torch
from torch import nn

from ._attention import attention, varlen_attention
from ._library import Error
from ._pattern import Pattern

Tensor = torch.Tensor


class Rotary(nn.Module):
    """Rotary positions (Su et al., arXiv:2104.09864) on the two halves of a head, as in Llama.

    head_dim: even. base: theta. Cosines and sines are computed in float32 for the positions of each
    call; nothing is stored but ``base``.
    """

    def __init__(self, head_dim: int, base: float = 10000.0) -> None:
        super().__init__()
        if head_dim < 2 or head_dim % 2 != 0:
            raise Error(f"[Rotary] head_dim must be even, got {head_dim}")
        self.head_dim = head_dim
        self.base = base

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """x: [batch, heads, seq_len, head_dim]; positions: [seq_len] or [batch, seq_len]."""
        half = self.head_dim // 2
        exponents = torch.arange(half, device=x.device, dtype=torch.float32) / half
        angles = positions[..., None].float() * self.base**-exponents
        if angles.dim() == 3:
            angles = angles[:, None]
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    def extra_repr(self) -> str:
        return f"{self.head_dim}, base={self.base}"


class SparseSelfAttention(nn.Module):
    """Multi-head self-attention of one pattern: projections, rotary positions, lace.attention.

    ::

        x    [batch, seq_len, dim]     out  [batch, seq_len, dim]

    dim: width of the model. heads: of the queries, which divide dim unless head_dim is given.
    pattern: a text or lace.Pattern. kv_heads: heads of keys and values; default heads. rotary:
    None for no positions; True or a base (theta); or a module called as Rotary is. bias: of the
    projections. Raises lace.Error if an argument breaks a rule.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        pattern: str | Pattern,
        *,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        rotary: bool | float | nn.Module | None = None,
        bias: bool = False,
        scale: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        if heads < 1 or kv_heads < 1 or heads % kv_heads != 0:
            raise Error(
                f"[SparseSelfAttention] heads must be a multiple of kv_heads, got {heads} and "
                f"{kv_heads}"
            )
        if head_dim is None and dim % heads != 0:
            raise Error(f"[SparseSelfAttention] heads must divide dim, got {heads} and {dim}")
        self.heads, self.kv_heads = heads, kv_heads
        self.head_dim = dim // heads if head_dim is None else head_dim
        self.pattern = Pattern(pattern)
        if heads % self.pattern.heads != 0:
            raise Error(
                f"[SparseSelfAttention] the pattern tells {self.pattern.heads} heads apart, which "
                f"do not divide {heads}"
            )
        self.scale = scale
        self.rotary: nn.Module | None
        if isinstance(rotary, nn.Module):
            self.rotary = rotary
        elif rotary is None or rotary is False:
            self.rotary = None
        else:
            self.rotary = Rotary(self.head_dim, 10000.0 if rotary is True else float(rotary))
        options = {"bias": bias, "device": device, "dtype": dtype}
        width = (heads + 2 * kv_heads) * self.head_dim
        self.qkv = nn.Linear(dim, width, **options)  # type: ignore[arg-type]
        self.out = nn.Linear(heads * self.head_dim, dim, **options)  # type: ignore[arg-type]

    def forward(
        self,
        x: Tensor,
        *,
        k_lens: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """x: [batch, seq_len, dim]; with cu_seqlens [1, total, dim], packed documents.

        k_lens: [batch], positions of each element that count. positions: of the rotary module,
        [seq_len] or [batch, seq_len]; default from 0, in each document anew.
        """
        if x.dim() != 3:
            raise Error(
                f"[SparseSelfAttention] x must have the shape [batch, seq_len, dim], got "
                f"{list(x.shape)}"
            )
        batch, seq_len, _ = x.shape
        if cu_seqlens is not None and batch != 1:
            raise Error(
                f"[SparseSelfAttention] packed documents are one batch element, got {batch}"
            )
        counts = [self.heads, self.kv_heads, self.kv_heads]
        packed = self.qkv(x).view(batch, seq_len, sum(counts), self.head_dim).transpose(1, 2)
        q, k, v = packed.split(counts, dim=1)
        if self.rotary is not None:
            if positions is None:
                positions = _positions(seq_len, cu_seqlens, x.device)
            q, k = self.rotary(q, positions), self.rotary(k, positions)
        if cu_seqlens is not None:
            if k_lens is not None:
                raise Error("[SparseSelfAttention] k_lens and cu_seqlens exclude each other")
            q, k, v = (tensor[0].transpose(0, 1) for tensor in (q, k, v))  # no copies
            out = varlen_attention(q, k, v, self.pattern, cu_seqlens, scale=self.scale)
            assert isinstance(out, Tensor)
            merged = out.reshape(1, seq_len, -1)
        else:
            out = attention(q, k, v, self.pattern, scale=self.scale, k_lens=k_lens)
            merged = out.transpose(1, 2).reshape(batch, seq_len, -1)
        result: Tensor = self.out(merged)
        return result

    def extra_repr(self) -> str:
        return f"heads={self.heads}, kv_heads={self.kv_heads}, pattern={self.pattern.text!r}"


def _positions(seq_len: int, cu_seqlens: Tensor | None, device: torch.device) -> Tensor:
    """From 0; in packed documents from 0 in each."""
    positions = torch.arange(seq_len, device=device)
    if cu_seqlens is None:
        return positions
    document = torch.searchsorted(cu_seqlens, positions, right=True) - 1
    return positions - cu_seqlens[document]
