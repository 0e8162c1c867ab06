"""Sequences of a case: padding, packed documents, queries anywhere in the keys; and sinks.

Written from the contract of include/lace/sequences.h alone, position by position.
"""

import re
from dataclasses import dataclass

import torch


@dataclass
class Place:
    """Of one sequence: its length, where its rows of q and k begin and how many there are, and the
    positions of the first of them; keys: the positions of those that are no padding (None: all)."""

    length: int
    q_row: int
    q_rows: int
    q_start: int
    k_row: int
    k_rows: int
    k_start: int
    keys: tuple | None = None

    def rows(self, row, count, start, keys=None):
        """The rows that there are, and their positions."""
        positions = range(max(start, 0), min(start + count, self.length))
        positions = [p for p in positions if keys is None or keys[0] <= p < keys[1]]
        return [row + p - start for p in positions], positions


@dataclass
class Sequences:
    packed: bool
    places: list  # of each batch element, or of each document
    max_len: int

    def text(self):
        kind = "packed" if self.packed else "padded"
        return f"{kind}, max_len {self.max_len}: " + "; ".join(
            f"length {p.length} q {p.q_rows} at {p.q_start} k {p.k_rows} at {p.k_start}"
            + (f" keys {p.keys[0]} to {p.keys[1]}" if p.keys else "")
            for p in self.places
        )

    def table(self, ops, q_len, k_len, device):
        def ints(values):
            return torch.tensor(values, dtype=torch.int32, device=device)

        if self.packed:
            ends = [(p.q_row + p.q_rows, p.k_row + p.k_rows) for p in self.places]
            cu_q, cu_k = zip((self.places[0].q_row, self.places[0].k_row), *ends)
            starts = ints([p.q_start for p in self.places])
            return ops.packed_sequences(ints(cu_q), ints(cu_k), q_start=starts)
        keys = {}
        if self.places[0].keys:  # then all have them
            bounds = [p.keys for p in self.places]
            keys = {"k_first": ints([b[0] for b in bounds]), "k_end": ints([b[1] for b in bounds])}
        return ops.padded_sequences(
            len(self.places), q_len, k_len,
            k_lens=ints([p.length for p in self.places]),
            q_start=ints([p.q_start for p in self.places]).long(),
            k_start=ints([p.k_start for p in self.places]),
            **keys,
        )  # fmt: skip

    def positions(self):
        return max(self.max_len, *(p.length for p in self.places))

    def live(self, case, device):
        """Live pairs [batch, heads, q_len, k_len], and rows of q and of k that are of a sequence,
        [batch, 1, rows, 1]."""
        n = self.positions()
        whole = case.pattern.mask(case.heads, n, n, device)
        if case.block_mask:
            whole = whole & case.block_pairs(n).to(device)
        sizes = (case.batch, case.heads, case.q_len, case.k_len)
        live = torch.zeros(sizes, dtype=torch.bool, device=device)
        of_q = torch.zeros((case.batch, 1, case.q_len, 1), dtype=torch.bool, device=device)
        of_k = torch.zeros((case.batch, 1, case.k_len, 1), dtype=torch.bool, device=device)
        for index, place in enumerate(self.places):
            b = 0 if self.packed else index
            q, i = place.rows(place.q_row, place.q_rows, place.q_start)
            k, j = place.rows(place.k_row, place.k_rows, place.k_start, place.keys)
            of_q[b, 0, q] = True
            of_k[b, 0, k] = True
            if q and k:
                live[b, :, q[0] : q[-1] + 1, k[0] : k[-1] + 1] = whole[
                    :, i[0] : i[-1] + 1, j[0] : j[-1] + 1
                ]
        return live, of_q, of_k


def depends_on_length(pattern):
    text = pattern.text()
    return bool(re.search(r"global\{[^}]*-", text)) or (pattern.two_sided and "random" in text)


def cuts(rng, total, parts):
    """`total` in `parts` parts, some of them 0."""
    marks = sorted(rng.choice([0, total, rng.randint(0, total)]) for _ in range(parts - 1))
    return [b - a for a, b in zip([0, *marks], [*marks, total])]


def draw_packed(rng, q_len, k_len):
    parts = rng.randint(1, 6)
    q_row, k_row = rng.randint(0, q_len // 8), rng.randint(0, k_len // 8)
    q_end, k_end = q_len - rng.randint(0, q_len // 8), k_len - rng.randint(0, k_len // 8)
    same = q_len == k_len and rng.random() < 0.7
    if same:
        q_row, q_end = k_row, max(k_row, k_end)
    k_counts = cuts(rng, max(0, k_end - k_row), parts)
    q_counts = k_counts if same else cuts(rng, max(0, q_end - q_row), parts)
    places = []
    for q_rows, k_rows in zip(q_counts, k_counts):
        start = k_rows - q_rows if rng.random() < 0.8 else rng.randint(-3, k_rows)
        places.append(Place(k_rows, q_row, q_rows, start, k_row, k_rows, 0))
        q_row, k_row = q_row + q_rows, k_row + k_rows
    return Sequences(True, places, k_len)


def draw_padded(rng, batch, q_len, k_len):
    places = []
    for _ in range(batch):
        k_start = rng.choice([0, 0, -rng.randint(0, k_len), rng.randint(0, k_len)])
        length = max(0, k_start + k_len - rng.choice([0, 1, rng.randint(0, k_len)]))
        q_start = rng.choice([k_start + k_len - q_len, length - q_len, rng.randint(-3, length)])
        places.append(Place(length, 0, q_len, q_start, 0, k_len, k_start))
    if rng.random() < 0.4:  # masks of keys
        for place in places:
            first = rng.choice([0, rng.randint(-2, place.length)])
            place.keys = (first, rng.choice([place.length, rng.randint(-2, place.length + 2)]))
    return Sequences(False, places, max(k_len, *(p.length for p in places)))


def draw_sequences(rng, case):
    """None for most cases. Packed ones have a batch of 1 in memory."""
    kind = rng.choices(["none", "packed", "padded"], [5, 2, 2])[0]
    if kind == "none" or depends_on_length(case.pattern):
        return None
    if kind == "packed" and case.batch == 1:
        return draw_packed(rng, case.q_len, case.k_len)
    return draw_padded(rng, case.batch, case.q_len, case.k_len)


def poison(tensors, case, of_q, of_k):
    """NaN in the rows of no sequence, where nobody shares them."""
    if case.storage != "apart":
        return
    for name, tensor in tensors.items():
        view = case.views[name]
        if view.expanded or view.row_stride:
            continue
        dead = ~(of_k if name in "kv" else of_q)
        tensor.masked_fill_(dead.to(tensor.device), torch.nan)
