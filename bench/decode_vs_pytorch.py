#!/usr/bin/env python3
"""Times a byte drawn from a recipe's model in lace and in eager PyTorch with a key/value cache.

PyTorch runs the same function as a user writes it: weights in bf16, a cache of all keys and values
a layer, attention of one query with the pattern's row as a boolean mask (made beforehand, which costs
it nothing; none for dense), softmax and multinomial. Attention is scaled_dot_product_attention or
two matrix products, on one thread or on all, and the fastest of these counts; on a GPU with one
thread, and each byte is brought to the host. lace's numbers are those of `lace bench decode`. All get
the same position and batch, caches filled at random; contenders run in rounds, one after the other,
and medians are compared.

  bench/decode_vs_pytorch.py build/cpu/bin/lace [recipes/demo.toml …] [--rounds 3] [--json]
  bench/decode_vs_pytorch.py build/cuda/bin/lace recipes/enwik8.toml --device cuda --position 4096
"""

import argparse
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F

from lace_cli import lace_json
from step_model import Model, is_dense, keep, rotary_turns, rotate

RECIPES = ["recipes/demo.toml", "recipes/byte_lm_rotary.toml", "recipes/enwik8.toml"]
WARM_UP = 3


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("lace", help="the lace program")
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40, help="timed bytes a round and contender")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--position", type=int, help="bytes before; default: half of seq_len")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def by_sdpa(q, k, v, mask):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask,
                                          enable_gqa=q.shape[1] != k.shape[1])


def by_products(q, k, v, mask):
    shared = q.shape[1] // k.shape[1]
    q = q.view(q.shape[0], k.shape[1], shared, q.shape[3])
    logits = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
    if mask is not None:
        logits = logits.masked_fill(~mask.view(1, k.shape[1], shared, -1), -torch.inf)
    out = torch.softmax(logits, dim=-1) @ v
    return out.reshape(q.shape[0], -1, 1, v.shape[3])


WAYS = {"sdpa": by_sdpa, "products": by_products}


class TorchDecoder:
    """One sequence more of `batch` at a time, behind `position` bytes."""

    def __init__(self, config, batch, position, steps, device):
        torch.manual_seed(1)
        self.device = device
        self.config, self.batch, self.first = config, batch, position
        patterns = config["patterns"]
        self.model = Model(config, [None]).to(device, torch.bfloat16).eval()  # attention: block()'s
        shape = (batch, config["kv_heads"], config["seq_len"])
        self.caches = [[torch.randn(*shape, config[dim] // config["heads"], dtype=torch.bfloat16,
                                    device=device)
                        for dim in ("qk_dim", "v_dim")] for _ in self.model.blocks]
        self.turns = None
        if config["positions"] == "rotary":
            self.turns = rotary_turns(config).to(device, torch.bfloat16)
        self.masks = [self.mask_rows(pattern, position + steps + WARM_UP + 1)
                      for pattern in patterns]

    def mask_rows(self, pattern, last):
        """[steps, heads, 1, keys] of the rows that will be asked for; None for dense."""
        if is_dense(pattern):
            return None
        kept = keep(pattern)
        h = torch.arange(self.config["heads"])[:, None, None]
        i = torch.arange(self.first, last)[:, None, None, None]
        rows = kept(h, i, torch.arange(last))
        return rows.expand(-1, self.config["heads"], -1, -1).to(self.device).contiguous()

    @torch.no_grad()
    def logits(self, tokens, position):
        model = self.model
        x = model.token(tokens)[:, None]
        for i, table in enumerate(model.positions):
            x = x + table(model.indices[i, position - 1])
        for layer, block in enumerate(model.blocks):
            x = self.block(block, layer, x, position)
        return model.out(model.norm(x[:, 0])).float()

    def block(self, block, layer, x, position):
        batch = x.shape[0]
        q, k, v = (part.view(batch, 1, -1, dim).transpose(1, 2) for part, dim in
                   zip(block.qkv(block.norm1(x)).split(block.widths, dim=-1), block.head_dims))
        if self.turns is not None:
            turns = self.turns[:, position:position + 1]
            q, k = rotate(q, turns), rotate(k, turns)
        keys, values = self.caches[layer]
        keys[:, :, position] = k[:, :, 0]
        values[:, :, position] = v[:, :, 0]
        mask = self.masks[layer % len(self.masks)]
        row = None if mask is None else mask[position - self.first, :, :, :position + 1]
        out = self.attend(q, keys[:, :, :position + 1], values[:, :, :position + 1], row)
        x = x + block.proj(out.transpose(1, 2).reshape(batch, 1, -1))
        hidden = block.up(block.norm2(x))
        return x + block.down(hidden * torch.sigmoid(1.702 * hidden))

    def times_ms(self, steps, way, threads):
        torch.set_num_threads(threads)
        self.attend = WAYS[way]
        tokens = torch.zeros(self.batch, dtype=torch.long, device=self.device)
        times = []
        for i in range(WARM_UP + steps):
            start = time.perf_counter()
            logits = self.logits(tokens, self.first + i)
            tokens = torch.multinomial(torch.softmax(logits, dim=-1), 1)[:, 0]
            tokens.cpu()
            times.append((time.perf_counter() - start) * 1e3)
        return times[WARM_UP:]


