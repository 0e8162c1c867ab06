"""lace train by several processes: train_two_ranks.py LACE [cpu|cuda]; cuda needs two GPUs."""

import concurrent.futures
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from ports import free_port

LACE = os.path.abspath(sys.argv[1])
DEVICE = sys.argv[2] if len(sys.argv) > 2 else "cpu"
SECONDS = 200  # for anything that ends by itself much sooner
LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_", "TORCHELASTIC_", "OMPI_", "PMIX_", "SLURM_")
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS)}
RECIPE = """
name = "tiny"
[model]
seq_len = 64
layers = 2
d_model = 32
heads = 2
patterns = "fixed(8, 2, 2)"
dropout = 0.2
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
steps = 12
validate_every = 5
validate_windows = 21
checkpoint_every = 4
[eval]
batch = 4
"""


def start(arguments, rank=0, size=1, port=0):
    environment = dict(CLEAN)
    if size > 1:
        environment |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank),
                        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return subprocess.Popen([LACE, "train", *map(str, arguments), "--threads", "1",
                             "--device", DEVICE],
                            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True)


def launch(size, *arguments):
    port = free_port()
    return [start(arguments, rank, size, port) for rank in range(size)]


def end(process, code=0):
    output, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == code, (process.returncode, output, errors)
    return output, errors


def train(size, *arguments):
    """Only rank 0 speaks, and all end well."""
    (output, errors), *others = [end(p) for p in launch(size, *arguments)]
    assert "trained" in output and "parameters" in errors, (output, errors)
    assert all(other == ("", "") for other in others), others


def steps(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run, name="last"):
    """A checkpoint's tensors, without the times beside them."""
    data = (run / f"{name}.safetensors").read_bytes()
    return data[8 + int.from_bytes(data[:8], "little"):]


def figures(run):
    keys = ("step", "loss", "gradient_norm", "learning_rate", "validation_bits_per_byte")
    return [tuple(step.get(key) for key in keys) for step in steps(run)]


def one_result(folder, recipe):
    """Two ranks take the steps of one with twice the accumulation, to rounding: bit for bit among
    themselves, whichever number of ranks a checkpoint comes from."""
    one, two, again, mixed = (folder / f"{recipe.stem}_{n}" for n in ("one", "two", "again", "mixed"))
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda run: train(*run), [
            (1, recipe, "--run", one, "--set", "train.accumulate=4"),
            (2, recipe, "--run", two, "--set", "train.accumulate=2"),
            (2, recipe, "--run", again, "--set", "train.accumulate=2")]))
    assert figures(two) == figures(again)
    assert weights(two) == weights(again) and weights(two, "best") == weights(again, "best")
    assert not any(b"rank" in name.encode() for name in os.listdir(two))
    tolerance = 1e-4 if recipe.stem == "fp32" else 2e-2  # sums in other orders, then 12 steps
    for a, b in zip(figures(one), figures(two), strict=True):
        for x, y in zip(a, b, strict=True):
            assert x == y or abs(x - y) <= tolerance * abs(x), (a, b)
    for run, ranks in ((one, 1), (two, 2)):
        about = json.loads((run / "run.json").read_text())
        state = json.loads((run / "last.json").read_text())
        assert about["ranks"] == ranks and state["bytes_trained"] == 12 * 4 * 2 * 64, (about, state)

    # Stopped after 8 steps of two ranks, and gone on with by two: the same. By one: as far as the
    # data are concerned, no window is left out or taken twice.
    train(2, recipe, "--run", mixed, "--set", "train.accumulate=2", "--set", "train.steps=8")
    train(2, recipe, "--run", mixed, "--set", "train.accumulate=2", "--resume")
    assert len(figures(mixed)) == 12
    train(1, recipe, "--run", mixed, "--set", "train.accumulate=2", "--set", "train.steps=14",
          "--resume")
    state = json.loads((mixed / "last.json").read_text())
    assert state["bytes_trained"] == (12 * 4 + 2 * 2) * 2 * 64, state


def divided(folder, recipe):
    """Ranks that divide the optimiser's state (train.shard_optimizer) take the same steps and write
    the same checkpoints, bit for bit, and a run may go on in either way with any number of ranks."""
    whole, shares, from_whole, from_shares = (folder / f"{recipe.stem}_{n}" for n in (
        "whole", "shares", "from_whole", "from_shares"))
    runs = {run: ("--run", run, "--set", "train.accumulate=2", "--set", "optimizer.clip_norm=0.1")
            for run in (whole, shares, from_whole, from_shares)}
    divide = ("--set", "train.shard_optimizer=true")

    def all_at_once(*calls):
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda arguments: train(*arguments), calls))

    all_at_once((2, recipe, *runs[whole]), (2, recipe, *runs[shares], *divide))
    assert figures(whole) == figures(shares)
    assert max(norm for _, _, norm, *_ in figures(whole)) > 0.1  # some steps are clipped
    for name in ("previous", "last", "best"):
        assert weights(whole, name) == weights(shares, name), name

    # From either to either; by three ranks, where there are as many devices; by one, which has
    # nothing to divide. Each time beside a run that never divides.
    shutil.copytree(whole, from_whole)
    shutil.copytree(shares, from_shares)
    many = 3 if DEVICE == "cpu" else 2
    for size, steps_in_all, ways in ((2, 15, ((), divide, ())), (many, 18, ((), (), divide)),
                                     (1, 20, ((), divide, ())), (2, 22, ((), divide, divide))):
        more = ("--set", f"train.steps={steps_in_all}", "--resume")
        all_at_once(*((size, recipe, *runs[run], *way, *more)
                      for run, way in zip((whole, from_whole, from_shares), ways)))
        assert len(figures(whole)) == steps_in_all
        for run in (from_whole, from_shares):
            assert figures(run) == figures(whole) and weights(run) == weights(whole), (run, size)


