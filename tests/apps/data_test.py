"""What the data of lace train, eval and data show may be, as a user meets it: data_test.py LACE."""

import collections
import functools
import gzip
import json
import lzma
import math
import os
import struct
import subprocess
import tempfile
import zlib

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


def entropy(data):
    counts = collections.Counter(data).values()
    return -sum(n / len(data) * math.log2(n / len(data)) for n in counts)


def text_is_shown(folder):
    """A packed file: sizes, entropy and yardsticks as Python has them; the cache beside the run."""
    with open(os.path.join(folder, b"text.xz"), "wb") as file:
        file.write(lzma.compress(TEXT))
    recipe = os.path.join(folder, b"shown.toml")
    with open(recipe, "wb") as file:
        file.write(RECIPE % b"text.xz")
    show = functools.partial(lace, b"data", b"show", b"shown.toml", cwd=folder)
    shown = json.loads(show(b"--json", b"--windows", b"2").stdout)
    splits, at = {}, 0
    for split, size in ("train", 5130), ("validation", 285), ("test", 285):
        splits[split] = TEXT[at : at + size]
        at += size
    for split, data in splits.items():
        assert shown["splits"][split]["bytes"] == len(data), shown
        assert abs(shown["splits"][split]["entropy_bits"] - entropy(data)) < 1e-9, shown
    sample = shown["sample"]
    assert (sample["split"], sample["bytes"]) == ("test", 285), sample
    assert sample["gzip_bits_per_byte"] == 8 * len(gzip.compress(splits["test"], 9)) / 285, sample
    assert sample["xz_bits_per_byte"] == 8 * len(lzma.compress(splits["test"], preset=9)) / 285, sample
    for window in shown["windows"]:
        assert window["text"].encode() == splits["train"][window["begin"] :][:32], window
    assert len(shown["windows"]) == 2 and shown["picture"] is None, shown
    assert len(os.listdir(os.path.join(folder, b"runs", b".lace-cache"))) == 1
    plain = show().stdout
    assert b"train" in plain and b"5,130" in plain and b"of the text" in plain, plain
    # A run and its evaluation find the same file in the cache.
    lace(b"train", b"shown.toml", cwd=folder)
    lace(b"eval", b"runs/tiny", cwd=folder)
    assert len(os.listdir(os.path.join(folder, b"runs", b".lace-cache"))) == 1
    cut = lzma.compress(TEXT)[:-9]
    with open(os.path.join(folder, b"text.xz"), "wb") as file:
        file.write(cut)
    error = show(code=1).stderr
    assert b"text.xz is cut off: its xz data end at byte %d " % len(cut) in error, error


def png(width, height, pixels):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + pixels[3 * width * y :][: 3 * width] for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
            + chunk(b"IEND", b""))


def images_are_shown(folder):
    """A folder of PNG files becomes a grid, and trains."""
    os.mkdir(os.path.join(folder, b"pictures"))
    for i in range(40):
        with open(os.path.join(folder, b"pictures", b"%d.png" % i), "wb") as file:
            file.write(png(4, 2, bytes((7 * i + j) % 256 for j in range(24))))
    recipe = os.path.join(folder, b"pictures.toml")
    with open(recipe, "wb") as file:
        text = RECIPE % b"pictures"
        for old, new in ((b"seq_len = 32", b"""seq_len = 24
positions = "image"
image_height = 2
image_width = 4
image_channels = 3"""), (b"[data]", b'[data]\nkind = "images"')):
            text = text.replace(old, new)
        file.write(text)
    show = functools.partial(lace, b"data", b"show", b"pictures.toml", cwd=folder)
    shown = json.loads(show(b"--json", b"--windows", b"9", b"--out", b"out").stdout)
    assert shown["kind"] == "images" and shown["record_bytes"] == 24, shown
    assert [shown["splits"][s]["bytes"] // 24 for s in ("train", "validation", "test")] == [36, 2, 2]
    assert all(window["begin"] % 24 == 0 for window in shown["windows"]), shown
    with open(os.path.join(folder, shown["picture"].encode()), "rb") as file:
        picture = file.read()
    assert struct.unpack(">II", picture[16:24]) == (3 * 5 - 1, 3 * 3 - 1), picture[:24]
    assert b"--out DIR" in show().stdout
    lace(b"train", b"pictures.toml", b"--run", b"of_pictures", cwd=folder)
    sample = functools.partial(lace, b"sample", b"of_pictures", cwd=folder)
    sample(b"--count", b"5", b"--out", b"grid.png")
    with open(os.path.join(folder, b"grid.png"), "rb") as file:
        grid = file.read()
    across, down = struct.unpack(">II", grid[16:24])
    assert (across + 1) * (down + 1) // (5 * 3) >= 5, (across, down)
    sample(b"--prompt-file", b"pictures/3.png", b"--out", b"half.png")  # its upper half is kept
    with open(os.path.join(folder, b"half.png"), "rb") as file:
        half = file.read()
    assert struct.unpack(">II", half[16:24]) == (4, 2), half[:24]
    drawn = json.loads(sample(b"--prompt-file", b"pictures/3.png", b"--json").stdout)
    assert len(drawn["bytes"]) == 12, drawn
    error = lace(b"sample", b"of_pictures", code=1, cwd=folder).stderr
    assert b"the run draws images, not text: give --out" in error, error
    error = lace(b"sample", b"of_pictures", b"--length", b"5", b"--out", b"x.png", code=1,
                 cwd=folder).stderr
    assert b"must make an image of 24 bytes, got 0 and 5" in error, error
    assert not os.path.exists(os.path.join(folder, b"x.png"))
    error = lace(b"train", b"pictures.toml", b"--set", b"model.image_height=1", b"--set",
                 b"model.seq_len=12", b"--run", b"none", code=1, cwd=folder).stderr
    assert b"is 4 x 2 pixels, the model's images are 4 x 1" in error, error


with tempfile.TemporaryDirectory() as name:
    root = os.fsencode(name)
    for test in (names_that_are_no_text, what_is_no_file, a_file_that_shrinks, a_huge_file,
                 text_is_shown, images_are_shown):
        test(root)
