"""Patterns for the fuzzer: written as text, and defined as masks. pattern_draw.py draws them.

The masks are written from docs/design.md, "Patterns, by name", and from nothing else of lace:
tensor expressions over the absolute positions i (queries) and j (keys).
"""

import json
import math
import struct
from dataclasses import dataclass, field

import torch

LARGEST = 2**31 - 1  # argument of an atom


# ---- what a mask is written over ----------------------------------------------------------------


class Positions:
    """i [q_len, 1] and j [1, k_len], absolute; head [heads, 1, 1], for atoms that ask for it."""

    def __init__(self, heads, q_len, k_len, two_sided, device):
        self.i = torch.arange(k_len - q_len, k_len, dtype=torch.int32, device=device)[:, None]
        self.j = torch.arange(k_len, dtype=torch.int32, device=device)[None, :]
        self.head = torch.tensor(heads, device=device)[:, None, None]
        self.k_len, self.two_sided, self.device = k_len, two_sided, device

    def near(self, distance, window):
        """Of positions or blocks of them: `window` in a row, the last of them its own."""
        if self.two_sided:
            return distance.abs() <= window // 2
        return distance < window


def either(masks):
    result = masks[0]
    for mask in masks[1:]:
        result = result | mask
    return result


def both(masks):
    result = masks[0]
    for mask in masks[1:]:
        result = result & mask
    return result


# ---- atoms: text(), and mask(positions) [q_len, k_len] or [heads, q_len, k_len] ------------------


@dataclass
class Dense:
    def text(self):
        return "dense"

    def mask(self, at):
        return at.i.new_ones(at.i.shape[0], at.j.shape[1], dtype=torch.bool)


