"""What the data of lace train and lace eval may be, as a user meets it: data_test.py LACE."""

import functools
import json
import os
import subprocess
import tempfile

import cli

RECIPE = b"""
name = "tiny"
[model]
seq_len = 32
layers = 1
d_model = 16
heads = 2
patterns = "local(8)"
[data]
paths = ["%s"]
[optimizer]
warmup_steps = 1
[train]
batch = 2
steps = 2
validate_every = 0
"""
TEXT = b"".join(b"line %d of the text\n" % (i % 7) for i in range(300))
lace = functools.partial(cli.lace, code=0)


def names_that_are_no_text(folder):
    """Such files train, resume and are scored; they are shown escaped."""
    data = os.path.join(folder, b"caf\xe9\n")
    os.mkdir(data)
    with open(os.path.join(data, b"x\xff"), "wb") as file:
        file.write(TEXT)
    os.mkfifo(os.path.join(data, b"pipe\xfe"))
    recipe = os.path.join(folder, b"tiny\xe8.toml")
    with open(recipe, "wb") as file:  # as messages show it; a backslash is doubled in TOML's quotes
        file.write(RECIPE % data.replace(b"\xe9\n", rb"\\xe9\\x0a"))
    run = os.path.join(folder, b"run\xe7")
    trained = lace(b"train", recipe, b"--run", run, b"--json")
    assert json.loads(trained.stdout)["run"].endswith(r"run\xe7"), trained.stdout
    assert rb"pipes, sockets and devices: 1 (" in trained.stderr, trained.stderr
    assert rb"caf\xe9\x0a/pipe\xfe: a pipe)" in trained.stderr, trained.stderr
    lace(b"train", recipe, b"--run", run, b"--resume", b"--set", b"train.steps=3")
    scored = lace(b"eval", run, b"--split", b"train", b"--baselines", b"--json")
    figures = json.loads(scored.stdout)
    assert figures["training"]["steps"] == 3 and figures["run"].endswith(r"run\xe7"), figures
    assert rb"run\xe7/" in lace(b"eval", run, b"--split", b"validation").stdout
    # Named on the command line, as bytes; the recipe's copy in the run folder finds them again.
    run = os.path.join(folder, b"other")
    lace(b"train", recipe, b"--run", run, b"--set", b"data.paths=" + os.path.join(data, b"x\xff"))
    lace(b"eval", run)
    absent = lace(b"train", recipe, b"--set", b"data.paths=" + data + b"/\xe0", code=1)
    assert rb"no such file or folder: " in absent.stderr and rb"caf\xe9\x0a/\xe0" in absent.stderr


def what_is_no_file(folder):
    """A pipe that is named is an error at once, also one that nobody writes to."""
    pipe = os.path.join(folder, b"pipe")
    os.mkfifo(pipe)
    recipe = os.path.join(folder, b"pipe.toml")
    with open(recipe, "wb") as file:
        file.write(RECIPE % pipe)
    error = lace(b"train", recipe, b"--run", os.path.join(folder, b"none"), code=1).stderr
    assert pipe + b" is a pipe" in error, error


def a_file_that_shrinks(folder):
    """An error that names the file, while the run trains."""
    data = os.path.join(folder, b"shrinking")
    with open(data, "wb") as file:
        file.write(TEXT * 200)
    recipe = os.path.join(folder, b"shrinking.toml")
    with open(recipe, "wb") as file:
        file.write(RECIPE % data)
    process = subprocess.Popen([cli.LACE, b"train", recipe, b"--run", os.path.join(folder, b"shrunk"),
                                b"--set", b"train.steps=1000000"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while b"step 1 " not in process.stderr.readline():
        assert process.poll() is None
    os.truncate(data, 1000)
    _, error = process.communicate(timeout=100)
    assert process.returncode == 1, (process.returncode, error)
    expected = b"shrinking had %d bytes when it was found and has 1000 now" % (len(TEXT) * 200)
    assert expected in error, error


def a_huge_file(folder):
    """200 GB of which nothing but the windows is looked at; the time is shown by `lace train`."""
    data = os.path.join(folder, b"huge")
    with open(data, "wb") as file:
        file.truncate(200_000_000_000)
    recipe = os.path.join(folder, b"huge.toml")
    with open(recipe, "wb") as file:
        file.write(RECIPE % data)
    run = os.path.join(folder, b"of_huge")
    lace(b"train", recipe, b"--run", run, b"--set", b"data.validation_fraction=0",
         b"--set", b"data.test_fraction=0")
    with open(os.path.join(run, b"run.json")) as file:
        assert json.load(file)["bytes"]["train"] == 200_000_000_000


with tempfile.TemporaryDirectory() as name:
    root = os.fsencode(name)
    for test in names_that_are_no_text, what_is_no_file, a_file_that_shrinks, a_huge_file:
        test(root)
