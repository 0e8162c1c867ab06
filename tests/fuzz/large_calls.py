#!/usr/bin/env python3
"""Calls whose tensors pass 2^31 elements, sampled rows of them against the definition in float64.

  large_calls.py PATH/liblace_torch.so --kernel NAME

On a GPU: heads side by side in each row, so that positions within one head pass 2^31, of q, out and
their gradients, then of k and v too. On a CPU: views with such strides over memory of which little
is ever touched, and a result of more than 2^31 elements. What the memory that is free does not
allow is left out and said. Exit code 1: a fault; 77: nothing could run here.
"""

import argparse
import os
import random
import sys
import time
from dataclasses import dataclass

import torch

from reference import Expected, attention64, measure

SAMPLES = 12  # rows of a tensor
GIGABYTE = 2**30
UNAVAILABLE = 77


@dataclass
class Pairs:
    """local(window) | strided(stride) of length n, for single positions."""

    window: int
    stride: int
    n: int

    def text(self):
        return f"local({self.window}) | strided({self.stride})"

    def live(self, i, j):
        return (j <= i) & ((i - j < self.window) | ((i - j) % self.stride == 0))

    def keys_of(self, i):
        near = range(max(0, i - self.window + 1), i + 1)
        return sorted({*near, *range(i % self.stride, i + 1, self.stride)})

    def queries_of(self, j):
        near = range(j, min(self.n, j + self.window))
        return sorted({*near, *range(j, self.n, self.stride)})


@dataclass
class Call:
    """q, k, v, dout and what the library made of them, q_len = k_len."""

    pairs: Pairs
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    dout: torch.Tensor | None
    results: dict

    def rows(self, queries, keys, batch, head):
        """attention64 of these queries of one head, on these keys alone, which must hold all of the
        queries' own; by name."""
        queries, keys = (torch.tensor(rows, device=self.q.device) for rows in (queries, keys))
        kv_head = head // (self.q.shape[1] // self.k.shape[1])

        def take(tensor, h, rows):
            return tensor[batch, h, rows].double()[None, None]

        live = self.pairs.live(queries[:, None], keys[None, :])[None]
        dout = None if self.dout is None else take(self.dout, head, queries)
        return attention64(
            take(self.q, head, queries), take(self.k, kv_head, keys), take(self.v, kv_head, keys),
            live, self.q.shape[3] ** -0.5, dout, self.q.dtype, False,
        )  # fmt: skip

    def check(self, name, expected, place):
        """place: of the rows in the result."""
        got = self.results[name][place]
        ratio = measure(got.reshape(expected.value.shape), expected, self.q.dtype, 1, 1)[0].item()
        if not ratio <= 1:
            raise SystemExit(
                f"large_calls: {name}{list(place)} is off by {ratio:.3g} times its bound"
            )

    def check_query(self, batch, head, i):
        expected = self.rows([i], self.pairs.keys_of(i), batch, head)
        for name in ("out", "lse", "dq"):
            if name in self.results:
                self.check(name, expected[name], (batch, head, i))

    def check_key(self, batch, kv_head, j):
        """dk and dv of one key: sums over the queries of its heads, each with all of its keys."""
        queries = self.pairs.queries_of(j)
        keys = sorted({key for i in queries for key in self.pairs.keys_of(i)})
        group = self.q.shape[1] // self.k.shape[1]
        heads = [self.rows(queries, keys, batch, kv_head * group + g) for g in range(group)]
        for name in ("dk", "dv"):
            value, worst = (
                sum(getattr(one[name], part)[0, 0, keys.index(j)] for one in heads)
                for part in ("value", "worst")
            )
            self.check(name, Expected(value, worst, None), (batch, kv_head, j))

    def check_samples(self):
        batch, heads, n, _ = self.q.shape
        kv_heads = self.k.shape[1]
        draw = random.Random(n).randrange
        places = [(0, 0, 0), (batch - 1, heads - 1, n - 1), (batch - 1, heads - 1, 0)]
        places += [(draw(batch), draw(heads), draw(n)) for _ in range(SAMPLES)]
        for b, h, i in places:
            self.check_query(b, h, i)
            if self.dout is not None:
                self.check_key(b, h % kv_heads, i)


def attend(pairs, q, k, v, dout):
    pattern = pairs.text()
    if dout is None:
        out, lse = torch.ops.lace.attention(q, k, v, pattern)
        return Call(pairs, q, k, v, dout, {"out": out, "lse": lse})
    inputs = [tensor.detach().requires_grad_() for tensor in (q, k, v)]
    out, lse = torch.ops.lace.attention(*inputs, pattern)
    dq, dk, dv = torch.autograd.grad(out, inputs, dout)
    results = {"out": out.detach(), "lse": lse, "dq": dq, "dk": dk, "dv": dv}
    return Call(pairs, q, k, v, dout, results)