@dataclass
class Local:
    window: int
    block: int = 1

    def text(self):
        return f"local({self.window})" if self.block == 1 else f"local({self.window}, {self.block})"

    def mask(self, at):
        return at.near(at.i // self.block - at.j // self.block, self.window)


@dataclass
class Block:
    length: int

    def text(self):
        return f"block({self.length})"

    def mask(self, at):
        return at.i // self.length == at.j // self.length


@dataclass
class Strided:
    length: int

    def text(self):
        return f"strided({self.length})"

    def mask(self, at):
        return (at.i - at.j) % self.length == 0


@dataclass
class Summary:
    length: int
    columns: int
    stripe: int = 0

    def text(self):
        stripe = f", {self.stripe}" if self.stripe else ""
        return f"summary({self.length}, {self.columns}{stripe})"

    def mask(self, at):
        last = self.length - self.columns * self.stripe
        column = at.j % self.length
        return ((last - self.columns <= column) & (column < last)).expand(at.i.shape[0], -1)


@dataclass
class Fixed:
    length: int
    columns: int
    stripes: int

    def text(self):
        return f"fixed({self.length}, {self.columns}, {self.stripes})"

    def mask(self, at):
        last = self.length - self.columns * (at.head % self.stripes)
        column = at.j % self.length
        summary = (last - self.columns <= column) & (column < last)
        return Block(self.length).mask(at) | summary


@dataclass
class Dilated:
    window: int
    dilation: int

    def text(self):
        return f"dilated({self.window}, {self.dilation})"

    def mask(self, at):
        distance = at.i - at.j
        if at.two_sided:
            near = distance.abs() <= min(self.window // 2 * self.dilation, LARGEST)
        else:
            near = distance < min(self.window * self.dilation, LARGEST)
        return near & (distance % self.dilation == 0)


@dataclass
class Global:
    ranges: list  # of (first, last); negative from the end
    count: bool = False  # written as global(count)

    def text(self):
        if self.count:
            return f"global({self.ranges[0][1] + 1})"
        tokens = [f"{a}" if a == b else f"{a}..{b}" for a, b in self.ranges]
        return "global{" + ", ".join(tokens) + "}"

    def mask(self, at):
        def is_token(position):
            inside = [
                (position >= (a if a >= 0 else a + at.k_len))
                & (position <= (b if b >= 0 else b + at.k_len))
                for a, b in self.ranges
            ]
            return either(inside)

        if at.two_sided:
            return is_token(at.j) | is_token(at.i)
        return is_token(at.j).expand(at.i.shape[0], -1)


@dataclass
class Sinks:
    count: int

    def text(self):
        return f"sinks({self.count})"

    def mask(self, at):
        return (at.j < self.count).expand(at.i.shape[0], -1)


@dataclass
class Random:
    blocks: int
    block: int
    seed: int

    def text(self):
        return f"random({self.blocks}, {self.block}, {self.seed})"

    def mask(self, at):
        table = random_table(self.blocks, self.seed, at.head.view(-1),
                             math.ceil(at.k_len / self.block), at.two_sided)  # fmt: skip
        rows = table[:, (at.i.view(-1) // self.block).long()]
        return rows[:, :, (at.j.view(-1) // self.block).long()]


@dataclass
class Mask:
    file: str
    live: torch.Tensor  # bool [heads or 1, blocks, blocks]
    block_size: int

    def text(self):
        plain = all(c.isascii() and (c.isalnum() or c in "_./~+@=-") for c in self.file)
        if plain:
            return f"mask({self.file})"
        return 'mask("' + self.file.replace("\\", "\\\\").replace('"', '\\"') + '")'

    def write(self):
        header = {
            "__metadata__": {"block_size": str(self.block_size)},
            "mask": {
                "dtype": "BOOL",
                "shape": list(self.live.shape),
                "data_offsets": [0, self.live.numel()],
            },
        }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(self.file, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.write(bytes(self.live.to(torch.uint8).flatten().tolist()))

    def mask(self, at):
        live = self.live.to(at.device)
        if live.shape[0] > 1:
            live = live[at.head.view(-1)]
        blocks = live.shape[1]
        i, j = (at.i.view(-1) // self.block_size).long(), (at.j.view(-1) // self.block_size).long()
        inside = (i < blocks)[:, None] & (j < blocks)[None, :]
        rows = live[:, i.clamp(max=blocks - 1)]
        return rows[:, :, j.clamp(max=blocks - 1)] & inside


# ---- random(r, b, seed): Philox4x32-10 (Salmon et al., SC'11) and Floyd's sampling --------------


def philox(counter, key):
    """Four words of counter and two of key, each an int64 tensor of 32-bit values, to four."""
    low = 0xFFFFFFFF
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # 32 × 32 bits fill 64, of which int64 keeps all, the top one as its sign.
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (p1 >> 32 & low) ^ c1 ^ k0, p1 & low, (p0 >> 32 & low) ^ c3 ^ k1, p0 & low
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return c0, c1, c2, c3


def random_table(blocks, seed, heads, count, two_sided):
    """Which of `count` blocks each block of queries draws: bool [heads, count, count]."""
    device = heads.device
    own = torch.arange(count, device=device)[None, :, None]
    choices = torch.full_like(own, count) if two_sided else own + 1  # m
    drawn = choices.clamp(max=blocks)  # r, or all that there are
    most = min(blocks, count)
    draw = torch.arange(most, device=device)[None, None, :]
    shape = (len(heads), count, most)
    counter = [
        word.to(torch.int64).expand(shape)
        for word in (own, draw, heads[:, None, None], torch.zeros_like(own))
    ]
    low, high, _, _ = philox(counter, (seed & 0xFFFFFFFF, seed >> 32))
    limit = choices - drawn + draw  # m − r + k
    # ⌊x (limit + 1) / 2⁶⁴⌋ for x = high · 2³² + low.
    value = (high * (limit + 1) + (low * (limit + 1) >> 32)) >> 32
    limit = limit.expand(shape)
    table = torch.zeros(len(heads), count, count, dtype=torch.bool, device=device)
    for k in range(most):
        pick, instead = value[:, :, k : k + 1], limit[:, :, k : k + 1]
        live = (k < drawn).expand(len(heads), count, 1)
        # Where nothing is drawn any more, any block will do, as it is set to what it is.
        pick, instead = pick.where(live, own.new_zeros(())), instead.where(live, own.new_zeros(()))
        pick = instead.where(table.gather(2, pick), pick)
        table.scatter_(2, pick, live | table.gather(2, pick))
    return table


# ---- expressions --------------------------------------------------------------------------------


@dataclass
class Union:
    operands: list
    tight: bool = False  # no spaces

    def text(self):
        return ("|" if self.tight else " | ").join(operand.text() for operand in self.operands)

    def mask(self, at):
        return either([operand.mask(at) for operand in self.operands])


@dataclass
class Intersection:
    operands: list

    def text(self):
        return " & ".join(
            f"({operand.text()})" if isinstance(operand, Union) else operand.text()
            for operand in self.operands
        )

    def mask(self, at):
        return both([operand.mask(at) for operand in self.operands])


@dataclass
class Parentheses:
    inner: object

    def text(self):
        return f"({self.inner.text()})"

    def mask(self, at):
        return self.inner.mask(at)


@dataclass
class Pattern:
    entries: list  # of (count, expression), the count None if there is one for all heads
    two_sided: bool
    masks: list = field(default_factory=list)  # the Mask atoms

    def text(self):
        if self.entries[0][0] is None:
            text = self.entries[0][1].text()
        else:
            text = "heads(" + ", ".join(f"{c}*{e.text()}" for c, e in self.entries) + ")"
        return f"bidirectional({text})" if self.two_sided else text

    def mask(self, heads, q_len, k_len, device):
        """[heads, q_len, k_len]"""
        if self.entries[0][0] is None:
            owners = [(list(range(heads)), self.entries[0][1])]
        else:
            total = sum(count for count, _ in self.entries)
            owners, first = [], 0
            for count, expression in self.entries:
                ours = [h for h in range(heads) if first <= h % total < first + count]
                owners.append((ours, expression))
                first += count
        result = torch.empty(heads, q_len, k_len, dtype=torch.bool, device=device)
        for ours, expression in owners:
            at = Positions(ours, q_len, k_len, self.two_sided, device)
            live = expression.mask(at)
            if not self.two_sided:
                live = live & (at.j <= at.i)
            live = live.expand(len(ours), q_len, k_len)
            if len(owners) == 1:
                return live
            result[at.head.view(-1)] = live
        return result