def compare(arguments, recipe):
    ours, last, peer = [], None, None
    on_cpu = arguments.device == "cpu"
    theirs = {(way, threads): [] for way in WAYS
              for threads in ({1, arguments.threads} if on_cpu else {1})}
    options = ["--steps", str(arguments.steps), "--threads", str(arguments.threads), "--batch",
               str(arguments.batch), "--device", arguments.device]
    if arguments.position is not None:
        options += ["--position", str(arguments.position)]
    for _ in range(arguments.rounds):
        last = lace_json(arguments.lace, ["bench", "decode", recipe, *options])["rows"][0]
        ours.append(last)
        if peer is None:
            config = last["model"]
            if config["positions"] == "rotary":
                config["rotary"] = lace_json(arguments.lace, ["model", recipe])["rotary"]
            peer = TorchDecoder(config, arguments.batch, last["position"] - WARM_UP,
                                arguments.steps, torch.device(arguments.device))
        for (way, threads), times in theirs.items():
            times += peer.times_ms(arguments.steps, way, threads)
    mine = statistics.median(row["time_ms"] for row in ours)
    medians = {key: statistics.median(times) for key, times in theirs.items()}
    best = min(medians, key=medians.get)
    their = medians[best]
    ours_best = min((row["fastest"] for row in ours), key=lambda fastest: fastest["time_ms"])
    theirs_best = min(min(times) for times in theirs.values())
    return {"recipe": recipe, "parameters": last["parameters"], "position": last["position"],
            "lace_ms": round(mine, 4), "pytorch_ms": round(their, 4),
            "pytorch_attention": best[0], "pytorch_threads": best[1],
            "pytorch": [{"attention": way, "threads": threads, "time_ms": round(median, 4)}
                        for (way, threads), median in medians.items()],
            "ratio": round(their / mine, 2),
            "bound_ms": round(statistics.median(row["bound_ms"] for row in ours), 4),
            "share_of_bound": round(statistics.median(row["share_of_bound"] for row in ours), 3),
            "fastest": {"lace_ms": round(ours_best["time_ms"], 4),
                        "pytorch_ms": round(theirs_best, 4),
                        "ratio": round(theirs_best / ours_best["time_ms"], 2),
                        "share_of_bound": ours_best["share_of_bound"]},
            "bandwidth_gb_s": round(statistics.median(row["bandwidth_gb_s"] for row in ours), 2)}


def main():
    arguments = parse_arguments()
    try:
        rows = [compare(arguments, recipe) for recipe in arguments.recipes]
    except (RuntimeError, ValueError) as error:
        sys.exit(f"decode_vs_pytorch: {error}")
    if arguments.json:
        gpu = {} if arguments.device == "cpu" else {"gpu": torch.cuda.get_device_name(
            torch.device(arguments.device))}
        print(json.dumps({"benchmark": "decode_peers", "torch": torch.__version__,
                          "threads": arguments.threads, **gpu, "batch": arguments.batch,
                          "rows": rows}, indent=1))
        return
    print(f"{'recipe':30} {'bytes before':>12} {'lace ms':>9} {'PyTorch ms':>11} {'ratio':>7} "
          f"{'bound ms':>9} {'of it':>6}   fastest: lace, PyTorch, ratio, of bound")
    for row in rows:
        print(f"{row['recipe']:30} {row['position']:12} {row['lace_ms']:9.3f} "
              f"{row['pytorch_ms']:11.3f} {row['ratio']:7.1f} {row['bound_ms']:9.3f} "
              f"{100 * row['share_of_bound']:5.0f}%   {row['fastest']['lace_ms']:.3f} "
              f"{row['fastest']['pytorch_ms']:.3f} {row['fastest']['ratio']:.1f} "
              f"{100 * row['fastest']['share_of_bound']:.0f}%")


if __name__ == "__main__":
    main()
