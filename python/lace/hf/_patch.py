"""Models whose attention does not ask the interface: their modules become subclasses that do.

Longformer (arXiv:2004.05150) and BigBird (arXiv:2007.14062) of transformers.
"""

from __future__ import annotations

import functools
from typing import Any, TypeVar

import torch

from .._attention import attention
from .._library import Error, warn_once
from .._pattern import Pattern

Tensor = torch.Tensor
Model = TypeVar("Model", bound=torch.nn.Module)


def patch(model: Model) -> Model:
    """Puts lace under the self-attention of a Longformer or BigBird model, in place.

    Parameters, their names and the results stay as they are; attention weights are not returned.
    Where they are asked for, with attention dropout in training, and with padding that is not on
    the right, the modules compute as before, with one warning. Raises lace.Error if the model has
    no such module.
    """
    replacements = _replacements()
    count = 0
    for module in model.modules():
        replacement = replacements.get(type(module))
        if replacement is not None:
            module.__class__ = replacement
            count += 1
    if count == 0:
        raise Error(
            "[lace.hf.patch] model must have Longformer's or BigBird's block-sparse attention, "
            f"got {type(model).__name__}; others take attn_implementation"
        )
    return model


def _fall_back(name: str, reason: str) -> None:
    warn_once(f"lace.hf.patch: {reason}: {name} computes its attention as without lace")


@functools.cache
def _replacements() -> dict[type, type]:
    """The class of transformers, and what it becomes. transformers is imported here."""
    import numpy as np
    from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    class LaceLongformerSelfAttention(LongformerSelfAttention):  # type: ignore[misc]
        def forward(
            self,
            hidden_states: Tensor,
            attention_mask: Tensor | None = None,
            is_index_masked: Tensor | None = None,
            is_index_global_attn: Tensor | None = None,
            is_global_attn: bool | None = None,
            output_attentions: bool = False,
        ) -> Any:
            reason = ""
            if output_attentions:
                reason = "attention weights are asked for"
            elif self.training and self.dropout > 0:
                reason = "dropout of attention weights"
            lens, padding = _right_padding(None if is_index_masked is None else ~is_index_masked)
            reason = reason or padding
            if reason:
                _fall_back("Longformer", reason)
                return super().forward(
                    hidden_states,
                    attention_mask,
                    is_index_masked,
                    is_index_global_attn,
                    is_global_attn,
                    output_attentions,
                )
            batches = [_global_tokens(is_index_global_attn, b) for b in range(len(hidden_states))]
            if all(tokens == batches[0] for tokens in batches):
                return (_longformer(self, hidden_states, batches[0], lens),)
            parts = []
            for b, tokens in enumerate(batches):
                one = slice(b, b + 1)
                own = None if lens is None else lens[one]
                parts.append(_longformer(self, hidden_states[one], tokens, own))
            return (torch.cat(parts),)

    class LaceBigBirdBlockSparseAttention(BigBirdBlockSparseAttention):  # type: ignore[misc]
        def forward(
            self,
            hidden_states: Tensor,
            band_mask: Tensor | None = None,
            from_mask: Tensor | None = None,
            to_mask: Tensor | None = None,
            from_blocked_mask: Tensor | None = None,
            to_blocked_mask: Tensor | None = None,
            **kwargs: Any,
        ) -> Any:
            reason = ""
            drawn = _draw(self, hidden_states.shape[1], np) if self.training else None
            if kwargs.get("output_attentions"):
                reason = "attention weights are asked for"
            elif drawn is not None and bool((drawn > 1).any()):
                reason = "random blocks that are drawn twice"
            lens, padding = _right_padding(None if to_mask is None else to_mask[:, 0, 0] == 1)
            reason = reason or padding
            if reason:
                _fall_back("BigBird", reason)
                return super().forward(
                    hidden_states,
                    band_mask,
                    from_mask,
                    to_mask,
                    from_blocked_mask,
                    to_blocked_mask,
                    **kwargs,
                )
            return _big_bird(self, hidden_states, drawn, lens), None

    return {
        LongformerSelfAttention: LaceLongformerSelfAttention,
        BigBirdBlockSparseAttention: LaceBigBirdBlockSparseAttention,
    }


def _right_padding(live: Tensor | None) -> tuple[Tensor | None, str]:
    """How many tokens each batch element has, of live [batch, seq_len]: None for all of them; or
    why they are not its first ones."""
    if live is None or bool(live.all()):
        return None, ""
    lens = live.sum(dim=1)
    if bool((live != (torch.arange(live.shape[1], device=live.device) < lens[:, None])).any()):
        return None, "padding that is not on the right"
    return lens, ""


