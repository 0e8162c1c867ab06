"""A run's events as TensorBoard's own reader finds them: tensorboard_test.py LACE."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

import runs

try:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
except ImportError:
    print("skipped: there is no tensorboard")
    sys.exit(77)

LACE = os.path.abspath(sys.argv[1])
STEPS = 400  # a kill comes before the last of them, also on a busy machine


def check(run):
    """Each number of the metrics once, and nothing else."""
    shown = runs.shown_by_tensorboard(run)
    metrics = runs.lines(run / "metrics.jsonl")
    assert [line["step"] for line in metrics] == list(range(1, STEPS + 1))
    for tag in ("loss", "bits_per_byte", "learning_rate", "gradient_norm", "memory_bytes"):
        wanted = [(line["step"], line[tag]) for line in metrics]
        assert [step for step, _ in shown[tag]] == [step for step, _ in wanted], tag
        for (_, a), (_, b) in zip(shown[tag], wanted, strict=True):
            assert abs(a - b) <= 1e-6 * abs(b), (tag, a, b)  # float32
    validated = [line["step"] for line in metrics if "validation_bits_per_byte" in line]
    assert [step for step, _ in shown["validation_bits_per_byte"]] \
        == validated == list(range(10, STEPS + 1, 10))
    assert len(shown["parts_s/step"]) == len(shown["share_of_peak"]) == STEPS
    return shown


def main(folder):
    recipe = runs.prepare(folder)
    whole, parts = folder / "whole", folder / "parts"
    longer = ["--set", f"train.steps={STEPS}"]
    runs.lace(LACE, "train", recipe, "--run", whole, *longer)
    shown = check(whole)
    # Killed a few times, so that steps were taken twice; one file was cut in the middle of an event.
    metrics = parts / "metrics.jsonl"
    for target in (9, 16, 30):
        process = subprocess.Popen([LACE, "train", recipe, "--run", parts, "--resume", *longer],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ended = False
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < target:
            assert not ended
            ended = process.poll() is not None
        process.send_signal(signal.SIGKILL)
        process.wait()
    newest = sorted(parts.glob("events.out.tfevents.*"))[-1]
    newest.write_bytes(newest.read_bytes()[:-7])
    runs.lace(LACE, "train", recipe, "--run", parts, "--resume", *longer)
    again = check(parts)
    assert again["loss"] == shown["loss"]
    files = sorted(parts.glob("events.out.tfevents.*"))
    assert 2 <= len(files) <= 4, files
    taken = [event.step for file in files for event in EventFileLoader(str(file)).Load()
             if event.HasField("summary")]
    assert len(taken) > STEPS, "no step was taken twice"
    first = next(iter(EventFileLoader(str(files[0])).Load()))
    assert first.file_version == "brain.Event:2", first
    print(json.dumps({"files": len(files), "events": len(taken), "tags": sorted(again)}))


with tempfile.TemporaryDirectory() as name:
    main(pathlib.Path(name))
