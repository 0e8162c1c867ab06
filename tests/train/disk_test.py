"""lace train on disks that fill up, turn read-only or go away: disk_test.py LACE.

As root each case has a file system of its own (tmpfs); else, or where mounting is not allowed, only
what a limit on the size of files can show is tried.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

import runs

LACE = os.path.abspath(sys.argv[1])
# Checkpoints of about 400 kB, and one at every step.
ENDLESS = ["--set", "train.steps=1000000", "--set", "train.checkpoint_every=2",
           "--set", "train.validate_every=0"]


class Disk:
    """A tmpfs of `size`; mounted while the object is in use."""

    def __init__(self, folder, size):
        self.folder, self.size = folder, size

    def __enter__(self):
        self.folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={self.size}", "tmpfs", self.folder],
                       check=True, capture_output=True)
        return self.folder

    def __exit__(self, *_):
        subprocess.run(["umount", "-l", self.folder], check=False, capture_output=True)


def can_mount(folder):
    try:
        with Disk(folder / "try", "1m"):
            return True
    except (subprocess.CalledProcessError, FileNotFoundError):
        return False


def start(recipe, run):
    """A run in the background that has written two checkpoints."""
    process = subprocess.Popen([LACE, "train", recipe, "--run", run, *ENDLESS],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (run / "previous.safetensors").exists():
        assert process.poll() is None, process.communicate()
    return process


def fails(process):
    """It ends by itself, with an error of lace's own."""
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 1 and "trained" not in output, (process.returncode, errors)
    message = [line for line in errors.splitlines() if line.startswith("lace: ")][-1]
    assert "terminate" not in errors and "Traceback" not in errors, errors
    return message


def sound(recipe, run):
    """Both checkpoints can be read, and the run goes on."""
    runs.lace(LACE, "eval", run, "--checkpoint", "last")
    runs.lace(LACE, "eval", run, "--checkpoint", "previous")
    steps = len(runs.figures(run)) + 4
    runs.lace(LACE, "train", recipe, "--run", run, "--resume", "--set", f"train.steps={steps}",
              "--set", "train.validate_every=0")
    assert [f[0] for f in runs.figures(run)] == list(range(1, steps + 1))


def full(folder, recipe):
    with Disk(folder / "full", "4m") as disk:
        run = disk / "run"
        process = start(recipe, run)
        with open(disk / "filler", "wb", buffering=0) as filler:
            try:
                while filler.write(b"x" * 4096) == 4096:
                    pass
            except OSError:
                pass
        message = fails(process)
        assert "No space left on device" in message and str(run) in message, message
        os.unlink(disk / "filler")
        sound(recipe, run)
    return message


def read_only(folder, recipe):
    with Disk(folder / "read_only", "8m") as disk:
        run = disk / "run"
        process = start(recipe, run)
        # A file that is open for writing holds the file system: a bind mount of it does not.
        subprocess.run(["mount", "--bind", disk, disk], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", disk], check=True)
        message = fails(process)
        assert "Read-only file system" in message or " is gone" in message, message
        assert str(run) in message, message
        subprocess.run(["umount", "-l", disk], check=True)
        sound(recipe, run)
    return message


def vanished(folder, recipe):
    with Disk(folder / "vanished", "8m") as disk:
        process = start(recipe, disk / "run")
        subprocess.run(["umount", "-l", disk], check=True)
        message = fails(process)
        assert f"{disk}/run/" in message and ("is gone" in message or "No such file" in message), message
    return message


def unwritable(folder, recipe):
    """A start where nothing can be written."""
    with Disk(folder / "unwritable", "1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        _, errors = runs.lace(LACE, "train", recipe, "--run", disk / "run", code=1)
        assert "Read-only file system" in errors and str(disk) in errors, errors
    return errors.splitlines()[-1]


with tempfile.TemporaryDirectory() as name:
    top = pathlib.Path(name)
    recipe = runs.prepare(top)
    if not can_mount(top):
        print("skipped: file systems cannot be mounted here")
        sys.exit(77)
    for case in (full, read_only, vanished, unwritable):
        print(f"{case.__name__}: {case(top, recipe)}", flush=True)
