#!/usr/bin/env python3
"""How fast a recipe's byte model learns in lace and in PyTorch: bits/byte after the same steps.

Both sides train the same model (bench/step_model.py) from start values of the same distribution, on
as many windows of the same bytes, and are scored on the same first bytes of the validation split,
in windows side by side, each predicted from its own start. Schedule, betas, decay (of tensors of
rank 2 and more), clipping and precision are the recipe's. What differs:
  - start values and the order of windows are drawn by other generators; lace takes each window of
    an epoch once, PyTorch's begin anywhere, with replacement
  - with t steps done, PyTorch adds epsilon to √(v / (1 − β₂ᵗ)), lace to √v; and lace multiplies the
    decay by Adam's correction √(1 − β₂ᵗ) / (1 − β₁ᵗ) too, PyTorch by the learning rate alone
That both have one model and one score is checked: PyTorch scores the weights of the first run of
lace:dense as well, which must give lace's bits/byte to 0.005.

A contender is SIDE:PATTERN: lace with dense, fixed, strided (as the paper has them, for blocks of
64), recipe, or a name of --pattern; torch:dense, by the fastest dense attention that it has (--fa3:
by FlashAttention-3), compiled on a GPU.

  bench/learning_vs_pytorch.py build/cuda/bin/lace recipes/byte_lm_rotary.toml \\
      --data data/wiki100m.txt --steps 700 --seeds 1 2 \\
      --contenders lace:dense,lace:fixed,lace:strided,torch:dense --json learning.json
  bench/learning_vs_pytorch.py build/cuda/bin/lace recipes/byte_lm_rotary.toml \\
      --data data/wiki100m.txt --pattern 'wide=local(256) | strided(256)' \\
      --contenders lace:wide,torch:dense --set optimizer.learning_rate=5e-4
  bench/learning_vs_pytorch.py build/cpu/bin/lace recipes/byte_lm_rotary.toml --data README.md \\
      --device cpu --steps 40 --validation-bytes 512 --set model.seq_len=128 model.layers=2 \\
      model.d_model=64 train.batch=4 optimizer.warmup_steps=5
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
import tomllib

import torch
import torch.nn.functional as F
from torch import nn

from lace_cli import lace_json
from step_model import Model, masked_attention, named_as_in_lace, set_start_values

PATTERNS = {"dense": "dense", "fixed": "fixed(64, 16, 4)", "strided": "local(64) | strided(64)"}
AGREE = 0.005  # bits/byte; bf16 gives 0.001


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lace", help="the lace program")
    parser.add_argument("recipe")
    parser.add_argument("--data", required=True, metavar="FILE", help="the bytes of both sides")
    parser.add_argument("--steps", type=int, default=700, help="of each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--contenders", default="lace:dense,lace:fixed,lace:strided,torch:dense")
    parser.add_argument("--pattern", action="append", default=[], metavar="NAME=PATTERN")
    parser.add_argument("--validation-bytes", type=int, default=1_000_000)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fa3", help="FlashAttention-3 as a library of PyTorch operations")
    parser.add_argument("--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE",
                        help="as in lace train, for both sides")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    arguments.patterns = {**PATTERNS, "recipe": None}
    for text in arguments.pattern:
        name, equals, pattern = text.partition("=")
        if not equals:
            parser.error(f"--pattern takes NAME=PATTERN, got {text}")
        arguments.patterns[name] = pattern
    arguments.contenders = arguments.contenders.split(",")
    for contender in arguments.contenders:
        side, _, pattern = contender.partition(":")
        if contender != "torch:dense" and (side != "lace" or pattern not in arguments.patterns):
            parser.error(f"a contender is torch:dense or lace: with one of "
                         f"{', '.join(arguments.patterns)}, got {contender}")
    if not os.path.isfile(arguments.data):
        parser.error(f"--data must be a file, got {arguments.data}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU here: --device cpu")
    return arguments


# ---- lace ----------------------------------------------------------------------------------------


class Lace:
    def __init__(self, arguments, folder):
        self.arguments, self.folder = arguments, folder
        self.common = ["--device", arguments.device, "--threads", str(arguments.threads)]

    def train(self, name, overrides=()):
        """The run's folder."""
        run = os.path.join(self.folder, name)
        lace_json(self.arguments.lace,
                  ["train", self.arguments.recipe, "--run", run, *self.common],
                  [f"data.paths={json.dumps([os.path.abspath(self.arguments.data)])}",
                   "train.validate_every=0", "train.validate_windows=1",
                   "train.checkpoint_every=0", *self.arguments.set,
                   f"train.steps={self.arguments.steps}", *overrides])
        return run

    def describe(self):
        """The recipe with all defaults filled in, how lace splits the data, the model."""
        run = self.train("shape", ["train.steps=1"])
        with open(os.path.join(run, "recipe.toml"), "rb") as file:
            recipe = tomllib.load(file)
        recipe["train"]["steps"] = self.arguments.steps
        with open(os.path.join(run, "run.json")) as file:
            about = json.load(file)
        model = lace_json(self.arguments.lace, ["model", self.arguments.recipe], self.arguments.set)
        return recipe, about, model

    def score(self, run, validation):
        result = lace_json(self.arguments.lace, [
            "eval", run, "--data", validation, "--min-context", "0", "--checkpoint", "last",
            *self.common])
        return result["bits_per_byte"]


