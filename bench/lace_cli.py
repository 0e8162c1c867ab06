"""Runs the lace program."""

import functools
import importlib.util
import json
import os
import pathlib
import subprocess


@functools.cache
def environment(program):
    """Variables for the program: where it does not find its libraries by itself, they are torch's, of
    this python3, and those in lib/debian of its build folder (scripts/gpu-test)."""
    variables = dict(os.environ)
    try:
        if subprocess.run([program, "--version"], capture_output=True).returncode != 127:
            return variables
    except OSError:
        return variables
    folders = [pathlib.Path(program).resolve().parent.parent / "lib" / "debian"]
    torch = importlib.util.find_spec("torch")
    if torch is not None:
        root = pathlib.Path(torch.origin).parent
        folders = [root / "lib", *sorted(root.parent.glob("nvidia/*/lib")), *folders]
    old = variables.get("LD_LIBRARY_PATH")
    variables["LD_LIBRARY_PATH"] = ":".join(
        [str(folder) for folder in folders if folder.is_dir()] + ([old] if old else []))
    return variables


def lace_json(program, words, overrides=(), seconds=None):
    """What `lace WORDS… --json` prints. Throws RuntimeError with lace's message where it fails, and
    subprocess.TimeoutExpired where it has not ended after so many seconds."""
    command = [program, *words, "--json"]
    for override in overrides:
        command += ["--set", override]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds,
                              env=environment(program))
    except OSError as error:
        raise RuntimeError(f"{program} cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        text = done.stderr[max(0, done.stderr.find("lace: ")):].strip()
        raise RuntimeError(text or f"lace {words[0]} ended with exit code {done.returncode}")
    return json.loads(done.stdout)
