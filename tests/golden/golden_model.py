#!/usr/bin/env python3
"""Ten optimiser steps of lace against an independent implementation in PyTorch.

  golden_model.py GOLDEN_DRIVER [--dtype float64|float32|bfloat16] [--device cpu|cuda]

Written from the paper's definitions alone (arXiv 1904.10509): dense attention under a boolean mask,
autograd, and Adam spelled out. Both sides start from the same values, drawn here, and see the same
tokens; dropout is 0, warm-up 1. Losses and every parameter must agree: lace in float64, with its
reference kernel, to 1e-9; lace in float32, at learning rate 1e-3, to 1e-5 absolute. PyTorch's side
is float64 each time, so that lace's rounding is all that shows.

lace in bfloat16, on a CPU or a GPU: losses to LOSS_BFLOAT16 (rounding gives 5e-4), and the way Δ that
each parameter went in the ten steps to ‖Δ − Δ of float64‖ ≤ WAY_BFLOAT16 · ‖Δ of float64‖ (rounding
gives up to 0.1; a gradient left out 1, of the wrong sign 2). Single elements say little, since
Adam's first steps have the size of the learning rate however small a gradient is. For the same
reason the bias of k, whose true gradient is 0, is left out, and where W_out starts at 0, so that the
other gradients start at 0 too, more is allowed (rounding gives up to 0.64).
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile

import numpy
import torch

STEPS, HORIZON, BATCH, VOCAB = 10, 12, 2, 256
LEARNING_RATE, WARMUP, BETA1, BETA2, EPSILON, DECAY, CLIP = 1e-3, 1, 0.9, 0.999, 1e-8, 0.01, 1.0
TOLERANCE = {"float64": 1e-9, "float32": 1e-5}
SKIPPED = 77  # exit code
LOSS_BFLOAT16, WAY_BFLOAT16, WAY_BFLOAT16_FROM_ZERO = 2e-3, 0.25, 0.9

# MKL's exp, log and sqrt choose their kernels at the first call; where several threads make it, one
# may get another that is good to 1e-9 only (pytorch issue 188792). So one thread makes it.
for first_call in (torch.exp, torch.log, torch.sqrt):
    first_call(torch.ones(1, dtype=torch.float64))


# ---- which pairs are live: i attends to j ---------------------------------------------------------

def local(w):
    return lambda head, i, j: i - j < w


def strided(l):
    return lambda head, i, j: (i - j) % l == 0


def fixed(l, c, stripes):
    def live(head, i, j):
        stripe = head % stripes
        summary = (j % l >= l - c * (stripe + 1)) & (j % l < l - c * stripe)
        return (i // l == j // l) | summary
    return live


def union(a, b):
    return lambda head, i, j: a(head, i, j) | b(head, i, j)


def by_head(*patterns):
    return lambda head, i, j: patterns[head](head, i, j)


def mask(pattern, heads, n):
    i, j = torch.arange(n)[:, None], torch.arange(n)[None, :]
    return torch.stack([pattern(head, i, j) & (j <= i) for head in range(heads)])


# ---- cases: a model of each kind ------------------------------------------------------------------

CASES = {
    "text, fixed merged": dict(
        seq_len=96, layers=3, d_model=32, heads=4, kv_heads=4, qk_dim=32, v_dim=32, ff_multiple=4,
        positions="text", position_stride=16, patterns={"fixed(16, 4, 4)": fixed(16, 4, 4)},
        zero_output=True),
    "text, fixed merged, W_out not zero": dict(
        seq_len=96, layers=3, d_model=32, heads=4, kv_heads=4, qk_dim=32, v_dim=32, ff_multiple=4,
        positions="text", position_stride=16, patterns={"fixed(16, 4, 4)": fixed(16, 4, 4)},
        zero_output=False),
    "image, strided interleaved, half-size": dict(
        seq_len=72, layers=4, d_model=64, heads=2, kv_heads=2, qk_dim=32, v_dim=64, ff_multiple=2,
        positions="image", image_height=4, image_width=6, image_channels=3,
        patterns={"strided(18)": strided(18), "local(18)": local(18)}, zero_output=False),
    "heads apart, grouped keys, tied, recomputed": dict(
        seq_len=61, layers=2, d_model=40, heads=4, kv_heads=2, qk_dim=32, v_dim=64, ff_multiple=4,
        positions="text", position_stride=8, tied=True, recompute=True,
        patterns={"heads(1*(local(9) | strided(9)), 1*local(5), 1*strided(7), 1*local(61))":
                  by_head(union(local(9), strided(9)), local(5), strided(7), local(61))},
        zero_output=False),
}


# ---- the model ------------------------------------------------------------------------------------

class Model:
    def __init__(self, case, dtype, seed):
        self.case = case
        generator = torch.Generator().manual_seed(seed)
        n, d, layers = case["seq_len"], case["d_model"], case["layers"]
        qk, v = case["qk_dim"], case["v_dim"]
        shared = case["kv_heads"] / case["heads"]
        qkv = qk + int(shared * qk) + int(shared * v)
        ff = case["ff_multiple"] * d
        if case["positions"] == "text":
            stride = case["position_stride"]
            rows = [math.ceil(n / stride), stride]
        else:
            rows = [case["image_height"], case["image_width"], case["image_channels"]]
        self.parameters = {}

        def normal(name, std, *shape):
            # Drawn in float32, so that both precisions start from the same values.
            value = torch.empty(shape).normal_(0, std, generator=generator)
            self.parameters[name] = value.to(dtype).requires_grad_()

        def near(name, mean, *shape):
            # The model starts these at 0 or 1; other values show more.
            value = mean + torch.empty(shape).normal_(0, 0.05, generator=generator)
            self.parameters[name] = value.to(dtype).requires_grad_()

        normal("tok", 0.125 / math.sqrt(d), VOCAB, d)
        normal("sos", 0.125 / math.sqrt(d), d)
        for part, count in enumerate(rows):
            normal(f"pos.{part}", 0.125 / math.sqrt(d * len(rows)), count, d)
        for layer in range(layers):
            block = f"blocks.{layer}."
            branch = 1 / math.sqrt(2 * layers)
            near(block + "ln1.weight", 1, d)
            near(block + "ln1.bias", 0, d)
            normal(block + "qkv.weight", math.sqrt(0.125 / d), qkv, d)
            near(block + "qkv.bias", 0, qkv)
            normal(block + "proj.weight", math.sqrt(0.125 / v) * branch, d, v)
            near(block + "proj.bias", 0, d)
            near(block + "ln2.weight", 1, d)
            near(block + "ln2.bias", 0, d)
            normal(block + "ff1.weight", math.sqrt(0.125 / d), ff, d)
            near(block + "ff1.bias", 0, ff)
            normal(block + "ff2.weight", math.sqrt(0.125 / ff) * branch, d, ff)
            near(block + "ff2.bias", 0, d)
        near("ln_f.weight", 1, d)
        near("ln_f.bias", 0, d)
        if not case.get("tied"):
            normal("out.weight", 0.0 if case["zero_output"] else 0.05, VOCAB, d)
        self.masks = [mask(pattern, case["heads"], n) for pattern in case["patterns"].values()]

    def positions(self, i):
        if self.case["positions"] == "text":
            stride = self.case["position_stride"]
            return [i // stride, i % stride]
        channels, width = self.case["image_channels"], self.case["image_width"]
        return [i // (width * channels), i // channels % width, i % channels]

    def norm(self, x, name, eps):
        mean = x.mean(-1, keepdim=True)
        variance = ((x - mean) ** 2).mean(-1, keepdim=True)
        p = self.parameters
        return (x - mean) / torch.sqrt(variance + eps) * p[name + ".weight"] + p[name + ".bias"]

    def linear(self, x, name):
        return x @ self.parameters[name + ".weight"].T + self.parameters[name + ".bias"]

    def attention(self, x, layer):
        case = self.case
        batch, n, _ = x.shape
        heads, kv_heads = case["heads"], case["kv_heads"]
        qk, v_dim = case["qk_dim"] // heads, case["v_dim"] // heads
        q, k, v = self.linear(x, f"blocks.{layer}.qkv").split(
            [heads * qk, kv_heads * qk, kv_heads * v_dim], dim=-1)
        q = q.view(batch, n, heads, qk).transpose(1, 2)
        k = k.view(batch, n, kv_heads, qk).transpose(1, 2).repeat_interleave(heads // kv_heads, 1)
        v = v.view(batch, n, kv_heads, v_dim).transpose(1, 2).repeat_interleave(
            heads // kv_heads, 1)
        logits = (q @ k.transpose(2, 3)) / math.sqrt(qk)
        logits = logits.masked_fill(~self.masks[layer % len(self.masks)], -math.inf)
        out = torch.softmax(logits, -1) @ v
        return self.linear(out.transpose(1, 2).reshape(batch, n, heads * v_dim),
                           f"blocks.{layer}.proj")

    def feed_forward(self, x, layer):
        hidden = self.linear(x, f"blocks.{layer}.ff1")
        return self.linear(hidden * torch.sigmoid(1.702 * hidden), f"blocks.{layer}.ff2")

    def logits(self, tokens):
        p = self.parameters
        batch, n = tokens.shape
        symbol = p["tok"][tokens]
        for part, row in enumerate(self.positions(torch.arange(n))):
            symbol = symbol + p[f"pos.{part}"][row]
        h = torch.cat([p["sos"].expand(batch, 1, -1), symbol[:, :-1]], dim=1)
        for layer in range(self.case["layers"]):
            a = self.attention(self.norm(h, f"blocks.{layer}.ln1", 1e-5), layer)
            b = self.feed_forward(self.norm(h + a, f"blocks.{layer}.ln2", 1e-5), layer)
            h = h + a + b
        out = p["tok"] if self.case.get("tied") else p["out.weight"]
        return self.norm(h, "ln_f", 1e-6) @ out.T

    def loss(self, tokens):
        logits = self.logits(tokens)
        correct = logits.gather(2, tokens[:, :, None])[:, :, 0]
        return (torch.logsumexp(logits, -1) - correct).mean()


# ---- the optimiser --------------------------------------------------------------------------------

class Adam:
    def __init__(self, parameters):
        self.parameters = parameters
        self.m = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.v = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.steps = 0

    def step(self):
        self.steps += 1
        t = self.steps
        rate = LEARNING_RATE
        if t < WARMUP:
            rate *= t / WARMUP
        else:
            rate *= 0.5 * (1 + math.cos(math.pi * (t - WARMUP) / (HORIZON - WARMUP)))
        rate *= math.sqrt(1 - BETA2 ** t) / (1 - BETA1 ** t)
        with torch.no_grad():
            total = math.sqrt(sum((p.grad.double() ** 2).sum().item()
                                  for p in self.parameters.values()))
            clip = min(1.0, CLIP / total) if total > 0 else 1.0
            for name, p in self.parameters.items():
                g = p.grad * clip
                self.m[name].mul_(BETA1).add_((1 - BETA1) * g)
                self.v[name].mul_(BETA2).add_((1 - BETA2) * g * g)
                update = self.m[name] / (self.v[name].sqrt() + EPSILON)
                if p.dim() > 1:
                    update = update + DECAY * p
                p -= rate * update
                p.grad = None


# ---- both sides -----------------------------------------------------------------------------------

def recipe(case, dtype):
    model = {key: value for key, value in case.items()
             if key not in ("patterns", "zero_output")}
    model["patterns"] = list(case["patterns"])
    model["precision"] = {"float64": "fp64", "float32": "fp32", "bfloat16": "bf16"}[dtype]
    optimizer = dict(learning_rate=LEARNING_RATE, warmup_steps=WARMUP, beta1=BETA1, beta2=BETA2,
                     epsilon=EPSILON, weight_decay=DECAY, clip_norm=CLIP)

    def text(value):
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, list):
            return "[" + ", ".join(text(item) for item in value) + "]"
        return f'"{value}"' if isinstance(value, str) else repr(value)

    sections = {"model": model, "optimizer": optimizer,
                "data": dict(paths=["none"]), "train": dict(batch=BATCH, steps=HORIZON)}
    return 'name = "golden"\n' + "".join(
        f"[{section}]\n" + "".join(f"{key} = {text(value)}\n" for key, value in values.items())
        for section, values in sections.items())


def run_lace(driver, folder, case, dtype, device, model, tokens):
    with open(os.path.join(folder, "recipe.toml"), "w") as out:
        out.write(recipe(case, dtype))
    wide = "float64" if dtype == "float64" else "float32"  # of the parameters
    with open(os.path.join(folder, "names.txt"), "w") as out:
        out.writelines(name + "\n" for name in model.parameters)
    with open(os.path.join(folder, "parameters.bin"), "wb") as out:
        for parameter in model.parameters.values():
            out.write(parameter.detach().to(getattr(torch, wide)).numpy().tobytes())
    with open(os.path.join(folder, "tokens.bin"), "wb") as out:
        out.write(tokens.to(torch.uint8).numpy().tobytes())
    environment = dict(os.environ)
    if dtype == "float64":
        environment["LACE_KERNEL"] = "reference"
    done = subprocess.run([driver, folder, device], env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"golden_driver failed: {done.stderr.strip()}")
    losses = numpy.fromfile(os.path.join(folder, "losses.bin"), dtype=numpy.float64)
    values = numpy.fromfile(os.path.join(folder, "trained.bin"), dtype=wide)
    trained, offset = {}, 0
    for name, parameter in model.parameters.items():
        count = parameter.numel()
        trained[name] = torch.from_numpy(values[offset:offset + count]).view(parameter.shape)
        offset += count
    assert offset == len(values), "lace wrote another number of parameters"
    return losses, trained


def compare(driver, title, case, dtype, device):
    model = Model(case, torch.float64, seed=3)
    tokens = torch.randint(0, VOCAB, (STEPS, BATCH, case["seq_len"]),
                           generator=torch.Generator().manual_seed(5))
    start = {name: p.detach().clone() for name, p in model.parameters.items()}
    with tempfile.TemporaryDirectory() as folder:
        losses, trained = run_lace(driver, folder, case, dtype, device, model, tokens)
    adam, loss_error = Adam(model.parameters), 0.0
    for step in range(STEPS):
        loss = model.loss(tokens[step])
        loss.backward()
        adam.step()
        loss_error = max(loss_error, abs(loss.item() - losses[step]))
    errors = {name: (p.detach() - trained[name]).abs().max().item()
              for name, p in model.parameters.items()}
    moved = min((p.detach() - start[name]).abs().max().item()
                for name, p in model.parameters.items())
    if dtype == "bfloat16":
        return judge_bfloat16(title, case, device, loss_error, start, model.parameters, trained)
    worst = max(errors, key=errors.get)
    tolerance = TOLERANCE[dtype]
    good = loss_error <= tolerance and errors[worst] <= tolerance and moved > 1e-4
    print(f"{'ok  ' if good else 'FAIL'} {dtype} {title}: loss differs by {loss_error:.1e}, "
          f"parameters by {errors[worst]:.1e} ({worst}), allowed {tolerance:.0e}; "
          f"every parameter moved by {moved:.1e} or more")
    return good


def judge_bfloat16(title, case, device, loss_error, start, wanted, trained):
    def norm(name, x):
        if name.endswith("qkv.bias"):  # without that of k
            q, k = case["qk_dim"], case["qk_dim"] * case["kv_heads"] // case["heads"]
            x = torch.cat([x[:q], x[q + k:]])
        return x.norm().item()

    off = {name: norm(name, trained[name] - p.detach()) / norm(name, p.detach() - start[name])
           for name, p in wanted.items()}
    worst = max(off, key=off.get)
    allowed = WAY_BFLOAT16_FROM_ZERO if case["zero_output"] else WAY_BFLOAT16
    good = loss_error <= LOSS_BFLOAT16 and off[worst] <= allowed
    print(f"{'ok  ' if good else 'FAIL'} bfloat16 on {device}, {title}: loss differs by "
          f"{loss_error:.1e} (allowed {LOSS_BFLOAT16:.0e}), the way of {worst} by "
          f"{off[worst]:.2f} (allowed {allowed})")
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("driver")
    parser.add_argument("--dtype", choices=["bfloat16", *sorted(TOLERANCE)],
                        default="float64")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("skipped: no GPU")
        sys.exit(SKIPPED)
    torch.set_num_threads(2)
    results = [compare(arguments.driver, title, case, arguments.dtype,
                       arguments.device)
               for title, case in CASES.items()]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
