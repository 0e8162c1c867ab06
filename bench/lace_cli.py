"""Runs the lace program."""

import json
import subprocess


def lace_json(program, words, overrides=()):
    """What `lace WORDS… --json` prints. Throws RuntimeError with lace's message where it fails."""
    command = [program, *words, "--json"]
    for override in overrides:
        command += ["--set", override]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise RuntimeError(f"{program} cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        text = done.stderr[max(0, done.stderr.find("lace: ")):].strip()
        raise RuntimeError(text or f"lace {words[0]} ended with exit code {done.returncode}")
    return json.loads(done.stdout)
