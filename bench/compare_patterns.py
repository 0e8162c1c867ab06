#!/usr/bin/env python3
"""Trains recipes that differ in their patterns, each with several seeds, on one machine, and scores
them: the paper's Table 2 on data of one's own, in calls of limited time.

A call trains what is unfinished until --limit seconds are over, stops with a checkpoint, and packs
what there is; the next call goes on. Runs stay in --work. Once all have taken their steps, each is
scored (lace eval, its 95% interval), the best by minimum context too (--sweep), and those of the
first seed draw samples and map their attention. --out then holds, at most 16 MB in all: summary.md, summary.json,
comparison.json, comparison.svg, and of each run its metrics, samples, page and settings.

Equal steps and equal time: curves are compared at the last step, and at the last moment, that all
have reached (lace compare). The second flatters nobody only where the learning rate is constant: with
--equal-time NAME the others train once more, with steps and schedule such that they take as long as
NAME did, by the median time of their steps.

Presets (--list shows their settings; --set is added to them, --steps says how long):
  text    enwik8's 95M model, dense, fixed, strided
  images  CIFAR-10's 59M model, dense, fixed, strided; a grid of real images beside the samples
  music   65,536, 262,144 and 1,048,576 samples of context: speed and memory

  bench/compare_patterns.py text build/cuda/bin/lace --device cuda --limit 540 --steps 1200 \\
      --data shared/data/wiki100m.txt.xz --out text.tar.xz
  bench/compare_patterns.py images build/cuda/bin/lace --device cuda --limit 540 --steps 1500 \\
      --data shared/data/cifar10_train20k.hwc.xz --set data.validation_fraction=0.1 \\
      data.test_paths=shared/data/cifar10_test1k.hwc.xz --out images.tar.xz
  bench/compare_patterns.py music build/cuda/bin/lace --device cuda --limit 540 --steps 20 \\
      --seeds 1 --data music.bin --set data.kind=text --out music.tar.xz
"""

import argparse
import io
import json
import math
import os
import pathlib
import signal
import statistics
import struct
import subprocess
import sys
import tarfile
import time
import wave

from lace_cli import environment, lace_json

RECIPES = pathlib.Path(__file__).resolve().parent.parent / "recipes"
MOST_BYTES = 15 << 20  # of --out
STOP_S = 25  # for a run to write its checkpoint, before the call's limit
LEAST_S = 40  # nothing is begun with less time left

# Short runs: the paper's dropout is for 80 epochs and its warm-up longer than the run, and GPT-2's
# start values leave the plateau of letter frequencies at once. The same for all patterns.
SHORT = ["model.dropout=0", "model.recompute=false", "model.init=gpt2", "optimizer.beta2=0.98",
         "optimizer.warmup_steps=100", "train.checkpoint_every=0", "train.keep_checkpoints=0",
         "train.sample_every=0"]