def stopped(folder, recipe):
    """Ctrl-C of one rank saves and ends all of them after the same step."""
    run = folder / "stopped"
    processes = launch(2, recipe, "--run", run, "--set", "train.steps=100000")
    while "step 1 " not in (line := processes[0].stderr.readline()):
        assert line, end(processes[0])
    processes[1].send_signal(signal.SIGINT)
    for process in processes:
        _, errors = end(process, 1)
        assert "interrupted: a checkpoint is saved" in errors, errors
    state = json.loads((run / "last.json").read_text())
    assert state["step"] == len(steps(run)) < 100000, state


def lost(folder, recipe, divide="false"):
    """A rank that is killed ends the others in 30 s; the run goes on from what rank 0 then saves,
    on a GPU, or where the optimiser's state is divided, from what it has saved."""
    run = folder / f"lost_{divide}"
    processes = launch(2, recipe, "--run", run, "--set", "train.steps=100000",
                       "--set", f"train.shard_optimizer={divide}")
    while not (run / "last.json").exists():
        assert processes[0].poll() is None, end(processes[0])
    begin = time.monotonic()
    processes[1].kill()
    _, errors = end(processes[0], 1)
    assert time.monotonic() - begin < 60  # 30 where the machine has a core for each rank
    processes[1].communicate()
    assert "[distributed] rank 1 of 2 has not been heard of" in errors, errors
    assert "frame #" not in errors, errors
    done = json.loads((run / "last.json").read_text())["step"]
    assert 0 < done <= len(steps(run)), (done, len(steps(run)))
    saves_nothing = DEVICE == "cuda" or divide == "true"
    assert done % 4 == 0 if saves_nothing else done == len(steps(run))
    train(2, recipe, "--run", run, "--set", f"train.steps={done + 3}", "--resume")
    assert len(steps(run)) == done + 3


def errors_are_told(folder, recipe):
    """What is wrong on one rank is said on all."""
    run = folder / "two"  # there already
    run.mkdir()
    (run / "recipe.toml").write_text("name = 'mine'")
    outputs = [end(p, 1)[1] for p in launch(2, recipe, "--run", run)]
    assert f"{run}" in outputs[0], outputs
    assert "[distributed] rank 0 of 2 ended with an error: [train]" in outputs[1], outputs

    port = free_port()
    pair = [start([recipe, "--run", folder / "other", "--set", f"train.batch={rank + 1}"], rank, 2,
                  port) for rank in range(2)]
    for process in pair:
        _, errors = end(process, 1)
        assert "[distributed] the recipe of rank 1 of 2 is not that of rank 0" in errors, errors
    assert not (folder / "other").exists()
    environment = CLEAN | {"RANK": "0", "WORLD_SIZE": "2"}
    half = subprocess.run([LACE, "train", recipe], env=environment, capture_output=True, text=True)
    assert half.returncode == 1 and "RANK=0, WORLD_SIZE=2 without LOCAL_RANK" in half.stderr, half


def main(folder):
    text = folder / "text"
    text.write_text("".join(f"line {i * i % 97} of the text\n" for i in range(3000)))
    recipes = {}
    wide = "fp32" if DEVICE == "cpu" else "bf16"
    for precision in (wide, "bf16", "fp16"):
        recipes[precision] = folder / f"{precision}.toml"
        recipes[precision].write_text(RECIPE.format(text=text, precision=precision))
    jobs = [(lost, recipes[wide]), (lost, recipes[wide], "true"), (one_result, recipes[wide]),
            (one_result, recipes["fp16"]), (divided, recipes[wide]), (divided, recipes["fp16"]),
            (stopped, recipes["bf16"]), (errors_are_told, recipes[wide])]
    begin = time.monotonic()

    def run(function, recipe, *more):
        try:
            function(folder, recipe, *more)
        except BaseException:
            print("failed:", function.__name__, recipe.name, *more, flush=True)
            raise
        print(f"{time.monotonic() - begin:.0f} s:", function.__name__, recipe.name, *more, flush=True)

    # With a GPU a process takes seconds to begin, in which it hardly needs a core.
    with concurrent.futures.ThreadPoolExecutor(2 if DEVICE == "cpu" else 4) as pool:
        for future in [pool.submit(run, *job) for job in jobs]:
            future.result()


with tempfile.TemporaryDirectory() as name:
    main(pathlib.Path(name))
