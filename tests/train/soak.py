#!/usr/bin/env python3
"""A run that is killed twenty times ends as one that is not: soak.py LACE [--device cuda] …

Trains a small model undisturbed, then again with kill -9 at random moments (before its first step,
between steps, in a validation, a sample, a checkpoint) and --resume after each. Losses, norms,
validations, samples, checkpoints, and what TensorBoard would show must be the same, bit for bit, no
step missing or there twice. Where each kill fell, and the seed that repeats them, is printed. Prints
a line of JSON at the end.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import runs

SKIPPED = 77
SECONDS = 300  # for anything that ends by itself much sooner


def settings(steps):
    keys = {"steps": steps, "validate_every": 10, "checkpoint_every": 7, "keep_checkpoints": 2,
            "sample_every": 15, "sample_bytes": 20, "spike": 1.02}
    return [item for key, value in keys.items() for item in ("--set", f"train.{key}={value}")]


class Soak:
    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.recipe = runs.prepare(folder, options.precision)
        self.settings = settings(options.steps)

    def start(self, run, *more):
        with open(self.folder / "errors", "w") as errors:
            return subprocess.Popen([self.options.lace, "train", self.recipe, "--run", run,
                                     "--device", self.options.device, *self.settings, *more],
                                    stdout=subprocess.DEVNULL, stderr=errors)

    def errors(self):
        return (self.folder / "errors").read_text()

    def finish(self, process):
        code = process.wait(timeout=SECONDS)
        assert code == 0, (code, self.errors())

    def steps_done(self, run):
        try:
            return (run / "metrics.jsonl").read_bytes().count(b"\n")
        except FileNotFoundError:
            return 0

    def kill(self, run, target, rng, step_s):
        """Starts the run, and kills it some time after it has come to step `target`; None: within
        its first second, in which it loads, or its first steps. Says where it was."""
        before = self.steps_done(run)
        process = self.start(run, "--resume")
        deadline = time.monotonic() + SECONDS
        if target is None:
            latest = time.monotonic() + rng.uniform(0, 1.0)
            # What is after the last checkpoint is dropped first, and taken again.
            while time.monotonic() < latest and self.steps_done(run) < before + 3:
                time.sleep(step_s / 10)
        else:
            while self.steps_done(run) < target:
                assert process.poll() is None, (process.returncode, self.errors())
                assert time.monotonic() < deadline, "the run has stopped moving"
                time.sleep(step_s / 10)
            time.sleep(rng.uniform(0, 4 * step_s))
        assert process.poll() is None, (process.returncode, self.errors())
        process.send_signal(signal.SIGKILL)
        process.wait()
        files = sorted(file.name for file in run.glob("*.tmp")) if run.exists() else []
        return {"step": self.steps_done(run), "writing": files}


def targets(steps, kills, rng):
    """Where to kill: a few times as it starts, else at ascending steps."""
    early = kills // 6
    # The last kills must find a run, however late they come: a quarter of its steps is left then.
    at = sorted(rng.sample(range(2, steps * 3 // 4), kills - early))
    for _ in range(early):
        at.insert(rng.randrange(len(at)), None)
    return at


def compare(whole, parts, steps):
    assert [f[0] for f in runs.figures(whole)] == list(range(1, steps + 1))
    assert runs.figures(parts) == runs.figures(whole), "other figures"
    for name in ("last", "previous", "best", *(f.stem for f in whole.glob("step-*.safetensors"))):
        assert runs.tensors(parts, name) == runs.tensors(whole, name), f"another {name}"
    samples = runs.lines(whole / "samples.jsonl")
    assert samples and runs.lines(parts / "samples.jsonl") == samples
    for sample in samples:
        assert (parts / sample["file"]).read_bytes() == (whole / sample["file"]).read_bytes()
    assert not list(parts.glob("*.tmp"))
    shown = runs.shown_by_tensorboard(parts)
    if shown is not None:
        assert [step for step, _ in shown["loss"]] == list(range(1, steps + 1)), shown["loss"]
        assert shown["loss"] == runs.shown_by_tensorboard(whole)["loss"]
    return shown is not None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("lace", type=os.path.abspath)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default=None, help="default: fp32, on a GPU bf16")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=None, help="of the moments; default: the clock's")
    options = parser.parse_args()
    if options.precision is None:
        options.precision = "fp32" if options.device == "cpu" else "bf16"
    if options.device != "cpu":
        about = json.loads(runs.lace(options.lace, "info", "--json")[0])
        if not about["gpus"]:
            print("skipped: no GPU")
            return SKIPPED
    seed = options.seed if options.seed is not None else time.time_ns() % 1_000_000
    print(f"seed {seed}", flush=True)
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        soak = Soak(options, folder)
        whole, parts = folder / "whole", folder / "parts"
        soak.finish(soak.start(whole))
        elapsed = runs.lines(whole / "metrics.jsonl")[-1]["elapsed_s"]
        step_s = elapsed / options.steps
        fell = []
        for target in targets(options.steps, options.kills, rng):
            fell.append(soak.kill(parts, target, rng, step_s))
            print(f"killed after step {fell[-1]['step']}"
                  + (f", writing {', '.join(fell[-1]['writing'])}" if fell[-1]["writing"] else ""),
                  flush=True)
        soak.finish(soak.start(parts, "--resume"))
        tensorboard = compare(whole, parts, options.steps)
        print(json.dumps({"device": options.device, "precision": options.precision, "seed": seed,
                          "steps": options.steps, "kills": len(fell),
                          "while_writing": sum(bool(kill["writing"]) for kill in fell),
                          "tensorboard": tensorboard, "same": True}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
