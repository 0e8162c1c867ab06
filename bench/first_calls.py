#!/usr/bin/env python3
"""How long the first call of each entry point takes, and one like it after: lace's, and beside them
FlexAttention's and torch's. A first call compiles what it needs: lace a plan and its transpose (on a
CPU, uploaded on a GPU), FlexAttention a mask and, with torch.compile, a kernel.

  bench/first_calls.py [--device cuda] [--seq-len 32768] [--rounds 5] [--json]
  PYTHONPATH=python LACE_LIBRARY=build/cuda/lib/liblace_torch.so bench/first_calls.py --device cuda

Forward and backward of [1, heads, seq_len, head_dim] in bf16, times in ms, the clock read when the
device has finished. `first` is the first call with this pattern and length in a process of its own
that has run the same entry point before, on a short sequence: libraries are loaded and contexts
there. `cached`: the median of the calls after. `mask`: what is made before, once, where a mask is an
argument of its own; a second mask of the same size takes as long again.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time


def entry_points(torch, n, compiles):
    """{name: (make, run)}; make(n) gives what run(q, k, v, made) takes beside."""
    import lace
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    window = min(1024, n // 4)
    pattern = f"local({window})"

    def sliding(b, h, q, k):
        return (q >= k) & (q - k < window)

    def block_mask(device):
        return lambda length: create_block_mask(sliding, None, None, length, length, device=device)

    def documents(device):
        def make(length):
            ends = [0, length // 5, length // 2, length]
            return torch.tensor(ends, dtype=torch.int32, device=device)
        return make

    def live_blocks(device):
        return lambda length: torch.rand(-(-length // 128), -(-length // 128), device=device) < 0.3

    def padding(device):
        def make(length):
            keep = torch.ones(1, 1, 1, length, dtype=torch.bool, device=device)
            keep[..., length - length // 8:] = False
            return keep
        return make

    def packed(q, k, v, ends):
        rows = [x[0].transpose(0, 1).contiguous() for x in (q, k, v)]
        return lace.varlen_attention(*rows, pattern, ends)

    flex = torch.compile(flex_attention) if compiles else flex_attention
    no_mask = lambda device: lambda length: None
    return {
        "lace.attention": (no_mask, lambda q, k, v, _: lace.attention(q, k, v, pattern)),
        "lace.varlen_attention": (documents, packed),
        "lace.attention, block_mask": (live_blocks, lambda q, k, v, live: lace.attention(
            q, k, v, "dense", block_mask=live, block_size=128)),
        "lace.scaled_dot_product_attention, causal": (
            no_mask, lambda q, k, v, _: lace.scaled_dot_product_attention(q, k, v, is_causal=True)),
        "lace.scaled_dot_product_attention, padding": (
            padding, lambda q, k, v, keep: lace.scaled_dot_product_attention(
                q, k, v, attn_mask=keep)),
        "lace.flex_attention, BlockMask": (
            block_mask, lambda q, k, v, mask: lace.flex_attention(q, k, v, block_mask=mask)),
        "FlexAttention" + (", compiled" if compiles else ""): (
            block_mask, lambda q, k, v, mask: flex(q, k, v, block_mask=mask)),
        "torch scaled_dot_product_attention, causal": (
            no_mask, lambda q, k, v, _: torch.nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=True)),
    }


def measure(name, arguments):
    """In this process: {mask_ms, first_ms, cached_ms}."""
    import torch

    points = entry_points(torch, arguments.seq_len, arguments.device == "cuda")
    make_of, run = points[name]
    make = make_of(arguments.device)

    def now():
        if arguments.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def inputs(length):
        shape = (1, arguments.heads, length, arguments.head_dim)
        return [torch.randn(shape, device=arguments.device, dtype=torch.bfloat16,
                            requires_grad=True) for _ in range(3)]

    def call(tensors, mask):
        start = now()
        run(*tensors, mask).sum().backward()
        return 1e3 * (now() - start)

    short = max(256, arguments.seq_len // 64)
    call(inputs(short), make(short))
    tensors = inputs(arguments.seq_len)
    start = now()
    mask = make(arguments.seq_len)
    mask_ms = 1e3 * (now() - start)
    first = call(tensors, mask)
    cached = [call(tensors, mask) for _ in range(arguments.rounds)]
    return {"entry_point": name, "mask_ms": None if mask is None else mask_ms, "first_ms": first,
            "cached_ms": statistics.median(cached)}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--seq-len", type=int, default=None, help="default: 32768, on a CPU 2048")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5, help="calls after the first")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.seq_len = arguments.seq_len or (32768 if arguments.device == "cuda" else 2048)
    if arguments.seq_len < 1024 or arguments.rounds < 1:
        parser.error("--seq-len must be at least 1024 and --rounds at least 1")
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments)))
        return 0
    import torch

    rows = []
    for name in entry_points(torch, arguments.seq_len, arguments.device == "cuda"):
        print(name, file=sys.stderr, end=": ", flush=True)
        done = subprocess.run([sys.executable, *sys.argv, "--only", name], capture_output=True,
                              text=True)
        if done.returncode == 0:
            rows.append(json.loads(done.stdout.strip().split("\n")[-1]))
        else:
            rows.append({"entry_point": name, "error": done.stderr.strip().split("\n")[-1][:300]})
        # Told as it is known: whoever stops the program keeps what it has measured.
        told = [f"{key[:-3]} {value:.3g} ms" for key, value in rows[-1].items()
                if key.endswith("_ms") and value is not None]
        print(", ".join(told) or rows[-1]["error"], file=sys.stderr, flush=True)
    machine = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
    if arguments.json:
        print(json.dumps({"benchmark": "first_calls", "machine": machine,
                          "torch": torch.__version__, "seq_len": arguments.seq_len,
                          "heads": arguments.heads, "head_dim": arguments.head_dim, "rows": rows}))
    else:
        print(f"{machine}, torch {torch.__version__}: forward and backward of [1, "
              f"{arguments.heads}, {arguments.seq_len}, {arguments.head_dim}], bf16, ms\n")
        print(f"{'entry point':<46} {'mask':>9} {'first':>9} {'cached':>9}")
        for row in rows:
            if "error" in row:
                print(f"{row['entry_point']:<46} {row['error']}")
                continue
            mask = "" if row["mask_ms"] is None else f"{row['mask_ms']:.1f}"
            print(f"{row['entry_point']:<46} {mask:>9} {row['first_ms']:>9.1f} "
                  f"{row['cached_ms']:>9.1f}")
    return 1 if any("error" in row for row in rows if row["entry_point"].startswith("lace")) else 0


if __name__ == "__main__":
    sys.exit(main())
