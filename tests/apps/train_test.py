"""lace train, eval and sample as a user runs them: train_test.py LACE."""

import fcntl
import functools
import json
import os
import pathlib
import pty
import re
import resource
import shutil
import signal
import struct
import subprocess
import tempfile
import termios
import time

import cli

RECIPE = cli.RECIPE.replace("steps = 20", "steps = 40") + """
validate_every = 20
[optimizer]
learning_rate = 1e-2
warmup_steps = 5
"""
lace = functools.partial(cli.lace, code=0, text=True)


def last_losses(run):
    text = (run / "metrics.jsonl").read_text()
    return [json.loads(line)["loss"] for line in text[:text.rfind("\n") + 1].splitlines()]


def start(*arguments):
    """A run in the background that has taken its first step."""
    process = subprocess.Popen([cli.LACE, *map(str, arguments)], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    while "step 1 " not in process.stderr.readline():
        assert process.poll() is None
    return process


def stopped_by_interrupt(recipe, run, *settings):
    """Ctrl-C after the first step of a short run, which on a busy machine may have ended before that
    signal comes: then another run is begun."""
    for _ in range(50):
        process = start("train", recipe, "--run", run, *settings)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=100)
        if process.returncode == 1:
            assert "--resume" in errors, errors
            return
        assert process.returncode == 0, (process.returncode, errors)
        shutil.rmtree(run)
    raise AssertionError("no run was stopped before its end")


def progress_names_the_step_of_a_validation(folder, recipe):
    """As soon as it is not of the step that is shown; on a terminal, where every step may be."""
    lines = [line for line in lace("train", recipe, "--run", folder / "lines").stderr.splitlines()
             if line.startswith("step ")]
    assert [line.split(" · ")[0] for line in lines] == ["step 1", "step 20", "step 40"], lines
    assert "validation" not in lines[0], lines
    assert all(re.search(r"validation \d+\.\d{3}$", line) for line in lines[1:]), lines
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
    process = subprocess.Popen([cli.LACE, *map(str, [
        "train", recipe, "--run", folder / "bar", "--set", "train.steps=1000000"])],
        stdout=subprocess.DEVNULL, stderr=theirs, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    shown = ""
    while not re.search(r"validation \d+\.\d{3} at step [1-9][0-9,]*\b", shown):
        shown = (shown + os.read(ours, 1 << 16).decode(errors="replace"))[-2000:]
    process.kill()
    process.wait()
    os.close(ours)


def missing_data(folder, recipe):
    """An error names what is missing, and what helps: the command that fetches it, if any."""
    def error(paths, *command):
        return lace(*command, "--set", f"data.paths={paths}", code=1, cwd=folder).stderr
    train, show = ["train", recipe, "--run", "none"], ["data", "show", recipe]
    for command in (train, show):
        assert ("no such file or folder: data/enwik8; `lace data get enwik8 --to data` fetches it; "
                "--set data.paths=FILE names others") in error("data/enwik8", *command)
        assert "`lace data get cifar10 --to .` fetches it" in error("cifar10/", *command)
        mine = error("data/mine", *command)
        assert "folder: data/mine; --set data.paths=FILE names" in mine, mine
    assert "as by --set data.paths=FILE" in error("[]", *train)
    assert not (folder / "none").exists()


def one_at_a_time(folder, recipe):
    """A second process on a run folder is refused at once; a killed one leaves nothing in the way."""
    run = folder / "shared"
    command = ["train", recipe, "--run", run, "--set", "train.steps=1000000",
               "--set", "train.checkpoint_every=1"]
    first = start(*command)
    for resume in ([], ["--resume"]):
        error = lace(*command, *resume, code=1).stderr
        assert f"{run} is being trained in by process {first.pid}" in error, error
    while not (run / "previous.safetensors").exists():
        assert first.poll() is None
    assert json.loads(lace("sample", run, "--length", "3", "--json", "--checkpoint", "last").stdout)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=100)
    # The last checkpoint may be some steps old: with the same schedule they come out the same.
    losses = last_losses(run)
    resumed = subprocess.Popen([cli.LACE, *map(str, command), "--resume"], stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)
    assert "goes on after step" in resumed.stderr.readline() + resumed.stderr.readline()
    while len(last_losses(run)) < len(losses) + 5:
        assert resumed.poll() is None
        time.sleep(0.05)
    resumed.send_signal(signal.SIGTERM)
    resumed.communicate(timeout=100)
    assert last_losses(run)[:len(losses)] == losses
    assert not (run / "train.lock").exists()


