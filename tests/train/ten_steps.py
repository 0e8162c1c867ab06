#!/usr/bin/env python3
"""Ten training steps of the paper's recipes in 16 bits, on a GPU, against the CPU's in float32.

  ten_steps.py LACE --write cpu.json [--resume] [--threads 2] [--recipes enwik8 cifar10 imagenet64]
  ten_steps.py LACE --against cpu.json [--device cuda] [--jobs 3] [--recipes …] [--steps]

Each recipe is cut to four layers and one window a step (two micro-batches of one where gradients
accumulate) and learns at rate 1e-3 without warm-up, so that ten steps go far: losses fall from
ln 256 to 3.2 to 3.9. The bytes are made here, the same on every machine. --write keeps the CPU's
losses and gradient norms in a file: cifar10 takes half a minute on two cores, the others some
minutes each. --against takes the same steps on the other device in bfloat16 and float16, with and
without dropout (whose masks are the same on every device) and recomputation, and with accumulation,
and compares step by step. Both together: first one, then the other. The exit code is 1 where a run
differs by more than its tolerance, 77 where there is no such device.

LOSS, absolute: a logit and the log-sum-exp, of size up to ln 256, come from 16-bit numbers, each
rounded by up to h of it (h = 2^-9 in bfloat16, 2^-12 in float16), which makes a deviation of
√2 · ln 256 · h / √3 in a byte's loss. What differs from byte to byte averages out over thousands of
bytes; what does not is common to all bytes of one symbol, as the rounded row of W_out is. The text
has symbols p of 1 / Σp² = 12.4, as 12 equally frequent ones, so that a step's loss has a deviation
of √2 · ln 256 · h / √3 / √12.4: 2.5e-3 and 3.1e-4. Three of them are allowed.

NORM, relative: on its way to a weight's gradient a number is rounded some 48 times (four layers,
two branches, three results a branch, forward and back), if independently with a deviation of
√48 · h / √3: 0.8% and 0.1%. Three of them are allowed.

Beside both, FLIP: Adam's first step moves each element by the learning rate whichever way its
gradient points, also where that is within rounding of 0. The rows of W_out of all bytes that never
occur have one gradient, the mean of the normed stream (about 1 in size), so that where a column of
it is near 0 all these rows go the other way, in any precision: their logits are off by twice the
learning rate, so is the loss for the share that they still have of the probability (most, in the
first steps), and relatively their probabilities, which gradients are proportional to.

On a CPU, the three recipes are off by up to 2.2e-3 and 1.1% in bfloat16, by 1.2e-3 and 0.30% in
float16 (enwik8, steps 3 and 4; else 3.4e-4 and 0.18%).

What faults would make of cifar10 in bfloat16 (loss, norm): a stride of 95 for 96 in one of the four
layers 0.087 and 12%, windows in another order 0.026 and 3.6%, no clipping 0.028, start values and
masks of another seed 0.020 and 11%, dropout of 0.3 for 0.25 0.012 and 5.9%, a norm's epsilon of
1e-4 for 1e-5 0.0086 and 3.7%, a learning rate of 1.01e-3 0.0098. Windows of 95 for 96, or Adam
without decay, are too small to see here: golden_model.py sees them.
"""

import argparse
import concurrent.futures
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RECIPES = ["enwik8", "cifar10", "imagenet64"]
STEPS, LEARNING_RATE, SEED = 10, 1e-3, 7
WINDOWS = 24  # of 12,288 bytes, of which 20 are read at most
SKIPPED = 77  # exit code
ROUNDING = {"bf16": 2**-9, "fp16": 2**-12}
FLIP = 2 * LEARNING_RATE
LOSS = {name: 3 * math.sqrt(2 / 3 / 12.4) * math.log(256) * h + FLIP
        for name, h in ROUNDING.items()}
NORM = {name: 3 * math.sqrt(48 / 3) * h + FLIP for name, h in ROUNDING.items()}

