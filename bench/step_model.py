"""The model of a recipe as a PyTorch user writes it, and the masks of its patterns."""

import itertools
import re

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

# By an atom's name: whether query i attends to key j in a head, causality aside.
KEPT = {
    "dense": lambda h, i, j: j <= i,
    "local": lambda h, i, j, w: i - j < w,
    "block": lambda h, i, j, l: i // l == j // l,
    "strided": lambda h, i, j, l: (i - j) % l == 0,
    "summary": lambda h, i, j, l, c, s=0: (j % l >= l - c * (s + 1)) & (j % l < l - c * s),
    "fixed": lambda h, i, j, l, c, v: (i // l == j // l) | KEPT["summary"](h, i, j, l, c, h % v),
}


def keep(pattern):
    """(head, i, j) -> bool of a causal union of KEPT's atoms (docs/design.md has them by name)."""
    atoms = []
    for text in pattern.split("|"):
        match = re.fullmatch(r"\s*(\w+)(?:\(([\d,\s]+)\))?\s*", text)
        if match is None or match[1] not in KEPT:
            raise ValueError(f"only unions of {', '.join(KEPT)} are known here, got {pattern}")
        atoms.append((KEPT[match[1]], [int(number) for number in (match[2] or "").split(",")
                                       if number]))

    def kept(h, i, j):
        live = j <= i
        found = atoms[0][0](h, i, j, *atoms[0][1])
        for atom, numbers in atoms[1:]:
            found = found | atom(h, i, j, *numbers)
        return live & found
    return kept


def is_dense(pattern):
    return pattern.strip() == "dense"


def differs_by_head(pattern):
    return "fixed" in pattern


class Block(nn.Module):
    """attend: (q, k, v) [batch, heads, n, head_dim] -> out, the same."""

    def __init__(self, config, attend):
        super().__init__()
        d, heads = config["d_model"], config["heads"]
        self.attend = attend
        self.dropout = config["dropout"]
        self.head_dims = [config["qk_dim"] // heads] * 2 + [config["v_dim"] // heads]
        kv_heads = config["kv_heads"]
        self.widths = [heads * self.head_dims[0], kv_heads * self.head_dims[1],
                       kv_heads * self.head_dims[2]]
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv = nn.Linear(d, sum(self.widths))
        self.proj = nn.Linear(config["v_dim"], d)
        self.up = nn.Linear(d, config["ff_multiple"] * d)
        self.down = nn.Linear(config["ff_multiple"] * d, d)

    def drop(self, x):
        return F.dropout(x, self.dropout) if self.dropout > 0 else x

    def forward(self, x):
        batch, n, _ = x.shape
        q, k, v = (part.view(batch, n, -1, dim).transpose(1, 2) for part, dim in
                   zip(self.qkv(self.norm1(x)).split(self.widths, dim=-1), self.head_dims))
        out = self.attend(q, k, v)
        x = x + self.drop(self.proj(out.transpose(1, 2).reshape(batch, n, -1)))
        hidden = self.up(self.norm2(x))
        return x + self.drop(self.down(hidden * torch.sigmoid(1.702 * hidden)))


def position_indices(config):
    """The row of each position table, for every position."""
    i = torch.arange(config["seq_len"])
    if config["positions"] == "text":
        return [i // config["position_stride"], i % config["position_stride"]]
    channels, width = config["image_channels"], config["image_width"]
    return [i // (channels * width), i // channels % width, i % channels]


class Model(nn.Module):
    """attends: one function of a Block a layer, cycled over the layers."""

    def __init__(self, config, attends):
        super().__init__()
        d = config["d_model"]
        self.recompute = config["recompute"]
        self.token = nn.Embedding(config["vocab"], d)
        indices = position_indices(config)
        self.positions = nn.ModuleList(nn.Embedding(int(index.max()) + 1, d) for index in indices)
        self.register_buffer("indices", torch.stack(indices))
        self.start = nn.Parameter(torch.zeros(1, 1, d))
        self.blocks = nn.ModuleList(
            Block(config, attend)
            for _, attend in zip(range(config["layers"]), itertools.cycle(attends)))
        self.norm = nn.LayerNorm(d)
        self.out = nn.Linear(d, config["vocab"], bias=False)
        if config["tied"]:
            self.out.weight = self.token.weight

    def forward(self, tokens):
        x = self.token(tokens)
        for table, index in zip(self.positions, self.indices):
            x = x + table(index)
        x = torch.cat([self.start.expand(x.shape[0], 1, -1), x[:, :-1]], dim=1)
        for block in self.blocks:
            if self.recompute:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return self.out(self.norm(x))


def masked_attention(pattern, config):
    """scaled_dot_product_attention with the pattern as a boolean mask."""
    mask = None
    if not is_dense(pattern):
        i = torch.arange(config["seq_len"])
        heads = torch.arange(config["heads"])[:, None, None]
        mask = keep(pattern)(heads, i[:, None], i[None, :])
    return lambda q, k, v: F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=q.shape[1] != k.shape[1])