def heads_within_rows(heads, n, dim, gen):
    """bfloat16 [1, heads, n, dim], random, made piece by piece."""
    storage = torch.empty(1, n, heads, dim, dtype=torch.bfloat16, device=gen.device)
    for piece in storage[0].split(2**16):
        piece.copy_(torch.randn(piece.shape, generator=gen, device=gen.device))
    return storage.transpose(1, 2)


# ---- on a GPU -----------------------------------------------------------------------------------

LONG, HEADS, DIM = 1_064_963, 32, 64  # 2.18e9 elements
GPU_PAIRS = Pairs(96, 8192, LONG)


def gpu_queries(device):
    gen = torch.Generator(device).manual_seed(1)
    q, dout = (heads_within_rows(HEADS, LONG, DIM, gen) for _ in range(2))
    k, v = (heads_within_rows(2, LONG, DIM, gen) for _ in range(2))
    return attend(GPU_PAIRS, q, k, v, dout)


def gpu_all(device):
    gen = torch.Generator(device).manual_seed(2)
    return attend(GPU_PAIRS, *(heads_within_rows(HEADS, LONG, DIM, gen) for _ in range(3)), None)


def gpu_all_backward(device):
    gen = torch.Generator(device).manual_seed(3)
    return attend(GPU_PAIRS, *(heads_within_rows(HEADS, LONG, DIM, gen) for _ in range(4)))


# ---- on a CPU -----------------------------------------------------------------------------------


def far_apart(dim, gen):
    """[2, 2, 300, 16], of which the stride of one dimension passes 2^31 elements (of rows: all of
    them together), in memory of which little is touched."""
    sizes, strides = [2, 2, 300, 16], [2 * 300 * 16, 300 * 16, 16, 1]
    strides[dim] = (2**31 // (sizes[dim] - 1) + 4096) // 8 * 8
    extent = sum((size - 1) * stride for size, stride in zip(sizes, strides)) + 1
    view = torch.empty(extent, dtype=torch.bfloat16).as_strided(sizes, strides)
    return view.copy_(torch.randn(sizes, generator=gen))


def cpu_strides(dim):
    def call(device):
        gen = torch.Generator().manual_seed(dim)
        return attend(Pairs(40, 64, 300), *(far_apart(dim, gen) for _ in range(4)))

    return call


def cpu_result(device):
    """out of 2.2e9 elements, from values that repeat themselves."""
    heads, n, dim = 16, 540_003, 256
    gen = torch.Generator().manual_seed(7)
    q, k = (torch.randn(1, heads, n, 8, generator=gen).bfloat16() for _ in range(2))
    v = torch.randn(1, heads, 1, dim, generator=gen).bfloat16().expand(-1, -1, n, -1)
    return attend(Pairs(8, n, n), q, k, v, None)


# name, gigabytes that it takes, call
CALLS = {
    "cuda": [
        ("q of 2.2e9 elements", 40, gpu_queries),
        ("q, k and v of 2.2e9 elements, forward", 35, gpu_all),
        ("q, k and v of 2.2e9 elements, backward", 72, gpu_all_backward),
    ],
    "cpu": [
        ("a batch stride of 2^31 elements", 1, cpu_strides(0)),
        ("a head stride of 2^31 elements", 1, cpu_strides(1)),
        ("rows over 2^31 elements", 1, cpu_strides(2)),
        ("a result of 2.2e9 elements", 20, cpu_result),
    ],
}


def free_gigabytes(device):
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0] / GIGABYTE
    with open("/proc/meminfo") as file:
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in file}
    return kilobytes["MemAvailable"] * 1024 / GIGABYTE


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("library")
    parser.add_argument("--kernel", required=True)
    options = parser.parse_args()
    os.environ["LACE_KERNEL"] = options.kernel
    torch.ops.load_library(options.library)
    device = torch.device("cuda" if options.kernel.startswith("cuda") else "cpu")
    if device.type == "cuda" and not torch.cuda.is_available():
        print("large_calls: there is no GPU")
        return UNAVAILABLE
    ran = 0
    for name, gigabytes, call in CALLS[device.type]:
        free = free_gigabytes(device)
        if free < gigabytes:
            print(f"left out: {name} takes {gigabytes} GB, {free:.0f} are free")
            continue
        start = time.monotonic()
        try:
            call(device).check_samples()
        except RuntimeError as error:
            if "cannot run:" not in str(error):
                raise
            print(f"left out: {name}: {error}")
            continue
        ran += 1
        print(f"right: {name}, {time.monotonic() - start:.1f} s")
    return 0 if ran else UNAVAILABLE


if __name__ == "__main__":
    sys.exit(main())
