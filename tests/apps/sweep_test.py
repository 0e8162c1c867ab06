"""Every option of every command with values that no one should give it:
python3 sweep_test.py PATH_OF_LACE"""

import os
import re
import subprocess
import tempfile

from cli import in_parallel, lace, prepare

# Each command as it runs, and quickly.
COMMANDS = [
    ["explain", "dense", "--seq-len", "8"],
    ["model", "tiny.toml"],
    ["train", "tiny.toml", "--dry-run"],
    ["eval", "run"],
    ["probe", "run", "--trials", "1"],
    ["attention", "run", "--windows", "1"],
    ["sample", "run", "--length", "3"],
    ["bench", "attention", "--pattern", "dense", "--seq-len", "16", "--rounds", "1"],
    ["bench", "step", "tiny.toml", "--steps", "1"],
    ["bench", "products", "--rows", "8", "--d-model", "8", "--rounds", "1"],
    ["info"],
]
VALUES = ["", "0", "-1", "1.5", "nan", "inf", "1e999", "9" * 25, "x", "~", "=", b"\xff\x1b[0m"]


def options(command):
    """The options of a command that take a value, from its --help."""
    names = command[:2] if command[0] == "bench" else command[:1]
    text = lace(*names, "--help").stdout.decode()
    found = re.findall(r"^  (?:-\w,)?(--[\w-]+) [A-Z]", text, re.MULTILINE)
    assert found or command == ["info"], text
    return found


def without(command, option):
    """The command before `option` is given once more."""
    if option not in command:
        return command
    at = command.index(option)
    return command[:at] + command[at + 2:]


def wrong(arguments):
    """What is wrong with how this call ends, or nothing."""
    try:
        result = lace(*arguments)
    except subprocess.TimeoutExpired as expired:
        return str(expired)
    errors = result.stderr.decode("utf-8", "replace")
    if result.returncode not in (0, 1, 2):
        return f"exit code {result.returncode}: {errors}"
    if b"\x1b" in result.stdout + result.stderr:
        return "a control character reaches the terminal"
    said = re.findall("^lace: ", errors, re.MULTILINE)
    if len(said) != (result.returncode != 0):
        return f"exit code {result.returncode} with {len(said)} errors: {errors}"
    if result.returncode != 0 and result.stdout:
        return "an error and a result"
    if re.search("exception|terminate|Backtrace|frame #", errors):
        return errors
    return None


def main():
    calls = [[*without(command, option), f"{option}={value}" if isinstance(value, str) else
              option.encode() + b"=" + value]
             for command in COMMANDS for option in options(command) for value in VALUES]
    faults = [(call, fault) for call, fault in zip(calls, in_parallel(wrong, calls)) if fault]
    for call, fault in faults:
        print(call, fault, sep="\n  ")
    print(f"{len(calls)} calls, {len(faults)} faults")
    return 1 if faults else 0


with tempfile.TemporaryDirectory() as folder:
    prepare(folder)
    os.chdir(folder)
    os.environ["HOME"] = os.path.join(folder, "home")  # what ~ names is scored
    os.mkdir("home")
    os.link("tiny.toml", "home/text")
    raise SystemExit(main())