def stopped_by_term_then_at_once(folder, recipe):
    """SIGTERM saves and leaves within a step; a second signal, of the other kind, ends lace at once."""
    run = folder / "term"
    endless = ["train", recipe, "--run", run, "--set", "train.steps=1000000",
               "--set", "train.validate_every=0"]
    process = start(*endless)
    for _ in range(2):  # at once: one signal, as from who signals a process and then its group
        process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 1 and "a checkpoint is saved" in errors, (process.returncode, errors)
    assert json.loads((run / "last.json").read_text())["step"] == len(last_losses(run))
    # A sample of a million bytes holds up the step: the first signal cuts it short. A validation
    # does not end before its time: there the second signal finds lace.
    slow = ["--set", "train.validate_every=1", "--set", "train.validate_windows=1000000",
            "--set", f"data.paths=['{folder}/long']", "--set", "data.validation_fraction=0.9"]
    (folder / "long").write_text(cli.TEXT * 400)
    process = subprocess.Popen([cli.LACE, *map(str, [*endless[:2], "--run", folder / "slow", *slow])],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not (folder / "slow" / "metrics.jsonl").exists():
        assert process.poll() is None, process.communicate()
    time.sleep(1)  # past the first step, within its validation
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=100)
    # Where both are there at once the later one may be taken first.
    assert process.returncode in (-signal.SIGTERM, -signal.SIGINT), process.returncode
    sampling = ["--set", "train.sample_every=1", "--set", "train.sample_bytes=1000000000"]
    process = subprocess.Popen([cli.LACE, *map(str, ["train", recipe, "--run", folder / "drawing",
                                                     *sampling])],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (folder / "drawing" / "samples.jsonl").exists():
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 1 and "a checkpoint is saved" in errors, (process.returncode, errors)
    assert len(last_losses(folder / "drawing")) == 1
    assert not (folder / "drawing" / "samples").exists()


def changed_data(folder, recipe, text):
    run = folder / "changed"
    lace("train", recipe, "--run", run)
    again = ["train", recipe, "--run", run, "--resume", "--set", "train.steps=45"]
    before = text.read_bytes()
    text.write_bytes(before + b"more\n" * 100)
    error = lace(*again, code=1).stderr
    assert "train has " in error and "--accept-changed-data" in error, error
    text.write_bytes(b"L" + before[1:])
    error = lace(*again, code=1).stderr
    assert "train has as many bytes, but others" in error, error
    assert "but others" in lace(*again, "--accept-changed-data").stderr
    text.write_bytes(before)
    # The same bytes elsewhere are the same data; another model is another run, and named.
    (folder / "moved").write_bytes(b"L" + before[1:])
    lace("train", "--run", run, "--resume", "--set", f"data.paths=['{folder}/moved']",
         "--set", "train.steps=50")
    error = lace("train", "--run", run, "--resume", "--set", "model.layers=2", code=1).stderr
    assert "[model] `layers = 1` in the run, `layers = 2` asked for" in error, error


def full_disk(folder, recipe):
    """No file may grow past a size: what a full disk is to the program that writes."""
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
    run = folder / "full"
    result = lace("train", recipe, "--run", run, "--set", "train.validate_every=0", code=1,
                  preexec_fn=limited)
    assert f"cannot write {run}/metrics.jsonl" in result.stderr, result.stderr
    assert "trained" not in result.stdout


def damaged(run):
    """Flipped bits are named; weights that are not finite are told of."""
    best = run / "best.safetensors"
    sound = best.read_bytes()
    best.write_bytes(sound[:-2] + bytes([sound[-2] ^ 1]) + sound[-1:])
    for command in (["eval", run], ["sample", run]):
        error = lace(*command, code=1).stderr
        assert f"of {best} is damaged" in error and "there is also last" in error, error
    lace("eval", run, "--checkpoint", "last")
    # A file without checksums, as older versions wrote them, with a NaN.
    length, = struct.unpack("<Q", sound[:8])
    header = json.loads(sound[8:8 + length])
    state = json.loads(header["__metadata__"]["lace"]) | {"format": 1}
    header["__metadata__"] = {"lace": json.dumps(state)}
    begin, _ = header["model.tok"]["data_offsets"]
    data = bytearray(sound[8 + length:])
    for i in range(begin, begin + 4 * 32 * 256, 4):
        data[i:i + 4] = struct.pack("<f", float("nan"))
    text_header = json.dumps(header).encode()
    best.write_bytes(struct.pack("<Q", len(text_header)) + text_header + data)
    result = lace("eval", run, "--json")
    scores = json.loads(result.stdout)
    assert scores["bits_per_byte"] is None and scores["not_finite"] == ["tok"], scores
    assert "warning" in result.stderr and "NaN" in result.stderr, result.stderr
    assert "NaN" in lace("sample", run, "--length", "3").stderr
    (run / "last.json").write_text('{"step": null}')
    assert "last.json is not" in lace("eval", run).stderr
    best.write_bytes(sound)


def wrong_starts(folder, recipe):
    """Folders are no recipes, names are no paths, and a start that fails leaves no run behind."""
    assert f"a directory: {folder}" in lace("model", folder, code=2).stderr
    assert "does not exist" in lace("model", folder / "absent.toml", code=2).stderr
    here = dict(cwd=folder)
    assert "name must be" in lace("train", recipe, "--set", "name='../x'", code=1, **here).stderr
    (folder / "short").write_text("abc")
    lace("train", recipe, "--set", f"data.paths='{folder}/short'", code=1, **here)
    assert not (folder / "runs").exists() and not os.path.exists(folder.parent / "x")
    lace("train", recipe, **here)
    assert (folder / "runs" / "tiny" / "last.json").exists()


def main(folder):
    text = folder / "text"
    text.write_text(cli.TEXT)
    recipe = folder / "tiny.toml"
    recipe.write_text(RECIPE.replace('"text"', f'"{text}"'))
    run = folder / "run"

    estimate = json.loads(lace("train", recipe, "--dry-run", "--json").stdout)
    assert estimate["steps"] == 40 and estimate["parameters"] > 10000, estimate
    assert not run.exists()

    trained = json.loads(lace("train", recipe, "--run", run, "--json").stdout)
    assert trained["finished"] and trained["steps"] == 40, trained
    assert trained["best_validation_bits_per_byte"] < 5, trained
    assert len(last_losses(run)) == 40

    scores = json.loads(lace("eval", run, "--baselines", "--json").stdout)
    assert scores["bytes"] == int(0.05 * text.stat().st_size), scores
    assert 0 < scores["bits_per_byte"] < 5, scores
    markov = [scores["baselines"][f"Markov model of order {k}"] for k in range(4)]
    assert markov == sorted(markov, reverse=True), scores
    assert "this model" in lace("eval", run, "--split", "validation").stdout

    sample = ["sample", run, "--prompt", "line ", "--length", "50", "--seed", "3"]
    first = lace(*sample).stdout
    assert first.startswith("line ") and first == lace(*sample).stdout
    assert lace(*sample[:-1], "4").stdout != first
    drawn = json.loads(lace(*sample, "--json").stdout)
    assert len(drawn["bytes"]) == 50 and first == "line " + drawn["text"] + "\n"
    together = json.loads(lace(*sample, "--count", "3", "--json").stdout)
    texts = [one["text"] for one in together["samples"]]
    assert texts[0] == drawn["text"] and len(set(texts)) == 3, together
    (folder / "prompt").write_bytes(b"\xff\x1bline ")
    from_file = ["sample", run, "--prompt-file", folder / "prompt", "--length", "0"]
    assert lace(*from_file).stdout == "\\xff\\x1bline \n"
    assert lace(*from_file, "--count", "2").stdout.count("of 2\n\\xff\\x1bline \n") == 2

    # Stopped by Ctrl-C, then resumed: the same losses as without the stop.
    stopped = folder / "stopped"
    whole = folder / "whole"
    longer = ["--set", "train.steps=150"]
    lace("train", recipe, "--run", whole, *longer)
    stopped_by_interrupt(recipe, stopped, *longer)
    assert 0 < len(last_losses(stopped)) < 150
    stopped_by_term_then_at_once(folder, recipe)
    lace("train", recipe, "--run", stopped, "--resume", *longer)
    assert last_losses(stopped) == last_losses(whole)

    # Wrong use: 2; failure: 1 and a reason.
    assert "nearest is model.layers" in lace("train", recipe, "--set", "model.layer=2", code=1).stderr
    assert "already holds a run" in lace("train", recipe, "--run", run, code=1).stderr
    assert "recipe.toml" in lace("eval", folder, code=1).stderr
    lace("train", folder / "absent.toml", code=2)
    lace("eval", run, "--split", "all", code=2)
    for command in ("train", "eval", "sample"):
        assert "Examples:" in lace(command, "--help").stdout

    progress_names_the_step_of_a_validation(folder, recipe)
    missing_data(folder, recipe)
    one_at_a_time(folder, recipe)
    changed_data(folder, recipe, text)
    full_disk(folder, recipe)
    damaged(run)
    wrong_starts(folder, recipe)


with tempfile.TemporaryDirectory() as name:
    main(pathlib.Path(name))
