#!/usr/bin/env python3
"""Times one training step of a recipe's model in lace and in PyTorch, in turn.

On a CPU PyTorch runs the same function with what a user has today: scaled_dot_product_attention
with the pattern as a boolean mask (is_causal for dense), autocast for bf16, fused AdamW, clipping
by global norm. Both get the same shapes, batch and number of threads; contenders run in rounds, one after the
other, and the medians of all steps are compared.

  bench/step_vs_pytorch.py build/cpu/bin/lace recipes/demo.toml [--json] [--rounds 3] [--steps 8]

Rows: the recipe's pattern and dense causal, each in bf16 and fp32; columns: milliseconds a step of
lace and of PyTorch, and PyTorch's time over lace's.

On a GPU PyTorch is compiled, with the fastest dense attention and with FlexAttention: step_gpu.py.

  bench/step_vs_pytorch.py build/cuda/bin/lace recipes/enwik8.toml --device cuda [--fa3 fa3.so]
      [--set train.batch=4 train.accumulate=1 model.dropout=0 model.recompute=false …]
      [--pattern 'local(128) | strided(128)' …] [--contenders lace,dense,flex,none] [--json]
"""

import argparse
import functools
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

from lace_cli import lace_json
from step_model import Model, masked_attention


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("lace", help="the lace program")
    parser.add_argument("recipe")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="timed steps a round and contender")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE",
                        help="as in lace train")
    gpu = parser.add_argument_group("with --device cuda")
    gpu.add_argument("--fa3", help="FlashAttention-3 as a library of PyTorch operations")
    gpu.add_argument("--pattern", action="extend", nargs="+", default=[],
                     help="rows of lace and FlexAttention with this pattern in every layer too")
    gpu.add_argument("--contenders", default="lace,dense,flex,none")
    return parser.parse_args()


def lace_steps(arguments, overrides, options):
    """What `lace bench step --json` prints: one process that warms up and times its steps."""
    overrides = arguments.set + overrides
    result = lace_json(arguments.lace, ["bench", "step", arguments.recipe, "--threads",
                                        str(arguments.threads), "--device", arguments.device,
                                        *options], overrides)
    if result["model"]["positions"] == "rotary":
        about = lace_json(arguments.lace, ["model", arguments.recipe], overrides)
        result["model"]["rotary"] = about["rotary"]
    return result


class TorchStepper:
    def __init__(self, config, batch, dense, bf16):
        torch.manual_seed(1)
        patterns = ["dense"] if dense else config["patterns"]
        self.model = Model(config, [masked_attention(pattern, config) for pattern in patterns])
        self.bf16 = bf16
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)
        self.tokens = torch.randint(0, 256, (batch, config["seq_len"]))

    def step(self):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            logits = self.model(self.tokens)
        loss = F.cross_entropy(logits.float().flatten(0, 1), self.tokens.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return (time.perf_counter() - start) * 1e3


def compare_on_cpu(arguments):
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
            result = lace_steps(arguments, overrides, ["--steps", str(arguments.steps)])
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


def compare_on_gpu(arguments):
    from step_gpu import compare, print_report
    report = compare(arguments, functools.partial(lace_steps, arguments))
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        print_report(report)
    if any(row["error"] for row in report["rows"]):
        sys.exit(1)


def main():
    arguments = parse_arguments()
    try:
        compare_on_gpu(arguments) if arguments.device == "cuda" else compare_on_cpu(arguments)
    except (RuntimeError, ValueError) as error:
        sys.exit(f"step_vs_pytorch: {error}")


if __name__ == "__main__":
    main()
