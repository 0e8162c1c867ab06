"""Draws patterns for the fuzzer (patterns.py says what they are)."""

import math
import os

import torch
from patterns import (
    LARGEST,
    Block,
    Dense,
    Dilated,
    Fixed,
    Global,
    Intersection,
    Local,
    Mask,
    Parentheses,
    Pattern,
    Random,
    Sinks,
    Strided,
    Summary,
    Union,
)

EDGES = [15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 191, 192, 193, 255, 256, 257]


def log_uniform(rng, low, high):
    return min(high, int(math.exp(rng.uniform(math.log(low), math.log(high + 1)))))


class PatternDraw:
    """Draws patterns of `heads` heads over k_len keys; files of masks go to `folder`."""

    def __init__(self, rng, heads, k_len, folder, name):
        self.rng, self.heads, self.n, self.folder, self.name = rng, heads, k_len, folder, name
        self.masks = []

    def size(self):
        """A length or window: small, at the edge of a tile, anything, beyond the keys, huge."""
        rng, x = self.rng, self.rng.random()
        if x < 0.3:
            return rng.randint(1, 9)
        if x < 0.55:
            return rng.choice(EDGES)
        if x < 0.88:
            return log_uniform(rng, 1, max(2, self.n))
        if x < 0.97:
            return rng.randint(self.n, 3 * self.n)
        return rng.choice([2**20, 2**30 + 1, LARGEST])

    def stride(self):
        """Of residue classes: as size(), and numbers that divide nothing."""
        if self.rng.random() < 0.3:
            return self.rng.choice([3, 5, 7, 11, 13, 19, 31, 37, 61, 67, 97, 127, 131, 251])
        return self.size()

    def local(self):
        if self.rng.random() < 0.3:
            return Local(self.rng.randint(1, 6), self.size())
        return Local(self.size())

    def columns(self):
        """length and columns, of which half of the time several stripes fit."""
        length = self.size()
        if self.rng.random() < 0.5:
            return length, self.rng.randint(1, max(1, length // 4))
        return length, self.rng.randint(1, length)

    def summary(self):
        length, columns = self.columns()
        return Summary(
            length, columns, self.rng.choice([0, 0, self.rng.randrange(length // columns)])
        )

    def fixed(self):
        length, columns = self.columns()
        return Fixed(length, columns, self.rng.randint(1, min(length // columns, 6)))

    def tokens(self):
        rng, n = self.rng, self.n
        if rng.random() < 0.4:
            return Global([(0, self.size() - 1)], count=True)
        ranges = []
        for _ in range(rng.choice([1, 1, 2, 3])):
            length = rng.choice([1, 1, 2, 5, 64, 130])
            if rng.random() < 0.5:
                first = rng.randrange(n)
                ranges.append((first, first + length - 1))
            else:
                last = -rng.randint(1, n)
                ranges.append((last - length + 1, last))
        return Global(ranges)

    def random(self):
        rng = self.rng
        block = self.size() if rng.random() < 0.85 else 1
        block = max(block, self.n // 400)  # every row of blocks is a row of its own, in every head
        count = rng.choice([1, 2, 3, 5, rng.randint(1, 12)])
        return Random(count, block, rng.choice([0, 1, rng.getrandbits(31), rng.getrandbits(63)]))

    def mask(self):
        rng = self.rng
        block = max(self.size(), self.n // 100)
        blocks = max(1, min(100, math.ceil(self.n / block) + rng.choice([-1, 0, 0, 0, 1])))
        heads = rng.choice([1, self.heads])
        share = rng.choice([0.05, 0.3, 0.6, 1.0])
        live = torch.rand(heads, blocks, blocks, generator=generator(rng)) < share
        if rng.random() < 0.5:
            live |= torch.eye(blocks, dtype=torch.bool)
        file = f"{self.name}-{len(self.masks)}" + rng.choice(["", "", ' of "blocks"\\'])
        mask = Mask(os.path.join(self.folder, file), live, block)
        self.masks.append(mask)
        return mask

    def atom(self):
        draws = [
            (1, Dense),
            (4, self.local),
            (2, lambda: Block(self.size())),
            (4, lambda: Strided(self.stride())),
            (3, self.summary),
            (2, self.fixed),
            (3, lambda: Dilated(self.size(), self.stride())),
            (2, self.tokens),
            (2, lambda: Sinks(self.size())),
            (2, self.random),
            (1, self.mask),
        ]
        weights, functions = zip(*draws)
        return self.rng.choices(functions, weights)[0]()

    def several_passes(self):
        """Unions whose parts want different orders of rows."""
        strided = Strided(self.stride())
        return self.rng.choice(
            [
                lambda: [self.local(), strided],
                lambda: [Local(strided.length), strided],
                lambda: [Sinks(self.size()), strided],
                lambda: [self.summary(), strided],
                lambda: [Block(strided.length), self.summary()],
                lambda: [strided, Strided(self.stride())],
                lambda: [Dilated(self.size(), self.stride()), self.local()],
                lambda: [Dilated(self.size(), self.stride()), self.summary(), self.tokens()],
                lambda: [self.local(), self.tokens(), self.random()],
                lambda: [self.local(), Sinks(self.size()), strided],
                lambda: [self.tokens(), strided],
            ]
        )()

    def expression(self, depth=0):
        rng, x = self.rng, self.rng.random()
        if x < 0.28 or depth >= 3:
            return self.atom()
        if x < 0.65:
            return Union(self.several_passes(), tight=rng.random() < 0.1)
        operands = [self.expression(depth + 1) for _ in range(rng.choice([2, 2, 2, 3]))]
        if x < 0.85:
            return Intersection(operands)
        if x < 0.97:
            return Union(operands)
        return Parentheses(Union(operands))

    def pattern(self):
        rng = self.rng
        two_sided = rng.random() < 0.35
        if rng.random() < 0.75:
            entries = [(None, self.expression())]
        else:
            total = rng.choice([d for d in range(1, self.heads + 1) if self.heads % d == 0])
            entries, left = [], total
            while left > 0:
                count = rng.randint(1, left)
                entries.append((count, self.expression()))
                left -= count
        return Pattern(entries, two_sided, self.masks)


def generator(rng, device="cpu"):
    return torch.Generator(device).manual_seed(rng.getrandbits(63))