PRESETS = {
    "text": {
        "runs": {"dense": "enwik8_dense", "fixed": "enwik8", "strided": "enwik8_strided"},
        "set": [*SHORT, "optimizer.learning_rate=6e-4", "train.batch=4", "train.accumulate=1",
                "train.validate_every=100", "train.validate_windows=32", "eval.batch=4"],
        "sample": ["--length", "1024", "--count", "4"],
    },
    "images": {
        "runs": {"dense": "cifar10_dense", "fixed": "cifar10_fixed", "strided": "cifar10"},
        "set": [*SHORT, "model.embedding_gain=4", "train.batch=16", "train.accumulate=1",
                "train.validate_every=200", "train.validate_windows=256", "eval.batch=16"],
        "sample": ["--count", "36"],
    },
    "music": {
        "runs": {"65536": "music", "262144": "music_262144", "1048576": "music_1048576"},
        "set": ["optimizer.warmup_steps=10", "train.accumulate=1", "train.checkpoint_every=0",
                "train.keep_checkpoints=0", "train.sample_every=0", "train.validate_every=0",
                "train.validate_windows=4"],
        "sample": ["--length", "12000"],
    },
}


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("lace", nargs="?", help="the lace program")
    parser.add_argument("--data", nargs="+", default=[], metavar="FILE", help="data.paths")
    parser.add_argument("--runs", nargs="+", metavar="NAME=RECIPE",
                        help="recipe files in place of the preset's; the first is compared with")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--equal-time", metavar="NAME",
                        help="train the others once more, for as long as NAME has taken")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=float, default=540, metavar="SECONDS", help="of this call")
    parser.add_argument("--work", help="folder of the runs (default: runs/compare-PRESET)")
    parser.add_argument("--out", help="default: PRESET.tar.xz")
    parser.add_argument("--eval-windows", type=int, help="of a scoring; default: all of the split")
    parser.add_argument("--sweep-windows", type=int, default=64, help="of a sweep's row; 0: none")
    parser.add_argument("--split", default="test", choices=["test", "validation"])
    parser.add_argument("--list", action="store_true", help="print the preset's settings")
    arguments = parser.parse_args()
    preset = PRESETS[arguments.preset]
    arguments.contenders = {name: RECIPES / f"{recipe}.toml"
                            for name, recipe in preset["runs"].items()}
    if arguments.runs:
        arguments.contenders = dict(run.split("=", 1) for run in arguments.runs)
    if arguments.list:
        print(json.dumps({"runs": preset["runs"], "set": preset["set"]}, indent=2))
        sys.exit(0)
    if not arguments.lace:
        parser.error("the following arguments are required: lace")
    if arguments.equal_time and arguments.equal_time not in arguments.contenders:
        parser.error(f"--equal-time takes one of {', '.join(arguments.contenders)}")
    if arguments.steps < 1 or arguments.limit <= 0:
        parser.error("--steps and --limit must be above 0")
    arguments.work = pathlib.Path(arguments.work or f"runs/compare-{arguments.preset}")
    arguments.out = pathlib.Path(arguments.out or f"{arguments.preset}.tar.xz")
    arguments.settings = [*preset["set"], *arguments.set]
    if arguments.data:
        arguments.settings.append("data.paths=" + json.dumps(arguments.data))
    arguments.sample = preset["sample"]
    kinds = [text.split("=", 1)[1].strip('"') for text in arguments.settings
             if text.startswith("data.kind=")]
    arguments.suffix = {"text": ".txt", "images": ".png", "music": ".wav"}[arguments.preset]
    if arguments.preset == "music" and kinds and kinds[-1] == "text":
        arguments.suffix = ".bin"  # bytes that are mu-law codes already
    return arguments


class OutOfTime(Exception):
    """This call's time is over; the next one goes on."""


class Clock:
    def __init__(self, seconds):
        self.end = time.monotonic() + seconds

    def left(self):
        return self.end - time.monotonic()

    def begin(self):
        """Seconds that what is begun now may take."""
        if self.left() < LEAST_S + STOP_S:
            raise OutOfTime
        return self.left() - STOP_S