def _heads(x: Tensor, heads: int) -> Tensor:
    """[batch, seq_len, heads · head_dim] as [batch, heads, seq_len, head_dim]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _merged(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _global_tokens(is_global: Tensor | None, batch: int) -> list[int]:
    if is_global is None:
        return []
    tokens: list[int] = is_global[batch].nonzero()[:, 0].tolist()
    return tokens


def _longformer(module: Any, x: Tensor, tokens: list[int], lens: Tensor | None) -> Tensor:
    """A window, and global tokens: every row sees them; their own rows have other projections and
    see everything. x [batch, seq_len, dim] of equal global tokens; lens [batch] or None: all."""
    q, k, v = (
        _heads(project(x), module.num_heads) for project in (module.query, module.key, module.value)
    )
    window = f"local({2 * module.one_sided_attn_window_size})"
    if not tokens:
        return _merged(attention(q, k, v, f"bidirectional({window})", k_lens=lens))
    if tokens == list(range(len(tokens))):  # columns alone: their rows are computed below
        columns = f"sinks({len(tokens)})"
    else:
        columns = "global{" + ", ".join(f"{t}..{t}" for t in tokens) + "}"
    out = _merged(attention(q, k, v, f"bidirectional({window} | {columns})", k_lens=lens))
    rows = torch.tensor(tokens, device=x.device)
    q = _heads(module.query_global(x[:, rows]), module.num_heads)
    k, v = (_heads(p(x), module.num_heads) for p in (module.key_global, module.value_global))
    start = None if lens is None else 0  # any positions that are none of padding
    dense = attention(q, k, v, "bidirectional(dense)", k_lens=lens, q_start=start)
    return out.index_copy(1, rows, _merged(dense))


def _draw(module: Any, seq_len: int, np: Any) -> Tensor:
    """How often each block of keys counts for each block of queries: [heads, blocks, blocks].

    Draws as the module does, from numpy's global generator, which it seeds.
    """
    size, count, heads = module.block_size, module.num_random_blocks, module.num_attention_heads
    blocks = seq_len // size
    np.random.seed(module.seed)
    if seq_len in (1024, 3072, 4096):  # "old plans used in paper"
        length = module.max_seqlen
        drawn = [
            module._bigbird_block_rand_mask(length, length, size, size, count, last_idx=1024)
            for _ in range(heads)
        ]
        drawn = [one[: blocks - 2] for one in drawn]
    else:
        lengths, counts = module._get_rand_attn_plan(seq_len, size, count)
        drawn = module._bigbird_block_rand_mask_with_head(
            from_seq_length=seq_len,
            to_seq_length=seq_len,
            from_block_size=size,
            to_block_size=size,
            num_heads=heads,
            plan_from_length=lengths,
            plan_num_rand_blocks=counts,
        )
    times = torch.zeros(heads, blocks, blocks, dtype=torch.long)
    middle = torch.tensor(np.stack(drawn), dtype=torch.long)
    times[:, 1:-1].scatter_add_(-1, middle, torch.ones_like(middle))
    block = torch.arange(blocks)
    window = (block[:, None] - block).abs() <= 1
    window[:, 0] = window[:, -1] = True
    times += window
    times[:, 0] = times[:, -1] = 1
    return times


def _big_bird(module: Any, x: Tensor, drawn: Tensor | None, lens: Tensor | None) -> Tensor:
    """drawn: as _draw, each at most once; None: not training, where all random blocks are block 0,
    which so counts 1 + num_random_blocks times for all rows but the first and last block's."""
    size, heads, n = module.block_size, module.num_attention_heads, x.shape[1]
    q, k, v = (_heads(project(x), heads) for project in (module.query, module.key, module.value))
    if drawn is not None:
        pattern = Pattern.from_blocks(drawn > 0, size, causal=False)
        return _merged(attention(q, k, v, pattern, k_lens=lens))
    edges = f"global{{0..{size - 1}, {n - size}..{n - 1}}}"
    pattern = Pattern(f"bidirectional(local(3, {size}) | {edges})")
    out, lse = attention(q, k, v, pattern, k_lens=lens, return_lse=True)
    if module.num_random_blocks == 0:
        return _merged(out)
    first_block = f"bidirectional(sinks({size}))"
    again, again_lse = attention(q, k, v, first_block, k_lens=lens, return_lse=True)
    times = torch.full((n,), float(module.num_random_blocks), device=x.device)
    times[:size] = times[-size:] = 0
    again_lse = again_lse + times.log()
    lse = lse.masked_fill(lse == -torch.inf, 0)  # a row of padding: 0 of both
    both = torch.logaddexp(lse, again_lse)
    first, second = ((part - both).exp()[..., None].to(out.dtype) for part in (lse, again_lse))
    return _merged(out * first + again * second)
