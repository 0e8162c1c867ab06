"""What the tests of runs from outside share: a recipe, and what stands in a run's folder."""

import json
import logging
import pathlib
import subprocess

RECIPE = """
name = "tiny"
[model]
seq_len = 64
layers = 2
d_model = 32
heads = 2
patterns = "fixed(8, 2, 2)"
dropout = 0.1
precision = "{precision}"
deterministic = true
[data]
paths = ["{text}"]
[optimizer]
learning_rate = 1e-2
warmup_steps = 5
ema = 0.9
[train]
batch = 2
steps = 40
validate_every = 10
validate_windows = 8
checkpoint_every = 7
[eval]
batch = 4
"""
TEXT = "".join(f"line {i % 7} of {i % 11} of the text\n" for i in range(2000))


def prepare(folder, precision="fp32"):
    """A recipe in `folder` whose data are there too."""
    folder = pathlib.Path(folder)
    (folder / "text").write_text(TEXT)
    recipe = folder / "tiny.toml"
    recipe.write_text(RECIPE.format(text=folder / "text", precision=precision))
    return recipe


def lace(program, *arguments, code=0, **options):
    """Runs `lace …`, which must end with `code`; gives what it printed, stdout and stderr."""
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True,
                          timeout=600, **options)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done.stdout, done.stderr


def lines(file):
    file = pathlib.Path(file)
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def figures(run):
    """What of a run's metrics does not depend on the clock, step by step."""
    keys = ("step", "loss", "gradient_norm", "learning_rate", "validation_bits_per_byte", "spike",
            "windows")
    return [tuple(line.get(key) for key in keys) for line in lines(pathlib.Path(run, "metrics.jsonl"))]


def shown_by_tensorboard(run):
    """What TensorBoard shows of a run: by name, steps and values. None where it is not installed."""
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        return None
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of each restart
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]}


def tensors(run, name="last"):
    """A checkpoint's tensors, without the times beside them."""
    data = pathlib.Path(run, f"{name}.safetensors").read_bytes()
    return data[8 + int.from_bytes(data[:8], "little"):]
