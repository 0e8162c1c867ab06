"""The model of a recipe as a PyTorch user writes it, and the masks of its patterns."""

import itertools
import math
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


def rotary_turns(config):
    """cos and sin [2, n, head_dim / 2] of the angles that pairs of a head's dimensions turn by."""
    rotary = config["rotary"]
    if rotary["scaling"] != "none":
        raise ValueError(f"rotary positions are not scaled here, got {rotary['scaling']}")
    half = config["qk_dim"] // config["heads"] // 2
    frequencies = rotary["base"] ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(config["seq_len"], dtype=torch.float64)[:, None] * frequencies
    return torch.stack([angles.cos(), angles.sin()]).float()


def rotate(x, turns):
    """x [batch, heads, n, head_dim]: dimensions d and d + head_dim / 2 are a pair."""
    (cos, sin), (a, b) = turns, x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)


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
        eps = config.get("block_norm_eps", 1e-5)
        self.norm1, self.norm2 = nn.LayerNorm(d, eps), nn.LayerNorm(d, eps)
        self.qkv = nn.Linear(d, sum(self.widths))
        self.proj = nn.Linear(config["v_dim"], d)
        self.up = nn.Linear(d, config["ff_multiple"] * d)
        self.down = nn.Linear(config["ff_multiple"] * d, d)

    def drop(self, x):
        return F.dropout(x, self.dropout, self.training) if self.dropout > 0 else x

    def forward(self, x, turns=None):
        batch, n, _ = x.shape
        q, k, v = (part.view(batch, n, -1, dim).transpose(1, 2) for part, dim in
                   zip(self.qkv(self.norm1(x)).split(self.widths, dim=-1), self.head_dims))
        if turns is not None:
            q, k = rotate(q, turns), rotate(k, turns)
        out = self.attend(q, k, v)
        x = x + self.drop(self.proj(out.transpose(1, 2).reshape(batch, n, -1)))
        hidden = self.up(self.norm2(x))
        return x + self.drop(self.down(hidden * torch.sigmoid(1.702 * hidden)))


def position_indices(config):
    """The row of each position table, for every position; none with rotary positions."""
    i = torch.arange(config["seq_len"])
    if config["positions"] == "rotary":
        return []
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
        rotary = config["positions"] == "rotary"
        self.register_buffer("indices", None if rotary else torch.stack(indices))
        self.register_buffer("turns", rotary_turns(config) if rotary else None)
        self.start = nn.Parameter(torch.zeros(1, 1, d))
        self.blocks = nn.ModuleList(
            Block(config, attend)
            for _, attend in zip(range(config["layers"]), itertools.cycle(attends)))
        self.norm = nn.LayerNorm(d, config.get("final_norm_eps", 1e-6))
        self.out = nn.Linear(d, config["vocab"], bias=False)
        if config["tied"]:
            self.out.weight = self.token.weight

    def forward(self, tokens):
        x = self.token(tokens)
        for i, table in enumerate(self.positions):
            x = x + table(self.indices[i])
        x = torch.cat([self.start.expand(x.shape[0], 1, -1), x[:, :-1]], dim=1)
        for block in self.blocks:
            if self.recompute:
                x = checkpoint(block, x, self.turns, use_reentrant=False)
            else:
                x = block(x, self.turns)
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


# ---- the same parameters as lace's ---------------------------------------------------------------

PARTS = {"tok": "token.weight", "sos": "start", "pos": "positions", "ln1": "norm1", "ln2": "norm2",
         "ff1": "up", "ff2": "down", "ln_f": "norm"}


def named_as_in_lace(model):
    """{"blocks.0.ln1.weight": parameter, …}: by lace's names, which src/model/config.cpp has."""
    theirs = {part: name for name, part in PARTS.items()}

    def name(mine):
        if mine in theirs:
            return theirs[mine]
        words = [theirs.get(word, word) for word in mine.split(".")]
        return ".".join(words[:2]) if words[0] == "pos" else ".".join(words)
    return {name(mine): parameter for mine, parameter in model.named_parameters()}


def set_start_values(model, tensors, seed):
    """tensors: what `lace model --json` tells of each: name, shape and init_std."""
    parameters = named_as_in_lace(model)
    if set(parameters) != {tensor["name"] for tensor in tensors}:
        raise ValueError("lace and PyTorch have other parameters: " + ", ".join(
            sorted(set(parameters) ^ {tensor["name"] for tensor in tensors})))
    torch.manual_seed(seed)
    with torch.no_grad():
        for tensor in tensors:
            parameter, words = parameters[tensor["name"]], tensor["name"].split(".")
            if parameter.numel() != math.prod(tensor["shape"]):
                raise ValueError(f"{tensor['name']} is {tensor['shape']} in lace, "
                                 f"{list(parameter.shape)} in PyTorch")
            if tensor["init_std"] > 0:
                parameter.normal_(0, tensor["init_std"])
            else:
                norm = words[-2].startswith("ln") and words[-1] == "weight"
                parameter.fill_(1 if norm else 0)
