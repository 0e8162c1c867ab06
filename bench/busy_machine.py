#!/usr/bin/env python3
"""What one other busy program costs a training run.

Trains a recipe again and again, in turn on the machine as it is and beside a single-threaded
program that never sleeps, each for the given time, and compares the rates. A try is one pair of
runs. The machine must be quiet otherwise.

  bench/busy_machine.py build/cpu/bin/lace recipes/demo.toml [--tries 5] [--seconds 60] [--json]

Prints tokens a second of both runs of each try and their share, and the median share; with
--at-least 0.45, exits with 1 where the median is less.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import tomllib


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("lace", help="the lace program")
    parser.add_argument("recipe", help="a recipe; its data are replaced by random bytes")
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60, help="length of a run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--others", type=int, default=1, help="busy programs beside the second run")
    parser.add_argument("--set", action="append", default=[], help="as in lace train")
    parser.add_argument("--at-least", type=float, help="the least median share")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def tokens_per_s(arguments, folder, data):
    """The rate of one run, from the end of its first step to the end of its last."""
    run = tempfile.mkdtemp(dir=folder)
    command = [arguments.lace, "train", arguments.recipe, "--run", run + "/run", "--json",
               "--threads", str(arguments.threads)]
    for override in [f'data.paths=["{data}"]', "train.steps=0",
                     f"train.max_minutes={arguments.seconds / 60}",
                     "train.validate_every=1000000000", "train.checkpoint_every=1000000000",
                     *arguments.set]:
        command += ["--set", override]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr.strip())
    with open(run + "/run/recipe.toml", "rb") as file:
        recipe = tomllib.load(file)
    with open(run + "/run/metrics.jsonl") as file:
        steps = [json.loads(line) for line in file]
    first, last = steps[0], steps[-1]
    tokens = recipe["train"]["batch"] * recipe["train"].get("accumulate", 1)
    tokens *= recipe["model"]["seq_len"] * (last["step"] - first["step"])
    return tokens / (last["elapsed_s"] - first["elapsed_s"])


def busy_tokens_per_s(arguments, folder, data):
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"])
              for _ in range(arguments.others)]
    try:
        return tokens_per_s(arguments, folder, data)
    finally:
        for other in others:
            other.kill()
            other.wait()


def main():
    arguments = parse_arguments()
    tries = []
    with tempfile.TemporaryDirectory() as folder:
        data = os.path.join(folder, "data")
        with open(data, "wb") as file:
            file.write(random.Random(1).randbytes(1 << 22))
        for _ in range(arguments.tries):
            quiet = tokens_per_s(arguments, folder, data)
            busy = busy_tokens_per_s(arguments, folder, data)
            tries.append({"quiet": quiet, "busy": busy, "share": busy / quiet})
            if not arguments.json:
                print(f"quiet {quiet:,.0f} tokens/s, busy {busy:,.0f}: {busy / quiet:.1%}",
                      flush=True)
    median = statistics.median(one["share"] for one in tries)
    if arguments.json:
        print(json.dumps({"recipe": arguments.recipe, "threads": arguments.threads,
                          "seconds": arguments.seconds, "others": arguments.others,
                          "tries": tries, "median_share": median}, indent=2))
    else:
        print(f"median {median:.1%}")
    if arguments.at_least is not None and median < arguments.at_least:
        sys.exit(1)


if __name__ == "__main__":
    main()