def tokens_per_s(run, recipe):
    """From the end of the steps that warm up to the end of the last."""
    with open(os.path.join(run, "metrics.jsonl")) as file:
        elapsed = [json.loads(line)["elapsed_s"] for line in file]
    skipped = warm_up_steps(len(elapsed))
    return tokens_of_step(recipe) * (len(elapsed) - skipped) / (elapsed[-1] - elapsed[skipped - 1])


def warm_up_steps(steps):
    """Of the clock: they compile, choose and record."""
    return max(1, min(20, steps // 4))


def tokens_of_step(recipe):
    return (recipe["train"]["batch"] * recipe["train"]["accumulate"]
            * recipe["model"]["seq_len"])


def read_weights(path):
    """{"blocks.0.ln1.weight": tensor, …} of a checkpoint of lace: a safetensors file."""
    with open(path, "rb") as file:
        data = bytearray(file.read())
    start = 8 + int.from_bytes(data[:8], "little")
    weights = {}
    for name, about in json.loads(data[8:start]).items():
        if name.startswith("model."):
            begin, end = about["data_offsets"]
            weights[name.removeprefix("model.")] = torch.frombuffer(
                data, dtype=torch.float32, count=(end - begin) // 4,
                offset=start + begin).view(about["shape"])
    return weights


# ---- PyTorch -------------------------------------------------------------------------------------


def model_config(recipe, model):
    """What bench/step_model.py asks for, of a recipe and what `lace model` tells."""
    heads = model["heads"]
    return {**recipe["model"], "kv_heads": model["kv_heads"], "rotary": model["rotary"],
            "qk_dim": heads * model["qk_head_dim"], "v_dim": heads * model["v_head_dim"],
            "position_stride": model["position_rows"][-1] if model["position_rows"] else 0}


def learning_rate(recipe, step):
    """Of the step after `step` steps, as src/train/schedule.h has it."""
    t, warm_up = step + 1, recipe["optimizer"]["warmup_steps"]
    peak, total = recipe["optimizer"]["learning_rate"], recipe["train"]["steps"]
    if t < warm_up:
        return peak * t / warm_up
    x = (t - warm_up) / (total - warm_up) if total > warm_up else 0
    return peak * 0.5 * (1 + math.cos(math.pi * x))


class PyTorch:
    """One model for all seeds: it is compiled once."""

    def __init__(self, arguments, recipe, model, splits):
        self.recipe, self.tensors, self.device = recipe, model["tensors"], arguments.device
        self.train_bytes, self.validation_bytes = (x.to(self.device) for x in splits)
        self.check(recipe)
        config = model_config(recipe, model)
        self.n = config["seq_len"]
        self.kernel = "scaled_dot_product_attention"
        attend = masked_attention("dense", config)
        if self.device == "cuda":
            import step_gpu
            torch.set_float32_matmul_precision("high")
            self.kernel, attend, _ = step_gpu.choose_dense(config, recipe["train"]["batch"],
                                                           arguments.fa3)
        self.model = Model(config, [attend]).to(self.device)
        if self.device == "cuda":
            torch._dynamo.config.cache_size_limit = torch._dynamo.config.recompile_limit = 512
            for block in self.model.blocks:
                block.compile(dynamic=False)  # one graph for all layers

    @staticmethod
    def check(recipe):
        if recipe["model"]["precision"] not in ("bf16", "fp32"):
            raise ValueError(f"PyTorch's side computes in bf16 or fp32, got "
                             f"{recipe['model']['precision']}")
        if recipe["optimizer"]["ema"] or recipe["train"]["max_minutes"]:
            raise ValueError("PyTorch's side knows no optimizer.ema and no train.max_minutes")

    def logits(self, tokens):
        bf16 = self.recipe["model"]["precision"] == "bf16"
        with torch.autocast(self.device, torch.bfloat16, enabled=bf16):
            return self.model(tokens).float()

    def optimizer(self):
        settings = self.recipe["optimizer"]
        groups = {True: [], False: []}
        for name, parameter in named_as_in_lace(self.model).items():
            groups[parameter.dim() > 1 and name != "sos"].append(parameter)
        return torch.optim.AdamW(
            [{"params": groups[True], "weight_decay": settings["weight_decay"]},
             {"params": groups[False], "weight_decay": 0}],
            betas=(settings["beta1"], settings["beta2"]), eps=settings["epsilon"], fused=True)

    def step(self, optimizer, rate, generator):
        """The mean nats a byte, on the device."""
        train, clip = self.recipe["train"], self.recipe["optimizer"]["clip_norm"]
        total = 0
        for _ in range(train["accumulate"]):
            begins = torch.randint(len(self.train_bytes) - self.n + 1, (train["batch"], 1),
                                   generator=generator, device=self.device)
            window = torch.arange(self.n, device=self.device)
            tokens = self.train_bytes[begins + window].long()
            loss = F.cross_entropy(self.logits(tokens).flatten(0, 1), tokens.flatten())
            (loss / train["accumulate"]).backward()
            total = total + loss.detach() / train["accumulate"]
        if clip > 0:
            nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total

    def wait(self):
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def train(self, seed, progress):
        """Tokens a second."""
        set_start_values(self.model, self.tensors, seed)
        self.model.train()
        optimizer, steps = self.optimizer(), self.recipe["train"]["steps"]
        generator = torch.Generator(self.device).manual_seed(seed)
        skipped = warm_up_steps(steps)
        for step in range(steps):
            loss = self.step(optimizer, learning_rate(self.recipe, step), generator)
            if step + 1 == skipped:
                start = self.wait()
            if (step + 1) % 100 == 0:
                progress(f"step {step + 1}: {loss.item() / math.log(2):.3f} bits/byte")
        return tokens_of_step(self.recipe) * (steps - skipped) / (self.wait() - start)

    @torch.no_grad()
    def score(self):
        self.model.eval()
        windows = self.validation_bytes.view(-1, self.n)
        nats = 0.0
        batch = max(count for count in range(1, self.recipe["eval"]["batch"] + 1)
                    if len(windows) % count == 0)  # one shape, compiled once
        for tokens in windows.split(batch):
            tokens = tokens.long()
            nats += F.cross_entropy(self.logits(tokens).flatten(0, 1), tokens.flatten(),
                                    reduction="sum").item()
        return nats / windows.numel() / math.log(2)

    @torch.no_grad()
    def score_weights(self, weights):
        """Of lace's."""
        for name, parameter in named_as_in_lace(self.model).items():
            parameter.copy_(weights[name].view(parameter.shape))
        return self.score()


# ---- the comparison ------------------------------------------------------------------------------


def split_data(arguments, about, n):
    """The bytes of training, and the first of validation in whole windows, as lace splits them."""
    counts = about["bytes"]
    windows = min(arguments.validation_bytes, counts["validation"]) // n
    if windows == 0:
        raise ValueError(f"{arguments.data} has {counts['validation']} bytes for validation, "
                         f"--validation-bytes is {arguments.validation_bytes}: a window has {n}")
    with open(arguments.data, "rb") as file:
        data = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)
    return data[:counts["train"]], data[counts["train"]:][:windows * n]


def check_agreement(peer, run, bits, progress):
    """Lace's weights in PyTorch's model: one model, one score."""
    theirs = peer.score_weights(read_weights(os.path.join(run, "last.safetensors")))
    progress(f"the same weights scored by PyTorch: {theirs:.4f} bits/byte, by lace {bits:.4f}")
    if not abs(theirs - bits) <= AGREE:
        raise RuntimeError(f"PyTorch scores lace's weights at {theirs:.4f} bits/byte, lace at "
                           f"{bits:.4f}: they do not have the same model")
    return theirs


def run_all(arguments, lace, recipe, peer, validation, progress):
    rows = {contender: {"contender": contender, "seeds": []} for contender in arguments.contenders}
    agreement = None
    for seed in arguments.seeds:
        for contender, row in rows.items():
            progress(f"{contender}, seed {seed}")
            pattern = arguments.patterns[contender.partition(":")[2]]
            if contender == "torch:dense":
                rate, row["kernel"] = peer.train(seed, progress), peer.kernel
                bits = peer.score()
            else:
                overrides = [f"model.seed={seed}", f"train.seed={seed}"]
                if pattern is not None:
                    overrides.append(f"model.patterns={json.dumps([pattern])}")
                run = lace.train(f"{contender}-{seed}".replace(":", "-"), overrides)
                rate, bits = tokens_per_s(run, recipe), lace.score(run, validation)
                row["patterns"] = recipe["model"]["patterns"] if pattern is None else [pattern]
                if pattern == "dense" and agreement is None:
                    agreement = check_agreement(peer, run, bits, progress)
            row["seeds"].append({"seed": seed, "bits_per_byte": bits, "tokens_per_s": round(rate)})
            progress(f"{contender}, seed {seed}: {bits:.4f} bits/byte, {rate:,.0f} tokens/s")
    return list(rows.values()), agreement


def add_means(rows):
    for row in rows:
        row["bits_per_byte"] = statistics.fmean(one["bits_per_byte"] for one in row["seeds"])
        row["tokens_per_s"] = round(statistics.fmean(one["tokens_per_s"] for one in row["seeds"]))
    means = {row["contender"]: row["bits_per_byte"] for row in rows}
    for row in rows:
        for other in ("torch:dense", "lace:dense"):
            row["over_" + other.replace(":", "_")] = (
                row["bits_per_byte"] - means[other] if other in means else None)


def compare(arguments, progress):
    with tempfile.TemporaryDirectory() as folder:
        lace = Lace(arguments, folder)
        progress("lace, a step to see the recipe's shape")
        recipe, about, model = lace.describe()
        splits = split_data(arguments, about, recipe["model"]["seq_len"])
        validation = os.path.join(folder, "validation")
        with open(validation, "wb") as file:
            file.write(splits[1].numpy().tobytes())
        peer = None
        if {"torch:dense", "lace:dense"} & set(arguments.contenders):
            peer = PyTorch(arguments, recipe, model, splits)
        rows, agreement = run_all(arguments, lace, recipe, peer, validation, progress)
    add_means(rows)
    gpu = torch.cuda.get_device_name() if arguments.device == "cuda" else None
    return {"benchmark": "learning", "gpu": gpu, "torch": torch.__version__,
            "commit": about["commit"], "date": time.strftime("%Y-%m-%d"),
            "recipe": arguments.recipe, "set": arguments.set, "steps": recipe["train"]["steps"],
            "tokens_per_step": tokens_of_step(recipe), "parameters": model["parameters"],
            "train_bytes": len(splits[0]), "validation_bytes": len(splits[1]),
            "lace_dense_scored_by_torch": agreement, "rows": rows}


def print_report(report):
    print(f"{report['recipe']}, {report['parameters']:,} parameters, {report['steps']} steps of "
          f"{report['tokens_per_step']:,} bytes; scored on {report['validation_bytes']:,} bytes; "
          f"{report['gpu'] or 'CPU'}, torch {report['torch']}, lace {report['commit']}")
    seeds = [one["seed"] for one in report["rows"][0]["seeds"]]
    line = ("{:16}" + " {:>8}" * len(seeds) + " {:>8} {:>12} {:>11} {:>10}").format
    print(line("bits/byte", *[f"seed {seed}" for seed in seeds], "mean", "tokens/s",
               "torch:dense", "lace:dense"))
    for row in report["rows"]:
        over = ["–" if row[key] is None else f"{row[key]:+.3f}"
                for key in ("over_torch_dense", "over_lace_dense")]
        print(line(row["contender"], *[f"{one['bits_per_byte']:.4f}" for one in row["seeds"]],
                   f"{row['bits_per_byte']:.4f}", f"{row['tokens_per_s']:,}", *over))
    print("the last two columns: the mean over that contender's")
    for row in report["rows"]:
        print(f"{row['contender']}: {row.get('kernel') or ', '.join(row['patterns'])}")


def main():
    arguments = parse_arguments()
    started = time.monotonic()
    torch.set_num_threads(arguments.threads)

    def progress(text):
        print(f"{time.monotonic() - started:6.1f} s  {text}", file=sys.stderr, flush=True)
    try:
        report = compare(arguments, progress)
    except (RuntimeError, ValueError) as error:
        sys.exit(f"learning_vs_pytorch: {error}")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(report, file, indent=1)
            file.write("\n")
    print_report(report)


if __name__ == "__main__":
    main()
