"""The rows of bench/peers.py: layers, patterns, targets; and the patterns by their definitions."""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass
class Row:
    name: str
    pattern: str  # as lace reads it
    kind: str     # as keep(), live_pairs() and the contenders read it
    batch: int
    n: int
    heads: int
    kv_heads: int
    dim: int
    at_most: tuple = (None, None)  # ms forward, forward + backward
    anchor: tuple = None           # a row and FlashAttention-3's ms there when at_most was set
    l: int = 0                     # block, stride or window
    c: int = 0                     # summary columns
    documents: tuple = ()          # lengths of documents one behind another, n together; batch 1
    learned_sinks: bool = False    # a logit a head without a value, in each row's softmax

    @property
    def group(self):
        return self.name.split()[0]

    @property
    def causal(self):
        return not self.pattern.startswith("bidirectional")


# 16 of 512 to 8,192, of evenly distributed logarithms, 32,768 together.
DOCUMENTS = (941, 2036, 1208, 554, 1424, 1669, 2779, 7164, 1013, 1427, 5200, 616, 2214, 776,
             1448, 2299)


def rows():
    a = dict(batch=8, n=12288, heads=8, kv_heads=8, dim=64, l=128, c=32)
    b = dict(batch=1, n=65536, heads=8, kv_heads=8, dim=64, l=256, c=32)
    c = dict(batch=1, n=32768, heads=32, kv_heads=8, dim=128, l=4096)
    d = dict(batch=2, n=16384, heads=12, kv_heads=12, dim=64)
    f = dict(batch=1, n=32768, heads=64, kv_heads=8, dim=128, l=128, c=32, documents=DOCUMENTS)
    e = dict(batch=1, n=32768, heads=64, kv_heads=8, dim=128, l=1024)
    g = dict(batch=1, n=32768, heads=8, kv_heads=4, dim=256, l=1024)
    i = dict(batch=1, n=32768, heads=64, kv_heads=8, dim=128, l=128)
    h = dict(batch=1, n=131072, heads=64, kv_heads=8, dim=64, l=128, learned_sinks=True)
    beside = dict(f, n=24288, documents=(12288, *[200] * 60))
    dense_a, dense_b = ("A dense", 2.23, 7.90), ("B dense", 8.39, 28.9)
    dense_c, dense_d = ("C dense", 13.8, 51.8), ("D dense", 3.43, 11.5)
    return [
        Row("A dense", "dense", "dense", at_most=(2.5, 9.8), anchor=dense_a, **a),
        Row("A fixed", "block(128) | summary(128, 32)", "fixed", at_most=(0.80, 3.15),
            anchor=dense_a, **a),
        Row("A fixed-stripes", "fixed(128, 32, 4)", "stripes", at_most=(0.80, 3.15),
            anchor=dense_a, **a),
        Row("A strided-merged", "local(128) | strided(128)", "merged", at_most=(0.40, 1.5),
            anchor=("A strided-merged", 0.59, 2.01), **a),
        Row("A strided", "strided(128)", "strided", at_most=(0.22, 0.85),
            anchor=("A strided", 0.285, 1.05), **a),
        Row("A block", "block(128)", "block", at_most=(0.18, 0.70),
            anchor=("A block", 0.221, 0.815), **a),
        Row("A local", "local(128)", "local", at_most=(0.22, 0.80),
            anchor=("A local", 0.304, 0.96), **a),
        Row("B dense", "dense", "dense", at_most=(9.3, 36), anchor=dense_b, **b),
        Row("B fixed", "block(256) | summary(256, 32)", "fixed", at_most=(1.45, 5.6),
            anchor=dense_b, **b),
        Row("B strided-merged", "local(256) | strided(256)", "merged", at_most=(0.35, 1.3),
            anchor=("B strided-merged", 0.51, 1.53), **b),
        Row("C window", "local(4096)", "local", at_most=(3.8, 16),
            anchor=("C window", 3.17, 13.2), **c),
        Row("C window-sinks", "local(4096) | sinks(4)", "sinks", at_most=(3.9, 16.5),
            anchor=("C window", 3.17, 13.2), **c),
        Row("C dense", "dense", "dense", at_most=(15.3, 62), anchor=dense_c, **c),
        Row("D longformer", "bidirectional(local(512) | global(64))", "longformer",
            at_most=(0.45, 1.7), anchor=dense_d, **d),
        Row("D bigbird", "bidirectional(local(3, 64) | random(3, 64, 0) | global{0..63, -64..-1})",
            "bigbird", at_most=(1.2, 4.0), anchor=dense_d, **d),
        Row("D dense", "bidirectional(dense)", "dense", at_most=(3.8, 14.3), anchor=dense_d, **d),
        Row("E window", "local(1024)", "local", **e),
        Row("F dense", "dense", "dense", **f),
        Row("F window-sinks", "local(256) | sinks(4)", "sinks", **dict(f, l=256)),
        Row("F fixed", "block(128) | summary(128, 32)", "fixed", **f),
        Row("F-beside dense", "dense", "dense", **beside),
        Row("F-beside fixed", "block(128) | summary(128, 32)", "fixed", **beside),
        Row("G gemma-3", "local(1024)", "local", **g),
        Row("H gpt-oss", "local(128)", "local", **h),
        Row("I blocks", "dense", "blocks", **i),
    ]


# ---- the patterns, by their definitions ----------------------------------------------------------


