#!/usr/bin/env python3
"""Times one training step of a recipe's model in lace and in PyTorch eager, in turn.

PyTorch runs the same function with what a user has today: scaled_dot_product_attention with the
pattern as a boolean mask (is_causal for dense), autocast for bf16, fused AdamW, clipping by global
norm. Both get the same shapes, batch and number of threads; contenders run in rounds, one after the
other, and the medians of all steps are compared.

  bench/step_vs_pytorch.py build/cpu/bin/lace recipes/demo.toml [--json] [--rounds 3] [--steps 8]

Rows: the recipe's pattern and dense causal, each in bf16 and fp32; columns: milliseconds a step of
lace and of PyTorch, and PyTorch's time over lace's.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("lace", help="the lace program")
    parser.add_argument("recipe", help="a recipe with PositionKind text, one pattern")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="timed steps a round and contender")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def lace_steps(arguments, overrides):
    """{"config": …, "times_ms": […]} of one process that warms up and times its steps."""
    command = [arguments.lace, "bench", "step", arguments.recipe, "--json", "--threads",
               str(arguments.threads), "--steps", str(arguments.steps)]
    for override in overrides:
        command += ["--set", override]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr.strip())
    return json.loads(done.stdout)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        d = config["d_model"]
        self.heads = config["heads"]
        self.widths = [config["qk_dim"], config["qk_dim"], config["v_dim"]]
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv = nn.Linear(d, sum(self.widths))
        self.proj = nn.Linear(config["v_dim"], d)
        self.up = nn.Linear(d, config["ff_multiple"] * d)
        self.down = nn.Linear(config["ff_multiple"] * d, d)

    def forward(self, x, mask):
        batch, n, _ = x.shape
        q, k, v = (part.view(batch, n, self.heads, -1).transpose(1, 2)
                   for part in self.qkv(self.norm1(x)).split(self.widths, dim=-1))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        x = x + self.proj(out.transpose(1, 2).reshape(batch, n, -1))
        hidden = self.up(self.norm2(x))
        return x + self.down(hidden * torch.sigmoid(1.702 * hidden))


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        d, n, stride = config["d_model"], config["seq_len"], config["position_stride"]
        self.token = nn.Embedding(config["vocab"], d)
        self.row = nn.Embedding(math.ceil(n / stride), d)
        self.column = nn.Embedding(stride, d)
        self.start = nn.Parameter(torch.zeros(1, 1, d))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config["layers"]))
        self.norm = nn.LayerNorm(d)
        self.out = nn.Linear(d, config["vocab"], bias=False)
        positions = torch.arange(n)
        self.register_buffer("rows", positions // stride)
        self.register_buffer("columns", positions % stride)

    def forward(self, tokens, mask):
        x = self.token(tokens) + self.row(self.rows) + self.column(self.columns)
        x = torch.cat([self.start.expand(x.shape[0], 1, -1), x[:, :-1]], dim=1)
        for block in self.blocks:
            x = block(x, mask)
        return self.out(self.norm(x))


def pattern_mask(config):
    """[heads, n, n] bool: the written definition of fixed(l, c, v)."""
    atoms = config["patterns"][0]
    n, heads = config["seq_len"], config["heads"]
    i, j = torch.arange(n)[:, None], torch.arange(n)[None, :]
    if atoms.startswith("fixed("):
        length, columns, stripes = map(int, atoms[6:-1].split(","))
        stripe = (torch.arange(heads) % stripes)[:, None, None]
        residue = j % length
        summary = (residue >= length - columns * (stripe + 1)) & (residue < length - columns * stripe)
        return ((i // length == j // length) | summary) & (j <= i)
    sys.exit(f"step_vs_pytorch: only fixed(l, c, v) and dense are known here, got {atoms}")


class TorchStepper:
    def __init__(self, config, batch, dense, bf16):
        torch.manual_seed(1)
        self.model = Model(config)
        self.mask = None if dense else pattern_mask(config)
        self.bf16 = bf16
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)
        self.tokens = torch.randint(0, 256, (batch, config["seq_len"]))

    def step(self):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            logits = self.model(self.tokens, self.mask)
        loss = F.cross_entropy(logits.float().flatten(0, 1), self.tokens.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return (time.perf_counter() - start) * 1e3


def main():
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    cases = [(dense, bf16) for dense in (False, True) for bf16 in (True, False)]
    ours = {case: [] for case in cases}
    theirs = {case: [] for case in cases}
    steppers, shape = {}, {}
    for _ in range(arguments.rounds):
        for dense, bf16 in cases:
            overrides = [f'model.precision="{"bf16" if bf16 else "fp32"}"']
            if dense:
                overrides.append('model.patterns=["dense"]')
            result = lace_steps(arguments, overrides)
            ours[dense, bf16] += result["times_ms"]
            shape = result
            if (dense, bf16) not in steppers:
                steppers[dense, bf16] = TorchStepper(result["model"], result["batch"], dense, bf16)
                steppers[dense, bf16].step()
            stepper = steppers[dense, bf16]
            theirs[dense, bf16] += [stepper.step() for _ in range(arguments.steps)]
    rows = []
    for dense, bf16 in cases:
        mine, peer = statistics.median(ours[dense, bf16]), statistics.median(theirs[dense, bf16])
        rows.append({"pattern": "dense" if dense else "recipe", "dtype": "bf16" if bf16 else "fp32",
                     "lace_ms": round(mine, 2), "pytorch_ms": round(peer, 2),
                     "ratio": round(peer / mine, 3)})
    if arguments.json:
        print(json.dumps({"recipe": arguments.recipe, "threads": arguments.threads,
                          "torch": torch.__version__, "batch": shape["batch"],
                          "seq_len": shape["model"]["seq_len"], "rows": rows}, indent=1))
        return
    print(f"a training step of {arguments.recipe}, batch {shape['batch']} x "
          f"{shape['model']['seq_len']}, {arguments.threads} threads")
    print(f"{'pattern':8} {'dtype':5} {'lace ms':>9} {'PyTorch ms':>11} {'PyTorch / lace':>15}")
    for row in rows:
        print(f"{row['pattern']:8} {row['dtype']:5} {row['lace_ms']:9.1f} {row['pytorch_ms']:11.1f} "
              f"{row['ratio']:15.2f}")


if __name__ == "__main__":
    main()
