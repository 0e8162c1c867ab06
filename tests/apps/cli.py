"""What the tests of the command line share: the program, and a run to work on."""

import concurrent.futures
import json
import os
import subprocess
import sys

LACE = os.path.abspath(sys.argv.pop(1))
RECIPE = """
name = "tiny"
[model]
seq_len = 64
layers = 1
d_model = 32
heads = 2
patterns = "fixed(8, 2, 2)"
[data]
paths = ["text"]
[train]
batch = 4
steps = 20
"""
TEXT = "".join(f"line {i % 7} of the text\n" for i in range(600))


def lace(*arguments, code=None, **options):
    """Runs `lace …`, which must end with `code` unless that is None; stdout and stderr are captured
    unless options say otherwise."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 100, **options}
    result = subprocess.run([LACE, *arguments], **options)
    assert code in (None, result.returncode), result
    return result


def in_parallel(function, items):
    """[function(item) for each of them]: loading the program is most of a short command's time."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, items))


def prepare(folder):
    """In `folder`: text, tiny.toml, and the trained run `run`."""
    with open(os.path.join(folder, "text"), "w") as file:
        file.write(TEXT)
    with open(os.path.join(folder, "tiny.toml"), "w") as file:
        file.write(RECIPE)
    trained = lace("train", "tiny.toml", "--run", "run", cwd=folder)
    assert trained.returncode == 0, trained.stderr


def parse_json(output):
    """The document; bytes that are no UTF-8, and NaN or Infinity, are none."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(output.decode("utf-8", "strict"), parse_constant=refuse)