def read_json(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def metrics(folder):
    lines = []
    if (folder / "metrics.jsonl").exists():
        for text in (folder / "metrics.jsonl").read_text().splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break  # the last line of a run that was killed
    return lines


def step_s(folder):
    """The median time of a run's steps; its first ones compile plans and record graphs."""
    times = [line["parts_s"]["step"] for line in metrics(folder)]
    return statistics.median(times[len(times) // 4:]) if times else None


class Job:
    """One run: a recipe, a seed, and how many steps."""

    def __init__(self, arguments, name, recipe, seed, steps):
        self.name, self.recipe, self.seed, self.steps = name, recipe, seed, steps
        self.arguments = arguments
        self.title = f"{name}-{seed}"
        self.folder = arguments.work / self.title

    def steps_done(self):
        return read_json(self.folder / "last.json").get("step", 0)

    def finished(self):
        return self.steps_done() >= self.steps

    def train(self, clock):
        if self.finished():
            return
        seconds = clock.begin()
        settings = [*self.arguments.settings, f"model.seed={self.seed}", f"train.seed={self.seed}",
                    f"train.steps={self.steps}"]
        command = [self.arguments.lace, "train", str(self.recipe), "--run", str(self.folder),
                   "--resume", "--device", self.arguments.device, "--json"]
        for setting in settings:
            command += ["--set", setting]
        print(f"{self.title}: step {self.steps_done()} of {self.steps}", flush=True)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                   text=True, env=environment(self.arguments.lace))
        try:
            _, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            try:
                _, errors = process.communicate(timeout=max(STOP_S, clock.left()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                raise RuntimeError(f"{self.title} did not stop with a checkpoint") from None
            if not self.finished():
                if "a checkpoint is saved" not in errors:
                    raise RuntimeError(f"{self.title}: {errors.strip()}") from None
                raise OutOfTime from None
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait()
        if not self.finished():
            raise RuntimeError(f"{self.title}: {errors.strip()}")

    def ask(self, file, words, clock):
        """What `lace WORDS RUN --json` prints, asked for once and then read from a file."""
        path = self.folder / file
        if not path.exists():
            seconds = clock.begin()
            print(f"{self.title}: lace {' '.join(words)}", flush=True)
            try:
                answer = lace_json(self.arguments.lace, [
                    words[0], str(self.folder), *words[1:], "--device", self.arguments.device],
                    seconds=seconds)
            except subprocess.TimeoutExpired:
                if seconds < 0.8 * (self.arguments.limit - STOP_S):
                    raise OutOfTime from None
                answer = {"error": f"takes longer than a call, {seconds:.0f} s"}
            except RuntimeError as error:  # what cannot be asked does not end the comparison
                answer = {"error": str(error)}
            path.write_text(json.dumps(answer))
        return read_json(path)

    def score(self, clock):
        windows = self.arguments.eval_windows
        self.ask("eval.json", ["eval", "--split", self.arguments.split,
                               *(["--windows", str(windows)] if windows else [])], clock)

    def show(self, clock):
        self.ask("maps.json", ["attention", "--windows", "4"], clock)
        drawn = self.folder / ("drawn" + self.arguments.suffix)
        self.ask("drawn.json", ["sample", *self.arguments.sample, "--seed", "1", "--out",
                                str(drawn)], clock)
        if self.arguments.suffix == ".bin" and drawn.exists():
            write_wav(drawn.with_suffix(".wav"), drawn.read_bytes())


def write_wav(path, codes, rate=12000):
    """8-bit mu-law codes, as lace's data of kind audio has them, as a WAV file."""
    samples = []
    for code in codes:
        y = 2 * code / 255 - 1
        samples.append(round(32767 * math.copysign((256 ** abs(y) - 1) / 255, y)))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(struct.pack(f"<{len(samples)}h", *samples))


# ---- What a comparison is of ---------------------------------------------------------------------


def equal_steps(arguments):
    """By seeds, so that what is there early has all patterns."""
    return [Job(arguments, name, recipe, seed, arguments.steps)
            for seed in arguments.seeds for name, recipe in arguments.contenders.items()]


def equal_time(arguments, jobs):
    """The others once more, as long as the named one has taken; nothing until all have."""
    named = arguments.equal_time
    if not named or not all(job.finished() for job in jobs):
        return []
    steps = {name: statistics.median([step_s(job.folder) for job in jobs if job.name == name])
             for name in arguments.contenders}
    seconds = arguments.steps * steps[named]
    return [Job(arguments, f"{name}-as-long-as-{named}", recipe, seed,
                max(1, round(seconds / steps[name])))
            for seed in arguments.seeds for name, recipe in arguments.contenders.items()
            if name != named]


def work(arguments, clock):
    """All that there is to do, until the time is over. Whether all of it is done."""
    jobs = equal_steps(arguments)
    try:
        for job in jobs:
            job.train(clock)
        more = equal_time(arguments, jobs)
        for job in more:
            job.train(clock)
        for job in jobs + more:
            job.score(clock)
        best = min(jobs, key=lambda job: read_json(job.folder / "eval.json").get(
            "bits_per_byte", math.inf))
        if arguments.sweep_windows and arguments.preset != "images":
            best.ask("sweep.json", ["eval", "--split", arguments.split, "--sweep", "--windows",
                                    str(arguments.sweep_windows)], clock)
        for job in jobs:
            if job.seed == arguments.seeds[0]:
                job.show(clock)
        if arguments.preset == "images":
            show_data(arguments, jobs[0], clock)
        return True
    except OutOfTime:
        return False


def show_data(arguments, job, clock):
    """A grid of real images."""
    if not (arguments.work / "real" / "windows.png").exists():
        lace_json(arguments.lace, ["data", "show", str(job.folder / "recipe.toml"), "--windows",
                                   "36", "--out", str(arguments.work / "real")],
                  seconds=clock.begin())


# ---- What comes back -----------------------------------------------------------------------------


def begun(arguments):
    """Jobs that have taken a step."""
    jobs = equal_steps(arguments)
    return [job for job in jobs + equal_time(arguments, jobs) if metrics(job.folder)]


def facts(job):
    """What a table says of a run."""
    lines = metrics(job.folder)
    about = read_json(job.folder / "run.json")
    score = read_json(job.folder / "eval.json")
    memory = [line["memory_bytes"] for line in lines if line.get("memory_bytes")]
    speeds = [line["tokens_per_s"] for line in lines[len(lines) // 4:]]
    validations = [line["validation_bits_per_byte"] for line in lines
                   if line.get("validation_bits_per_byte") is not None]
    return {
        "run": job.title, "contender": job.name, "seed": job.seed, "finished": job.finished(),
        "steps": lines[-1]["step"], "parameters": about.get("parameters"),
        "seconds": lines[-1]["elapsed_s"], "step_s": step_s(job.folder),
        "tokens_per_s": statistics.median(speeds) if speeds else None,
        "memory_bytes": max(memory, default=None),
        "best_validation": min(validations, default=None),
        "last_validation": validations[-1] if validations else None,
        "score": {key: score.get(key) for key in (
            "split", "bits_per_byte", "interval_95", "min_context", "windows", "unit", "error")},
    }


def compare(arguments, jobs):
    if len(jobs) < 2:
        return {}
    folders = [str(job.folder) for job in jobs]
    picture = arguments.work / "comparison.svg"
    try:
        answer = lace_json(arguments.lace, ["compare", *folders, "--svg", str(picture)], seconds=60)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        answer = {"error": str(error)}
    (arguments.work / "comparison.json").write_text(json.dumps(answer, indent=1))
    return answer


def number(value, form="{:.3f}"):
    return "–" if value is None else form.format(value)


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)


def means(arguments, rows, comparison):
    """Of each contender, the mean over its seeds, and how far they lie apart."""
    compared = {pathlib.Path(row["run"]).name: row for row in comparison.get("runs", [])}
    result = []
    for name in dict.fromkeys(row["contender"] for row in rows):
        own = [row for row in rows if row["contender"] == name]
        figures = {"contender": name, "seeds": len(own)}
        for key, values in {
                "score": [row["score"]["bits_per_byte"] for row in own],
                "best_validation": [row["best_validation"] for row in own],
                "at_equal_steps": [compared.get(row["run"], {}).get("at_equal_steps") for row in own],
                "at_equal_time": [compared.get(row["run"], {}).get("at_equal_time") for row in own],
                "step_s": [row["step_s"] for row in own]}.items():
            values = [value for value in values if value is not None]
            figures[key] = statistics.mean(values) if values else None
            figures[key + "_apart"] = max(values) - min(values) if values else None
        result.append(figures)
    return result


def summarise(arguments, jobs, done):
    rows = [facts(job) for job in jobs]
    # Runs of fewer steps would move the step that all have reached.
    comparison = compare(arguments, [job for job in jobs if job.steps == arguments.steps])
    groups = means(arguments, rows, comparison)
    about = read_json(jobs[0].folder / "run.json") if jobs else {}
    sweeps = {job.title: read_json(job.folder / "sweep.json") for job in jobs
              if (job.folder / "sweep.json").exists()}
    summary = {"preset": arguments.preset, "complete": done, "command": sys.argv,
               "settings": arguments.settings, "version": about.get("version"),
               "commit": about.get("commit"), "machine": about.get("machine"), "runs": rows,
               "means": groups, "equal_steps": comparison.get("equal_steps"),
               "equal_time_s": comparison.get("equal_time_s"), "sweeps": sweeps,
               "notes": comparison.get("notes", [])}
    (arguments.work / "summary.json").write_text(json.dumps(summary, indent=1))
    machine = about.get("machine") or {}
    text = [f"# {arguments.preset}: {', '.join(arguments.contenders)}\n\n",
            f"{machine.get('gpu') or machine.get('processor')}, lace {about.get('version')} at "
            f"{about.get('commit')}; {'complete' if done else 'not complete yet'}.\n\n",
            "    " + " ".join(["bench/compare_patterns.py", *sys.argv[1:]]) + "\n\n",
            "    " + " ".join(arguments.settings) + "\n\n",
            table(["run", "parameters", "steps", "ms a step", "tokens/s", "memory, GB",
                   "best validation", "score", "95%"],
                  [[row["run"], number(row["parameters"], "{:,}"), f"{row['steps']:,}",
                    number(row["step_s"] and 1e3 * row["step_s"], "{:.1f}"),
                    number(row["tokens_per_s"], "{:,.0f}"),
                    number(row["memory_bytes"] and row["memory_bytes"] / 1e9, "{:.2f}"),
                    number(row["best_validation"]), number(row["score"]["bits_per_byte"]),
                    " to ".join(number(end) for end in row["score"]["interval_95"] or [None])]
                   for row in rows])]
    scores = [row["score"] for row in rows if row["score"]["bits_per_byte"] is not None]
    if scores:
        text.append(f"\nScore: {scores[0]['unit']} of the {scores[0]['split']} split, at least "
                    f"{scores[0]['min_context']:,} bytes of context.\n")
    if comparison.get("equal_steps"):
        text.append(f"\nMeans over seeds (how far apart); all at step "
                    f"{comparison['equal_steps']:,.0f}, and after "
                    f"{comparison['equal_time_s']:,.0f} s of training.\n\n")
        text.append(table(
            ["", "seeds", "score", "best validation", "equal steps", "equal time"],
            [[group["contender"], group["seeds"],
              *(f"{number(group[key])} ({number(group[key + '_apart'])})" for key in (
                  "score", "best_validation", "at_equal_steps", "at_equal_time"))]
             for group in groups]))
    for title, sweep in sweeps.items():
        text.append(f"\n{title} by minimum context.\n\n")
        text.append(table(["minimum context", sweep.get("unit"), "95%"],
                          [[f"{row['min_context']:,}", number(row["bits_per_byte"], "{:.4f}"),
                            " to ".join(number(end) for end in row["interval_95"] or [None])]
                           for row in sweep.get("sweep", [])]))
    text += [f"\n{note}\n" for note in summary["notes"]]
    (arguments.work / "summary.md").write_text("".join(text))
    return "".join(text)


def pack(arguments, jobs):
    """What matters most goes in first, as long as it fits."""
    files = [arguments.work / name for name in (
        "summary.md", "summary.json", "comparison.json", "comparison.svg", "real/windows.png")]
    for names in (["metrics.jsonl", "recipe.toml", "run.json", "last.json", "best.json",
                   "eval.json", "sweep.json"],
                  ["drawn*.png", "drawn*.txt", "drawn*.wav", "samples.jsonl", "samples/*.bin"],
                  ["report.html"], ["attention.json"]):
        for job in jobs:
            for name in names:
                files += sorted(job.folder.glob(name))
    bytes_of = b""
    for keep in (len(files), len(files) // 2, len(files) // 4, 5):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
            for file in files[:keep]:
                if file.exists():
                    archive.add(file, arcname=os.path.join(arguments.preset, os.path.relpath(
                        file, arguments.work)))
        bytes_of = buffer.getvalue()
        if len(bytes_of) <= MOST_BYTES:
            break
        print(f"{len(bytes_of):,} bytes are too many: the last of {keep} files stay here")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_bytes(bytes_of)
    print(f"{arguments.out}: {len(bytes_of):,} bytes")


def main():
    arguments = parse_arguments()
    clock = Clock(arguments.limit)
    arguments.work.mkdir(parents=True, exist_ok=True)
    try:
        done = work(arguments, clock)
    except BaseException:
        pack(arguments, begun(arguments))  # what was measured comes back whatever happens
        raise
    jobs = begun(arguments)
    print(summarise(arguments, jobs, done))
    pack(arguments, jobs)
    print("all is done" if done else "call again: there is more to do")


if __name__ == "__main__":
    # An outer time limit's signal ends the run that is on, with a checkpoint.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    main()