def philox(counter, key):
    """Philox4x32-10: four 32-bit words for a counter of four words and a 64-bit key."""
    x0, x1, x2, x3 = counter
    key0, key1, mask = key & 0xFFFFFFFF, key >> 32, 0xFFFFFFFF
    for _ in range(10):
        p0, p1 = 0xD2511F53 * x0, 0xCD9E8D57 * x2
        x0, x1, x2, x3 = (p1 >> 32) ^ x1 ^ key0, p1 & mask, (p0 >> 32) ^ x3 ^ key1, p0 & mask
        key0, key1 = (key0 + 0x9E3779B9) & mask, (key1 + 0xBB67AE85) & mask
    return x0, x1, x2, x3


def random_blocks(count, seed, head, query_block, blocks):
    """The blocks that random(count, b, seed), two-sided, draws for one block of queries."""
    taken = set()
    for draw in range(min(count, blocks)):
        top = blocks - min(count, blocks) + draw
        words = philox((query_block, draw, head, 0), seed)
        x = ((words[1] << 32 | words[0]) * (top + 1)) >> 64
        taken.add(top if x in taken else x)
    return taken


BLOCK = 64  # of BigBird


def bigbird_blocks(row, n):
    """bool [heads, n / 64, n / 64]: local(3, 64) | random(3, 64, 0) | first and last block."""
    blocks = n // BLOCK
    live = np.zeros((row.heads, blocks, blocks), bool)
    near = np.abs(np.subtract.outer(np.arange(blocks), np.arange(blocks))) <= 1
    live[:] = near
    for edge in (0, blocks - 1):
        live[:, edge, :] = live[:, :, edge] = True
    for head in range(row.heads):
        for block in range(blocks):
            live[head, block, list(random_blocks(3, 0, head, block, blocks))] = True
    return live


def chosen_blocks(row, n):
    """bool [n / l, n / l], queries by keys: an eighth of all, drawn, and the diagonal."""
    count = -(-n // row.l)
    live = np.random.default_rng(1).random((count, count)) < 0.125
    return live | np.eye(count, dtype=bool)


def keep(row, n):
    """f(head, query, key) -> bool, of tensors that broadcast."""
    if row.documents:
        lengths = torch.tensor(row.documents, device="cuda")
        begins = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
        within = keep(Row(**{**row.__dict__, "documents": ()}), n)
        return lambda h, i, j: (begins[i] == begins[j]) & within(h, i - begins[i], j - begins[j])
    l, c = row.l, row.c
    if row.kind == "bigbird":
        blocks = torch.from_numpy(bigbird_blocks(row, n)).cuda()
        return lambda h, i, j: blocks[h, i // BLOCK, j // BLOCK]
    if row.kind == "blocks":
        chosen = torch.from_numpy(chosen_blocks(row, n)).cuda()
        return lambda h, i, j: (i >= j) & chosen[i // l, j // l]
    if row.kind == "dense":
        return (lambda h, i, j: i >= j) if row.causal else (lambda h, i, j: (i >= 0) & (j >= 0))
    return {
        "fixed": lambda h, i, j: (i >= j) & ((i // l == j // l) | (j % l >= l - c)),
        "stripes": lambda h, i, j: (i >= j) & ((i // l == j // l) | (
            (j % l >= l - c * (h % 4 + 1)) & (j % l < l - c * (h % 4)))),
        "merged": lambda h, i, j: (i >= j) & ((i - j < l) | ((i - j) % l == 0)),
        "strided": lambda h, i, j: (i >= j) & ((i - j) % l == 0),
        "block": lambda h, i, j: (i >= j) & (i // l == j // l),
        "local": lambda h, i, j: (i >= j) & (i - j < l),
        "sinks": lambda h, i, j: (i >= j) & ((i - j < l) | (j < 4)),
        "longformer": lambda h, i, j: ((i - j).abs() <= 256) | (j < 64) | (i < 64),
    }[row.kind]


def live_pairs(row):
    """Live pairs of all heads of one batch element, from the number of keys of each query."""
    if row.documents:
        return sum(live_pairs(Row(**{**row.__dict__, "n": n, "documents": ()}))
                   for n in row.documents)
    n, l, c, i = row.n, row.l, row.c, np.arange(row.n, dtype=np.int64)
    if row.kind == "bigbird":
        return int(bigbird_blocks(row, n).sum()) * BLOCK * BLOCK
    if row.kind == "blocks":
        below = np.tril(chosen_blocks(row, n), -1).sum() * l * l
        return int(below + n // l * (l * (l + 1) // 2)) * row.heads
    if row.kind == "longformer":
        window = np.minimum(i + 256, n - 1) - np.maximum(i - 256, 0) + 1
        keys = np.where(i < 64, n, window + np.clip(i - 256, 0, 64))
    else:
        keys = {
            "dense": i + 1 if row.causal else np.full(n, n),
            "fixed": i // max(l, 1) * c + i % max(l, 1) + 1,
            "stripes": i // max(l, 1) * c + i % max(l, 1) + 1,
            "merged": np.minimum(i + 1, l) + i // max(l, 1),
            "strided": i // max(l, 1) + 1,
            "block": i % max(l, 1) + 1,
            "local": np.minimum(i + 1, l),
            "sinks": np.minimum(i + 1, l) + np.clip(i + 1 - l, 0, 4),
        }[row.kind]
    return int(keys.sum()) * row.heads