COMMON = ["data.validation_fraction=0", "data.test_fraction=0", "data.test_paths=[]",
          "model.layers=4", "train.batch=1",
          "train.accumulate=1", f"train.steps={STEPS}", "train.checkpoint_every=0",
          f"optimizer.learning_rate={LEARNING_RATE}", "optimizer.warmup_steps=1"]

# The runs on the CPU, and those of the other device that must take their steps.
REFERENCES = {
    "dropout 0": ["model.dropout=0"],
    "dropout": [],  # the recipe's
    "accumulate 2": ["train.accumulate=2"],
}
RUNS = [  # reference, precision, recompute
    ("dropout 0", "bf16", False),
    ("dropout 0", "bf16", True),
    ("dropout 0", "fp16", False),
    ("dropout", "bf16", False),
    ("dropout", "bf16", True),
    ("dropout", "fp16", True),
    ("accumulate 2", "bf16", True),
]


def has(recipe, reference):
    return reference != "accumulate 2" or recipe == "cifar10"  # whose windows are short


def make_text(length):
    """Made-up words, the frequent ones short, from a linear congruential generator."""
    state = SEED

    def below(count):
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (state >> 33) * count >> 31

    words = ["".join("etaoinshrdlucmfwypvbgkjqxz"[min(below(26), below(26))]
                     for _ in range(1 + below(3 + i // 40))) for i in range(400)]
    text = []
    while length > 0:
        word = words[min(below(400), below(400), below(400))] + " .\n"[max(0, below(20) - 17)]
        text.append(word)
        length -= len(word)
    return "".join(text).encode()


def run_lace(lace, recipe, folder, device, threads, overrides):
    """{"loss": [10], "gradient_norm": [10]} of a run."""
    run = tempfile.mkdtemp(dir=folder)
    command = [lace, "train", os.path.join(ROOT, "recipes", recipe + ".toml"), "--run",
               run + "/run", "--device", device, "--threads", str(threads)]
    for override in [f"data.paths={json.dumps([os.path.join(folder, 'bytes')])}", *COMMON,
                     *overrides]:
        command += ["--set", override]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{recipe}: {done.stderr.strip()}")
    with open(run + "/run/metrics.jsonl") as file:
        steps = [json.loads(line) for line in file]
    with open(run + "/run/run.json") as file:
        about = json.load(file)
    return {"commit": about["commit"], **{key: [step[key] for step in steps]
                                          for key in ("loss", "gradient_norm")}}


def write(arguments, folder):
    """Run by run, so that --resume can go on where it was stopped."""
    kept = {"of": what_is_run(folder), "runs": {}}
    if arguments.resume and os.path.exists(arguments.write):
        with open(arguments.write) as file:
            old = json.load(file)
        if old["of"] != kept["of"]:
            raise RuntimeError(f"{arguments.write} is of other bytes or settings: no --resume")
        kept = old
    for recipe, reference in references(arguments):
        name = f"{recipe}, {reference}"
        if name in kept["runs"]:
            print(f"{name}: is there already")
            continue
        begin = time.monotonic()
        run = run_lace(arguments.lace, recipe, folder, "cpu", arguments.threads,
                       ["model.precision=fp32", "model.recompute=false", *REFERENCES[reference]])
        kept["runs"][name] = run
        print(f"{name}: {time.monotonic() - begin:.0f} s, loss {run['loss'][0]:.4f} to "
              f"{run['loss'][-1]:.4f}", flush=True)
        with open(arguments.write, "w") as file:
            json.dump(kept, file, indent=1)


def references(arguments):
    return [(recipe, reference) for recipe in arguments.recipes for reference in REFERENCES
            if has(recipe, reference)]


def compare(arguments, folder):
    """True if all runs are within the tolerances."""
    with open(arguments.against) as file:
        kept = json.load(file)
    if kept["of"] != what_is_run(folder):
        raise RuntimeError(f"{arguments.against} is of other bytes or settings: --write it anew")
    missing = [f"{recipe}, {reference}" for recipe, reference in references(arguments)
               if f"{recipe}, {reference}" not in kept["runs"]]
    if missing:
        raise RuntimeError(f"{arguments.against} has not: {'; '.join(missing)}")

    def run(job):
        recipe, reference, precision, recompute = job
        return run_lace(arguments.lace, recipe, folder, arguments.device, arguments.threads,
                        [f"model.precision={precision}",
                         f"model.recompute={json.dumps(recompute)}", *REFERENCES[reference]])
    jobs = [(recipe, *run) for recipe in arguments.recipes for run in RUNS if has(recipe, run[0])]
    line = "{:10} {:13} {:5} {:9} {:>9} {:>9} {:>9} {:>5} {:>9} {:>9}  {}".format
    print(line("recipe", "", "", "recompute", "last loss", "loss off", "allowed", "step",
               "norm off", "allowed", ""))
    all_good = True
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for job, got in zip(jobs, pool.map(run, jobs)):
            recipe, reference, precision, recompute = job
            want = kept["runs"][f"{recipe}, {reference}"]
            loss, norm = differences(got, want)
            at = max(range(STEPS), key=lambda i: loss[i])
            good = max(loss) <= LOSS[precision] and max(norm) <= NORM[precision]
            all_good &= good
            print(line(recipe, reference, precision, "on" if recompute else "off",
                       f"{got['loss'][-1]:.4f}", f"{max(loss):.5f}", f"{LOSS[precision]:.5f}",
                       at + 1, f"{max(norm):.2%}", f"{NORM[precision]:.2%}",
                       "ok" if good else "FAIL"),
                  flush=True)
            if arguments.steps:
                for i in range(STEPS):
                    print(f"  step {i + 1:2}: loss {got['loss'][i]:.5f}, CPU "
                          f"{want['loss'][i]:.5f}; norm {got['gradient_norm'][i]:.4f}, CPU "
                          f"{want['gradient_norm'][i]:.4f}")
    return all_good


def differences(got, want):
    """Of each step: |loss − loss|, |norm / norm − 1|; NaN counts as infinite."""
    def off(values):
        values = list(values)
        if len(values) != STEPS:
            raise RuntimeError(f"a run has {len(values)} steps, not {STEPS}")
        return [value if math.isfinite(value) else math.inf for value in values]
    return (off(abs(a - b) for a, b in zip(got["loss"], want["loss"], strict=True)),
            off(abs(a / b - 1) for a, b in zip(got["gradient_norm"], want["gradient_norm"],
                                               strict=True)))


def what_is_run(folder):
    """A hash of the bytes and the settings: numbers of others are of no use."""
    with open(os.path.join(folder, "bytes"), "rb") as file:
        return hashlib.sha256(file.read() + json.dumps([COMMON, REFERENCES]).encode()).hexdigest()


def has_device(arguments):
    if arguments.device == "cpu":
        return True
    done = subprocess.run([arguments.lace, "info", "--json"], capture_output=True, text=True)
    return done.returncode == 0 and bool(json.loads(done.stdout)["gpus"])


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lace", help="the lace program")
    parser.add_argument("--write", metavar="FILE", help="run the CPU's steps, keep their numbers")
    parser.add_argument("--resume", action="store_true", help="of --write: keep what FILE has")
    parser.add_argument("--against", metavar="FILE", help="compare with the numbers in FILE")
    parser.add_argument("--device", default="cuda", help="of --against: cuda, cuda:N or cpu")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=RECIPES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=1, help="of --against: runs at a time")
    parser.add_argument("--steps", action="store_true", help="of --against: print each step")
    arguments = parser.parse_args()
    if not arguments.write and not arguments.against:
        parser.error("--write or --against is needed")
    return arguments


def main():
    arguments = parse_arguments()
    if arguments.against and not has_device(arguments):
        print(f"skipped: lace has no {arguments.device} here")
        sys.exit(SKIPPED)
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "bytes"), "wb") as file:
            file.write(make_text(WINDOWS * 12288)[:WINDOWS * 12288])
        try:
            if arguments.write:
                write(arguments, folder)
            if arguments.against and not compare(arguments, folder):
                sys.exit(1)
        except (OSError, RuntimeError, ValueError) as error:
            sys.exit(f"ten_steps: {error}")


if __name__ == "__main__":
    main()
