"""lace train, eval and sample as a user runs them: train_test.py LACE."""

import json
import pathlib
import signal
import subprocess
import sys
import tempfile

LACE = sys.argv[1]
RECIPE = """
name = "tiny"
[model]
seq_len = 64
layers = 1
d_model = 32
heads = 2
patterns = "fixed(8, 2, 2)"
[data]
paths = ["{text}"]
[optimizer]
learning_rate = 1e-2
warmup_steps = 5
[train]
batch = 4
steps = 40
validate_every = 20
"""


def lace(*arguments, code=0):
    result = subprocess.run([LACE, *map(str, arguments)], capture_output=True, text=True, timeout=100)
    assert result.returncode == code, (arguments, result.returncode, result.stdout, result.stderr)
    return result


def last_losses(run):
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def main(folder):
    text = folder / "text"
    text.write_text("".join(f"line {i % 7} of the text\n" for i in range(600)))
    recipe = folder / "tiny.toml"
    recipe.write_text(RECIPE.format(text=text))
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

    sample = ["sample", run, "--prompt", "line ", "--length", 50, "--seed", 3]
    first = lace(*sample).stdout
    assert first.startswith("line ") and first == lace(*sample).stdout
    assert lace(*sample[:-1], 4).stdout != first
    drawn = json.loads(lace(*sample, "--json").stdout)
    assert len(drawn["bytes"]) == 50 and first == "line " + drawn["text"] + "\n"

    # Stopped by Ctrl-C, then resumed: the same losses as without the stop.
    stopped = folder / "stopped"
    whole = folder / "whole"
    longer = ["--set", "train.steps=150"]
    lace("train", recipe, "--run", whole, *longer)
    process = subprocess.Popen([LACE, "train", recipe, "--run", stopped, *longer],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while "step 1 " not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 1 and "--resume" in errors, (process.returncode, errors)
    assert len(last_losses(stopped)) < 150
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


with tempfile.TemporaryDirectory() as name:
    main(pathlib.Path(name))
